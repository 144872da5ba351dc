"""One training loop for SFT and distillation."""
