"""Floor 4: flags, one file per verb, one error boundary."""
