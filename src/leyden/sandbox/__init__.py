"""Run programs that nobody has read: contained, limited, and judged by what they answer."""
