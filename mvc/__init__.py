"""mvc: Git for models that never stop learning."""

__version__ = "0.1.0"
