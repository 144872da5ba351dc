"""Measurements of work as it goes on, kept in plain files."""
