"""A self-contained HTML page about runs and evaluations."""
