"""Shards and commit records: rows of token ids and scores that survive kills and notice damage."""
