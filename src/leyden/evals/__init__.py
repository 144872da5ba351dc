"""Benchmarks, graders and their statistics."""
