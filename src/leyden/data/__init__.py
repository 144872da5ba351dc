"""From prompt files to exact token ids, and from stored rows to batches."""
