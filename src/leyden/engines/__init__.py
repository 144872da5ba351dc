"""Engines sample and score: token ids in, token ids and log-probs out."""
