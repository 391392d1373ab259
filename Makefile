# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(shell find robustad kernels csrc -type f -not -path '*/__pycache__/*' -not -name '*.so')

.PHONY: demo test lint types sanitize unit viewer-engine node-engine doctest bench-check bench develop clean

# The environment with what the main job needs; an editable install would do, but this one is what
# users get.
$(VENV)/demo.stamp: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf build/lib* build/bdist*  # setuptools would ship files that no longer exist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ".[cpu,report]"
	touch $@

# The same with the tools for developing.
$(VENV)/dev.stamp: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf build/lib* build/bdist*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ".[dev]"
	touch $@ $(VENV)/demo.stamp

demo: $(VENV)/demo.stamp
	$(BIN)/robustad demo --out demo_out

test: lint types sanitize unit doctest bench-check

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A tree in which `robustad.kernels` lies where its import name says: type checkers cannot follow
# the mapping in pyproject.toml.
types: $(VENV)/dev.stamp
	rm -rf build/types
	mkdir -p build/types
	cp -r robustad build/types/
	cp -r kernels build/types/robustad/kernels
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p robustad

# The C++ core under the address and undefined-behaviour sanitizers.
sanitize: $(VENV)/dev.stamp
	$(BIN)/python setup.py -q sanitize

# onnxruntime-web for the viewer's tests, which are skipped without it: not everyone has npm.
viewer-engine: build/npm/package-lock.json
build/npm/package-lock.json: robustad/viewer/package-lock.json
	rm -rf build/npm
	mkdir -p build/npm
	cp robustad/viewer/package.json $< build/npm/
	cd build/npm && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 --loglevel=error \
		|| { rm -f package-lock.json; echo "npm could not install onnxruntime-web: the viewer's tests are skipped"; }

# onnxruntime-node for the example in docs/consumers/node, whose tests are skipped without it.
NODE_ENGINE := docs/consumers/node/node_modules
node-engine: $(NODE_ENGINE)/.package-lock.json
$(NODE_ENGINE)/.package-lock.json: docs/consumers/node/package-lock.json
	rm -rf $(NODE_ENGINE)
	cd $(<D) && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 --loglevel=error \
		|| { rm -rf node_modules; echo "npm could not install onnxruntime-node: its tests are skipped"; }

# Bare `pytest`: the tests see the installed package, not the source tree. A process a core: most
# operations are too small for threads. A file stays in one process, as its fixtures are costly.
unit: $(VENV)/dev.stamp viewer-engine node-engine
	$(BIN)/pytest tests -n auto --dist loadfile

doctest: $(VENV)/dev.stamp
	$(BIN)/pytest --doctest-modules --pyargs robustad -n auto

bench-check: $(VENV)/dev.stamp
	$(BIN)/pytest benchmarks --benchmark-disable -m "not slow"

# Times everything on this machine and prints tables of ratios.
bench: $(VENV)/dev.stamp
	mkdir -p build
	$(BIN)/pytest benchmarks --benchmark-json=build/bench.json --benchmark-quiet
	$(BIN)/python benchmarks/render_performance.py build/bench.json

# For working on the code: an editable install and the C++ core built in place.
develop:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"

clean:
	rm -rf $(VENV) build dist *.egg-info demo_out $(NODE_ENGINE) docs/consumers/cpp/build
