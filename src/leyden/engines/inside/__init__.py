"""The programs of an engine's own process, which may have another interpreter and no leyden."""
