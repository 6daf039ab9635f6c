.DEFAULT_GOAL := help
.PHONY: help install check test newest docs bench clean

help:  ## list the chores
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 10

install:  ## install the package with everything that developing needs, into the active environment
	python -m pip install -c constraints.txt -e '.[quickstart,dev]'

check:  ## lint, format and types
	ruff check .
	ruff format --check .
	mypy

test:  ## all tests that need neither the network nor an accelerator
	pytest -n logical

newest:  ## the tests on the newest versions that the bounds admit, in .newest; WITH=torch==2.13.0 holds one
	python -m venv --clear .newest
	.newest/bin/python -m pip install -e '.[quickstart,dev]' $(WITH)
	.newest/bin/python -m pip check
	. .newest/bin/activate && pytest -n logical
	.newest/bin/python -m pip freeze --exclude-editable

docs:  ## write the tables of settings anew, and build the site into site/; warnings are errors
	python docs/settings_table.py
	mkdocs build --strict

bench:  ## measure speed and memory on a quiet machine, about 20 minutes; rewrites benchmarks/README.md
	python benchmarks/run_all.py

clean:  ## remove what the other chores leave behind
	rm -rf build dist site .newest .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './.newest/*' -prune -exec rm -rf {} +
