"""What runs inside the sandbox: the standard library and nothing of ours but these files."""
