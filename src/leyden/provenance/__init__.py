"""What a thing is, by content, and what it was made from. No torch."""
