"""Read a run: its status, costs, warnings and single rows. No model is loaded."""
