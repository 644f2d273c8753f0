# make serve       what somebody who wants tags needs: the environment .venv (without torch), then every endpoint and the page
# make test        the tests, in the environment .venv-dev (everything)
# make check       lint, format, types, the house rules; the same here, in the pre-commit hook and in .ci/run
# make dev         only make .venv-dev; then .venv-dev/bin/convoy trains, exports and evaluates
# make benchmark   Convoy and its peers on the same work (each peer in an environment of its own)
# make page        build the web page (services/page/dist, committed) from its sources; needs node and npm
# make lock        resolve requirements/*.lock again after a change of dependencies in pyproject.toml
# make hooks       run `make check` before every commit

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help serve test check page check-page dev benchmark lock hooks clean FORCE

PORT ?= 3000
HOST ?= 127.0.0.1
ARGS ?=
JOBS ?= 2
UV ?= uv

# What both environments are made with.
define find_python
python=; \
for candidate in $${PYTHON:-} python3.11 python3 python; do \
  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
done; \
if [ -z "$$python" ]; then \
  echo "error: Convoy needs Python 3.11, and neither python3.11 nor python3 here is one." >&2; \
  echo "Install it (Debian, Ubuntu: apt install python3.11 python3.11-venv; others: python.org), or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
  exit 1; \
fi; \
if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
  echo "error: $$python cannot make environments: its venv module is missing (Debian, Ubuntu: apt install python3.11-venv)." >&2; \
  exit 1; \
fi
endef

PIP = bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input

help:
	@sed -n 's/^# //p;/^$$/q' Makefile

serve: .venv/.convoy
	@exec .venv/bin/convoy serve --port $(PORT) --host $(HOST) $(ARGS)

dev: .venv-dev/.convoy

# A file's tests stay in one process: they share servers.
test: dev
	.venv-dev/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: dev
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy
	.venv-dev/bin/python -m pytest -q tests/test_architecture.py tests/test_requirements.py tests/services/test_page_files.py
	@$(MAKE) --no-print-directory check-page

# The stamp is a copy of the lock that was installed, as for the environments below.
page_packages = if ! cmp -s package-lock.json node_modules/.lock; then npm ci --no-progress && cp package-lock.json node_modules/.lock; fi

page:
	cd services/page; $(page_packages); npm run --silent build

# Where there is no node, or its packages cannot be had, the digests that the tests compare must do.
check-page:
	@cd services/page; \
	if ! command -v npm >/dev/null; then echo "no npm: the page is not built again, only its digests were compared"; \
	elif ! { $(page_packages); } >/dev/null 2>&1; then echo "npm ci failed: the page is not built again, only its digests were compared"; \
	else npm run --silent check && echo "the page is what its sources build"; fi

benchmark:
	bash benchmarks/run $(ARGS)

hooks: dev
	.venv-dev/bin/pre-commit install

.venv/.requirements: lock = requirements/base.lock
.venv-dev/.requirements: lock = requirements/dev.lock

# The stamp is a copy of the lock that was installed: a checkout changes dates, not contents. An environment is made anew
# whenever its lock changes: one that was updated in place keeps what the lock dropped.
.venv/.requirements .venv-dev/.requirements: FORCE
	@if cmp -s $(lock) $@; then exit 0; fi; \
	$(find_python); \
	echo "Making $(@D) with $$("$$python" --version) from $(lock) (once; some minutes at most) …"; \
	"$$python" -m venv --clear $(@D); \
	$(@D)/$(PIP) install --require-hashes -r $(lock); \
	cp $(lock) $@

FORCE:

%/.convoy: %/.requirements pyproject.toml
	@$*/$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The developers' environment is held to the versions that serving uses.
lock:
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --quiet --group build \
	  --python-version 3.11 --generate-hashes --no-emit-index-url -o requirements/base.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --quiet --group build --all-extras -c requirements/base.lock \
	  --python-version 3.11 --generate-hashes --no-emit-index-url -o requirements/dev.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --quiet --group build --extra batch -c requirements/dev.lock \
	  --python-version 3.11 --generate-hashes --no-emit-index-url -o requirements/batch.lock

clean:
	rm -rf .venv .venv-dev build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
