"""Identity by content, and records of what each artifact was made from. No torch."""
