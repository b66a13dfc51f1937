"""Floor 3: `mvc watch`, built from ops as a script of a user would be. Never prints or asks."""
