"""Floor 1: git, DVC, files and locks. The only importer of git and dvc."""
