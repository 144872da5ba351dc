"""What a run says of itself: status, costs, diagnosis, single rows. No model is loaded."""
