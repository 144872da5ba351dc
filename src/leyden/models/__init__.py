"""Load a causal language model and take it apart: the room that knows Transformers' insides."""
