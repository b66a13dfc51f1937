"""Floor 3: looks, with rich. Sees floor 0 only."""
