# The whole life of a checkout. Needs python3 (3.10 or later) with venv, and make.

PYTHON ?= python3
ARGS ?=
BIN = .venv/bin
READY = .venv/.ready
JUDGES = .venv-readers

.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check soak readers crash windows bench bench-gpu completions schemas clean

help:
	@echo "make demo         build a small voice in ./demo and run gsvckpt on it"
	@echo "make test         run the tests on all cores (ARGS='-k inspect' passes options to pytest)"
	@echo "make check        format, lint, types and tests: everything CI asks for"
	@echo "make soak         run the long tests whole, with a new seed, and put their figures into docs/reliability.md"
	@echo "make readers      let GSV-TTS-Lite and Genie-TTS load all that gsvckpt writes, and put what they find into docs/fidelity.md"
	@echo "make crash        kill a trainer at every step of its saves, resume it, and put what happens into docs/resume.md"
	@echo "make windows      run gsvckpt with a real Windows Python, in wine, and compare it with this system's"
	@echo "make bench        measure speed and memory against what one would run instead (ARGS='--list')"
	@echo "make bench-gpu    measure what a GPU is good for, where there is one"
	@echo "make completions  write completions/ anew, after commands or options changed"
	@echo "make schemas      write docs/json/ anew, after a result got another key"
	@echo "make clean        remove everything that make made"

setup: $(READY)

demo: $(READY)
	@$(BIN)/python -m tests.demo

test: $(READY)
	$(BIN)/pytest -n auto $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

soak: $(READY)
	@$(BIN)/python -m tests.soak $(ARGS)

readers: $(JUDGES)/.ready
	@$(JUDGES)/bin/python -m tests.runtimes $(ARGS)

crash: $(JUDGES)/.ready
	@$(JUDGES)/bin/python -m tests.crash $(ARGS)

windows: $(READY)
	@$(BIN)/python -m tests.windows $(ARGS)

bench: $(READY)
	@$(BIN)/python -m pip install -qq --group bench
	@$(BIN)/python -m tests.bench $(ARGS)

bench-gpu: $(READY)
	@$(BIN)/python -m tests.bench.accelerator $(ARGS)

completions: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" completions/generate completions

schemas: $(READY)
	@$(BIN)/python -m tests.schemas

clean:
	rm -rf .venv $(JUDGES) build dist demo .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find gsvckpt tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and with an exact pin, so that all runs use the same one. Where pip finds a build for the CPU it takes that; from elsewhere the
# same version may bring CUDA libraries, which nothing here needs.
# pip is renewed because `--group` is younger than the pip that many Pythons bring.
$(READY): pyproject.toml
	@echo "setting up .venv (once, about a minute)"
	@$(PYTHON) -m venv .venv || { echo "python3 has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install -qq --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install -qq torch==2.13.0
	@$(BIN)/python -m pip install -qq --editable . --group dev
	@touch $@

# The judges' own versions of onnxruntime and protobuf stay away from everything else. Where they cannot be had, one line says so.
$(JUDGES)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	    { echo "make readers and make crash need Python 3.11, which $(PYTHON) is not: make readers PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up $(JUDGES) (once, about a minute)"
	@mkdir -p $(JUDGES)
	@{ $(PYTHON) -m venv $(JUDGES) && \
	    $(JUDGES)/bin/python -m pip install -qq --upgrade "pip>=25.1" && \
	    $(JUDGES)/bin/python -m pip install -qq torch==2.13.0 && \
	    $(JUDGES)/bin/python -m pip install -qq --editable . --group readers && \
	    $(JUDGES)/bin/python -m pip install -qq --no-deps --group readers-alone; \
	} 2>$(JUDGES)/errors || { echo "what make readers and make crash need cannot be installed: $$(tail -n 1 $(JUDGES)/errors)" >&2; exit 1; }
	@touch $@
