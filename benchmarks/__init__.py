"""Programs that measure mvc beside what a user would do instead; README.md has the table."""
