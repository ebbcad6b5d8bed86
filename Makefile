# make: check and test. make test sets up pytest by itself where it is missing.
PYTHON ?= python3
ifneq ($(shell $(PYTHON) -c 'import pytest' 2>/dev/null; echo $$?),0)
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
RUN := $(VENV)/bin/python
else
RUN := $(PYTHON)
endif

all: check test

check:
	$(PYTHON) -W error -c "import ast; ast.parse(__import__('pathlib').Path('sandlock.py').read_text(), feature_version=(3, 8))"
	$(PYTHON) sandlock.py check

test: $(VENV)
	$(RUN) -m pytest -q -ra -p no:cacheprovider tests $(ARGS)

# Every CPython from 3.8 on that pyenv or the system has; by root, as an ordinary user too.
test-all:
	set -e; for py in $(wildcard $(HOME)/.pyenv/versions/3.[89]*/bin/python3 \
	  $(HOME)/.pyenv/versions/3.1[0-9]*/bin/python3) /usr/bin/python3; do \
	  echo "== $$py"; $(MAKE) test PYTHON=$$py; \
	  [ $$(id -u) != 0 ] || { echo "== $$py as a user"; tests/as_user.sh $$py $(ARGS); }; done

bench:
	$(PYTHON) tests/bench.py $(ARGS)

$(VENV):
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip -q install pytest || { rm -rf $(VENV); exit 1; }

.PHONY: all check test test-all bench
