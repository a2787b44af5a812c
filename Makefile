# `make test` needs Python 3.11 or later, pip and this machine's package manager; it sets the rest up itself.
# `make help` lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
UV     := .cache/lock/bin/uv

# Behaviour of a live machine varies: one green run proves little, three in a row much more.
REPEAT ?= 3

# Tests side by side: as many as the machine bears (tests/conftest.py); JOBS=0 runs one after the other.
JOBS ?= auto
SIDE_BY_SIDE = -n $(JOBS) --dist loadgroup

# Beside others a test may wait in vain for a process that got no time. So what failed is run once more with the
# machine to itself, and fails the whole only if it fails again; both are in the output. (1: tests failed.)
ALONE = status=$$?; test $$status = 1 || exit $$status; \
	echo; echo "What failed beside others, once more and alone:"; \
	$(PYTEST) tests -n 0 --repeat $(REPEAT) --last-failed --last-failed-no-failures none --maxfail 1

# What the benchmarks by themselves would do, 1000 trials a mode and 1000000 ticks, takes two hours and a half.
TRIALS ?= 200
TICKS  ?= 300000

# How often each is told in `make soak`.
SOAK ?= 20

# A bed's client may run for 5 minutes, a benchmark for 7, and the beds are built within the first test that asks.
SOAK_TIMEOUT_SECONDS := 1800

.DEFAULT_GOAL := help
.PHONY: help demo docs setup test test-unit test-scenarios test-integration test-real test-smallhost test-docker \
	test-litellm test-vm bench soak check format install uninstall deb lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: $(VENV)/.runnable ## the guard at work on a fake Ollama: a minute, no root, no Ollama, nothing left behind but its trace
	@$(BIN)/ollama-guard demo

test: setup ## every tier that can run here, the numbered promises three times; says which can't and why
	@$(PYTEST) tests $(SIDE_BY_SIDE) --repeat $(REPEAT) --durations 10 || { $(ALONE); }

test-unit: setup ## pure functions and small parts
	$(PYTEST) tests/unit $(SIDE_BY_SIDE)

test-scenarios: setup ## whole stories told to the brain
	$(PYTEST) tests/scenarios $(SIDE_BY_SIDE)

test-integration: setup ## the programs against the fake Ollama
	$(PYTEST) tests/integration $(SIDE_BY_SIDE)

test-real: setup ## against a real Ollama (downloads 200 MB and takes 3.1 GB of disk the first time)
	$(PYTEST) tests/real $(SIDE_BY_SIDE) --repeat $(REPEAT)

test-smallhost: setup ## on a whole small machine in a cgroup (root)
	$(PYTEST) tests/smallhost $(SIDE_BY_SIDE) --repeat $(REPEAT)

test-docker: setup ## against a Docker engine of its own (root; installs docker.io where it is missing)
	$(PYTEST) tests/docker $(SIDE_BY_SIDE)

test-litellm: setup ## in a real LiteLLM proxy (760 MB of disk the first time, 1 GB of memory)
	$(PYTEST) tests/litellm -n 0 -v

test-vm: setup ## the .deb on a whole emulated machine with systemd (root, qemu; half an hour)
	$(PYTEST) tests/vm -n 0 -v -s

# Each runs also when one before it missed a budget; the last line says which did.
bench: setup ## every benchmark, each with its control (root, an idle machine, 50 minutes)
	@echo "with $(TRIALS) trials and $(TICKS) ticks: minutes for small_host 14, kill_latency 17, unload_latency 8,"
	@echo "bytes_back 3, cost 4, growth 5; in all 51"
	@missed=; for each in small_host "kill_latency --trials $(TRIALS)" "unload_latency --trials $(TRIALS)" \
	  "bytes_back --trials 10" "cost --seconds 30" "growth --ticks $(TICKS)"; do \
	  echo; echo "## $$each"; $(BIN)/python -m benchmarks.$$each || missed="$$missed $${each%% *}"; \
	done; echo; echo "missed a budget:$${missed:- none}"; test -z "$$missed"

# What takes times has the machine to itself, once; then the numbered promises are repeated, side by side.
soak: setup ## the promises in their long form, 20 times, with clients of 5 minutes: two hours on an idle machine
	@failed=; \
	$(PYTEST) tests -n 0 -m soak --soak --timeout $(SOAK_TIMEOUT_SECONDS) || failed="$$failed alone"; \
	$(PYTEST) tests -n $(JOBS) --dist load --maxschedchunk 1 --repeat $(SOAK) -m "story and not soak" --soak \
	  --timeout $(SOAK_TIMEOUT_SECONDS) || failed="$$failed repeated"; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

check: setup ## format, lint, types, import rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests/beds tests/conftest.py
	$(BIN)/lint-imports

docs: setup ## write what is made from the code: the shipped configuration, its reference, the man pages
	$(BIN)/python -m docs.generate

format: setup ## let ruff rewrite the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/.package ## the virtual environment, from the locked requirements

$(VENV)/.python: | Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=…"; exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing python3-venv"; apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; \
	  else echo "$(PYTHON) can't make virtual environments. As root: apt-get install python3-venv"; exit 1; fi; fi
	@echo "making $(VENV), once: a few seconds"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# sdnotify comes as source only: what builds it must be there first, hence a lock of its own. What runs comes
# before what tests, so that `make demo` on a fresh machine takes half the time of `make setup`.
$(VENV)/.runtime: requirements/build.lock requirements/runtime.lock | $(VENV)/.python
	@echo "installing what the guard needs into $(VENV), once: about 10 seconds"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/build.lock
	@$(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation -r requirements/runtime.lock
	@touch $@

$(VENV)/.runnable: pyproject.toml $(VENV)/.runtime
	@echo "installing the guard itself: a few seconds"
	@$(BIN)/python -m pip install --quiet --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(VENV)/.locked: requirements/dev.lock $(VENV)/.runtime
	@echo "installing what tests and checks need, once: about 20 seconds"
	@$(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation -r requirements/dev.lock
	@touch $@

$(VENV)/.package: $(VENV)/.runnable $(VENV)/.locked
	@touch $@

# Universal: one lock for every Python and platform, and no address of an index or a folder of this machine.
# What is heavy has a lock of its own, so that only who needs it downloads it.
COMPILE = env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL $(UV) pip compile --quiet --no-config \
	--universal --python-version 3.11 --generate-hashes $(UPGRADE) --no-header --no-annotate
lock: $(UV) ## make the locked requirements anew; UPGRADE=--upgrade takes the newest versions
	$(COMPILE) pyproject.toml --group dev --group build -o requirements/dev.lock
	$(COMPILE) --group build -c requirements/dev.lock -o requirements/build.lock
	$(COMPILE) pyproject.toml -c requirements/dev.lock -o requirements/runtime.lock
	$(COMPILE) pyproject.toml --extra plot -c requirements/dev.lock -o requirements/plot.lock
	$(COMPILE) --group litellm -o requirements/litellm.lock
	@! grep -n -e '://' -e find-links -e index-url requirements/*.lock

$(UV):
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/pip install --quiet uv

# The guard's user has to reach the interpreter, so it is the system's own where that is new enough.
INSTALL_PYTHON ?= $(shell /usr/bin/python3 -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo /usr/bin/python3 || echo $(PYTHON))
PREFIX ?= /usr
install: setup build/completions ## as a service: files below PREFIX (/usr), the program in /opt/ollama-guard; DESTDIR stages it
	@sh packaging/make-wheels $(CURDIR)/build/wheels \
	  $$($(INSTALL_PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	@PYTHON=$(INSTALL_PYTHON) sh packaging/make-venv $(CURDIR)/build/wheels /opt/ollama-guard $(DESTDIR)
	@sh packaging/files install "$(DESTDIR)" "$(PREFIX)"
	@test -n "$(DESTDIR)" || sh packaging/activate "$(PREFIX)"

uninstall: ## the reverse; configuration and state stay, unless PURGE=1
	@test -n "$(DESTDIR)" || sh packaging/leave
	@sh packaging/files remove "$(DESTDIR)" "$(PREFIX)"
	@rm -rf "$(DESTDIR)/opt/ollama-guard"
	@test -n "$(DESTDIR)" || sh packaging/left $(if $(PURGE),purge,remove)

deb: setup build/completions ## dist/ollama-guard_….deb, which needs no network where it is installed
	@sh packaging/debian/build
	@ls dist/*.deb

build/completions: $(VENV)/.runnable src/ollama_guard/cli/completion.py
	@mkdir -p $@
	@for shell in bash zsh fish; do \
	  _OLLAMA_GUARD_COMPLETE=source_$$shell $(BIN)/ollama-guard | sed '/./,$$!d' >$@/$$shell || exit 1; done

clean: ## remove what the targets made here (not the cache of the real Ollama: ~/.cache/ollama-guard)
	rm -rf $(VENV) .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
