# Benches: `make bench` measures everything, `make bench-quick` short versions of most of it.

PLAIN := bench/out/plain
PLAIN_STAMP := $(PLAIN)/.installed

.PHONY: bench
bench: setup ## measure everything (10 minutes): ratios to baselines of the same run
	@$(MAKE) -s bench-plain || true
	@$(BIN)/python -m bench

.PHONY: bench-quick
bench-quick: setup ## short versions (a minute): whether anything is far off
	@$(MAKE) -s bench-plain || true
	@$(BIN)/python -m bench --quick

# Without them (no registry to be reached) the other parts are measured all the same.
# Quix Streams conflicts with Lucid's own requirements.
.PHONY: bench-plain
bench-plain: $(PLAIN_STAMP)

$(PLAIN_STAMP): bench/plain/requirements.lock
	@echo "Installing Quix Streams and FastStream into $(PLAIN), for the bench alone"
	@$(PYTHON) -m venv $(PLAIN)
	@$(PLAIN)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $<
	@touch $@

.PHONY: bench-plain-lock
bench-plain-lock: $(STAMP) ## make bench/plain/requirements.lock anew
	@$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --allow-unsafe \
		--strip-extras bench/plain/requirements.in -o bench/plain/requirements.lock
