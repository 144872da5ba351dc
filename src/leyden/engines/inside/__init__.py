"""What runs inside an engine's own process: it may have another interpreter, and no leyden."""
