"""What a run is asked to do: closed, frozen sections, read from TOML. No torch."""
