.PHONY: check test format

check:            # all that CI runs, in a fresh environment
	.ci/run

test:             # the quick tests, here
	pytest

format:
	ruff check --fix . && ruff format .
