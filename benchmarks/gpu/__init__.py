"""What needs a GPU: one program for a whole session on one; README.md says how and what for."""
