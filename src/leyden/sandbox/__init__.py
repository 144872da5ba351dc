"""Run programs that nobody has read, contained and limited, and report how they ended."""
