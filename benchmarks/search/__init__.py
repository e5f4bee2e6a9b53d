"""Search methods replayed on measured learning curves: `python -m benchmarks.search --help`."""
