# make demo, make test: each sets up .venv first. make cue: what reads specs in CUE, with npm, into .venv, too.

PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test check benchmark cue generate clean

demo: .venv/demo
	$(BIN)/python -m examples.demo

test: .venv/test
	$(BIN)/python -m pytest

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m templates.generate --check

benchmark: .venv/benchmark
	$(BIN)/python -m benchmarks.export

cue: .venv/cue

generate: .venv/test
	$(BIN)/python -m templates.generate

clean:
	rm -rf .venv out

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

# One stamp per extra: a change of versions installs anew, nothing else does.
.venv/demo: .venv/python setup.py constraints.txt
	$(PIP) install -c constraints.txt -e '.[demo]'
	touch $@

.venv/test: .venv/python setup.py constraints.txt
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[demo,gcp,test]'
	touch $@

.venv/benchmark: .venv/test
	$(PIP) install -c constraints.txt -e '.[benchmark]'
	touch $@

# Where beam_volumes/builder/cue.py looks for it.
.venv/cue: .venv/python package.json package-lock.json
	cp package.json package-lock.json .venv/lib/
	npm ci --prefix .venv/lib --no-audit --no-fund --loglevel=error
	touch $@
