"""Limits of log-probs that a model can give."""

ROUNDING = 1e-4  # nats by which a log-prob may exceed zero
MASS_TOLERANCE = 1e-3  # of the k probabilities and their rest, from float32 rounding
CERTAIN = 1e-3  # nats; a model whose log-prob is exactly 0 has an entropy far below this
CERTAIN_TOKENS = 4  # where nothing tells how certain it was, fewer exact zeros are not doubted
