"""Floor 2: what each command means, one verb a file. Returns types; never prints or asks."""
