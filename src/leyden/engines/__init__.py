"""Who samples and scores. Ids in, ids and log-probs out."""
