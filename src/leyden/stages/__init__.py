"""The six stages and the rendering of prompts before them: each a function from disk to disk."""
