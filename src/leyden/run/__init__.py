"""A run on disk: its paths, its stages, and what their records say. No torch."""
