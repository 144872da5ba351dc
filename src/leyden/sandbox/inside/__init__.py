"""The code inside the sandbox. It imports the standard library and its neighbours alone."""
