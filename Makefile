# Everything a clone needs is Python 3.11 and make: `make setup` brings uv, and uv brings the rest, into this folder.
# Another interpreter: make PYTHON=python3.12 …

PYTHON ?= $(shell command -v python3.11 2>/dev/null || command -v python3 2>/dev/null || echo python3)

# As many processes run tests at a time, each with a Postgres of its own. One more than CI has cores: a test waits for a part of its time.
PROCESSES ?= 3

# What is reduced under `make test`, and whole under `make chaos`.
LONG_FORMS := tests/chaos tests/integration/queue/conformance/test_model.py \
              tests/integration/gateway/test_tenants_apart.py tests/integration/gateway/edge/credentials/test_keys.py \
              tests/integration/test_log_readers.py tests/polyglot/test_grpcurl.py tests/polyglot/test_otelcol.py \
              tests/polyglot/test_trace_consumers.py

UV       := .tools/uv/bin/uv
BIN      := .venv/bin
# Inside .venv, so that a removed environment takes its stamp along.
READY    := .venv/.rowcall-ready
MANIFESTS := pyproject.toml uv.lock $(wildcard libs/*/pyproject.toml services/*/pyproject.toml examples/*/pyproject.toml) \
             tools/protoc/pyproject.toml tools/protoc/uv.lock

# This project's environment, whichever one is active in the shell; the interpreter that was asked for, never a download.
unexport VIRTUAL_ENV
unexport UV_PROJECT_ENVIRONMENT
export UV_PYTHON := $(PYTHON)
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
# Images of containers set it. Without what is compiled once, each process of ours that starts compiles 800 modules: 2.4 s of a
# processor instead of 0.9, some hundred times in a run of the tests.
unexport PYTHONDONTWRITEBYTECODE
# Behind a proxy with an authority of its own the machine trusts it and uv's built-in list does not; a machine without a
# list of its own (slim images) goes by uv's.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/ssl/cert.pem /etc/pki/tls/certs/ca-bundle.crt),)
export UV_SYSTEM_CERTS ?= true
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test proofs test-postgres check check-list lint format generate picture lock chaos guards test-long bench bench-long clean

help: ## This list
	@echo "Rowcall: a typed gRPC call, kept as a Postgres row until it is answered."
	@echo
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "After setup the commands are in $(BIN): $(BIN)/rowcall --help, or, where uv is on PATH, uv run rowcall --help."

setup: $(READY) ## Install everything into this folder (.tools and .venv); instant when nothing changed

demo: setup ## The main job on real input, start to end
	@$(BIN)/rowcall demo $(if $(DOCS),--docs "$(DOCS)")

dev: setup ## The whole system in one process on 127.0.0.1:50051, until Ctrl-C
	@$(BIN)/rowcall dev --listen 127.0.0.1:50051 --data-dir .rowcall/dev --shards 2

# Not by their numbers of tests, as xdist would have it: a file of one long test would come last, and leave the other process idle.
test: setup ## All tests but the benchmarks, on a real Postgres of their own
	@$(BIN)/pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder -m "not bench and not proofs" $(ARGS)

test-%: setup ## One kind of tests: make test-unit, test-contract, test-integration, test-polyglot, test-chaos
	@$(BIN)/pytest -m "$*" $(ARGS)

test-postgres: setup ## Tests on Postgres 15, 16, 18, without hints, through PgBouncer: 40 minutes; ONLY=name runs one
	@$(BIN)/python -m tools.postgres_suite $(if $(ONLY),--only $(ONLY)) $(if $(ARGS),-- $(ARGS))

chaos: setup ## The tests that break things, in their long form: an hour
	@ROWCALL_CHAOS=long $(BIN)/pytest $(LONG_FORMS) -s $(ARGS)

proofs: setup ## Fairness, held snapshots, a day dropped: figures into build/proofs.json (45 min; ONLY=fairness, snapshot, size or finished)
	@$(BIN)/pytest -m proofs -s $(if $(ONLY),tests/proofs/test_$(ONLY).py) $(ARGS)

guards: setup ## Take out each guard in turn and see its tests fail, in a copy: an hour or two; ONLY=text for some, ARGS="--after 'NAME'" goes on behind one
	@$(BIN)/python -m tools.guards $(if $(ONLY),--only "$(ONLY)") $(ARGS)

test-long: setup ## What make test has reduced, whole: chaos, proofs, guards, test-postgres; three hours; ONLY=name,name for some
	@$(BIN)/python -m tools.long_forms $(if $(ONLY),--only $(ONLY))

bench: setup ## Limits, other queues and ourselves, in turn: 25 minutes; ONLY=name,name runs some, into build/bench.json and .svg
	@$(UV) sync --quiet --frozen --all-packages --group bench
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY)) $(ARGS)

bench-long: setup ## The benchmarks that take long: upkeep, history, snapshot, held, tail, overload, actions, bounded, cost, telemetry; two hours and a half
	@$(UV) sync --quiet --frozen --all-packages --group bench
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY),--long) $(ARGS)

check: setup ## Every check of the source; make check-NAME runs one, make check-list names them
	@$(BIN)/python tools/check.py

check-list: setup
	@$(BIN)/python tools/check.py --list

check-%: setup
	@$(BIN)/python tools/check.py --only $*

lint: setup ## The quick checks: ruff, mypy, imports, protos
	@$(BIN)/python tools/check.py --only ruff --only format --only mypy --only imports --only proto-lint

format: setup ## Format the Python and the protos
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format
	@$(BIN)/buf format --write --path protos/rowcall --path examples/documents/protos/documents

picture: setup ## Draw docs/trace.svg: the documents example as rowcall trace shows it
	@$(BIN)/python -m tools.trace_picture

generate: setup ## Generate the checked-in Python from the protos, the dashboards, and the schema of log lines
	@$(BIN)/python tools/generate.py
	@$(BIN)/python -m tools.dashboards
	@$(BIN)/python -m tools.log_schema

lock: $(UV) ## Resolve uv.lock again after a change of dependencies
	@$(UV) lock

clean: ## Remove what setup and the tools made
	rm -rf .venv .tools tools/protoc/.venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): $(UV) $(MANIFESTS)
	@echo "setup: installing the workspace into .venv"
	@$(UV) sync --quiet --frozen --all-packages
	@$(UV) sync --quiet --frozen --project tools/protoc
	@touch $@

# A uv of our own, at the version that wrote uv.lock: nothing on the machine is used or changed. Debian's Python comes
# without venv, so pip alone is the second way.
$(UV): tools/uv-requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "setup: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setup: installing uv into .tools"
	@rm -rf .tools/uv && mkdir -p .tools
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		$(PYTHON) -m venv .tools/uv && \
		.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<; \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .tools/uv --requirement $<; \
	else \
		echo "setup: $(PYTHON) has neither venv nor pip; install one (Debian: apt install python3-venv)" >&2; exit 1; \
	fi || { rm -rf .tools/uv; echo "setup: uv could not be installed" >&2; exit 1; }
	@touch $@
