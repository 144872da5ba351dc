"""Recipes: all settings of a run in closed, frozen sections, read from TOML. No torch."""
