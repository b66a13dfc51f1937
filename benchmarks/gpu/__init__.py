"""What needs a GPU: `python -m benchmarks.gpu.session` is a whole session on one."""
