"""Do a run's jobs in order: skip, refuse, launch, verify."""
