# `make demo` and `make test` install first; PYTHON, VENV and DATA can be set on the command line.
PYTHON ?= python3
VENV ?= .venv
ONEHEAD = $(VENV)/bin/onehead
DEMO = output/demo
DATA ?= data

.PHONY: install demo test test-install soak check bench bench-quick results export clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(VENV)/installed

# The whole chain on synthetic images; ends with the drop check.
demo: install
	$(ONEHEAD) prepare-data --source synthetic --data data/demo --sizes 120,40,40 --image-size 192 --overwrite
	$(ONEHEAD) train-teacher --task all --config configs/demo.yaml
	$(ONEHEAD) train-unified --config configs/demo.yaml
	$(ONEHEAD) profile --config configs/demo.yaml --checkpoint $(DEMO)/all_best.pth
	$(ONEHEAD) predict data/demo/mini_coco_det/test data/demo/mini_voc_seg/test/JPEGImages --config configs/demo.yaml
	$(ONEHEAD) evaluate --config configs/demo.yaml --split val,test

test: install
	$(VENV)/bin/python -m pytest -m "not install and not benchmark"

# Every benchmark runs, for a moment and without a verdict, and so do the scripts that train for hours; `make bench` is the
# long way.
bench-quick: install
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup -m benchmark tests/benchmarks

# What installs or downloads stands in tests/install: the wheel in an environment of its own, run from an empty folder.
test-install: install
	$(VENV)/bin/python -m pytest -n 0 -m install tests/install

# The long versions of the tests of stopped and killed runs; writes docs/SOAK.md.
soak: install
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/soak.py

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python tests/rooms.py
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --platform win32 --cache-dir .mypy_cache/win32

# Speed and memory as ratios. Not here: what trains for hours (ablation, specialists, results), what `make soak` runs,
# what packs the student (ship) or writes a page or picture of docs/, and what reads kept results or prepared data.
NO_BENCH = $(addprefix benchmarks/,common.py ablation.py specialists.py flat_memory.py results.py results_page.py \
	keep_last.py pooling.py ship.py deploy_page.py door_picture.py fields_page.py)
bench: install
	for script in $(filter-out $(NO_BENCH),$(wildcard benchmarks/*.py)); do $(VENV)/bin/python $$script || exit 1; done

# The final recipes over three seeds, from teachers to docs/RESULTS.md: hours; what is kept already is not done again.
results: install
	$(VENV)/bin/python benchmarks/results.py --config configs/lite-long.yaml --data $(DATA) --seeds 0,1,2
	$(VENV)/bin/python benchmarks/results_page.py --config configs/lite-long.yaml --seeds 0,1,2

# The shipped student as files for a device. int8 is calibrated on data of its classes, where they are.
SHIPPED = --checkpoint onehead_cli/checkpoint/shipped/student.safetensors
export: install
	$(ONEHEAD) export $(SHIPPED) --output output/student.onnx --runner --data $(DATA)
	$(ONEHEAD) export $(SHIPPED) --output output/student-float16.onnx --weights float16 --data $(DATA)
	@if [ -d $(DATA)/imagenette-160 ]; then \
		$(ONEHEAD) export $(SHIPPED) --output output/student-int8.onnx --int8 --data $(DATA); \
	else echo "no int8: it is calibrated on the data of prepare-data"; fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
