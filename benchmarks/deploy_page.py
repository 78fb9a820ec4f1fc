"""Measures the exported files of the shipped student and writes docs/deploy.md.

    python benchmarks/deploy_page.py --data data

Scores are on val and test together, latency is the shortest of many passes on one thread, from an image in memory to
class, boxes and a mask of the input's size; all variants take turns. OpenVINO is measured where it is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import interleaved_minima

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint
from onehead_cli.checkpoint.exported import ExportedNetwork, FileRunner, load_exported
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.config.load import load_config
from onehead_cli.config.sections import Config
from onehead_cli.data.geometry import Fit
from onehead_cli.data.listings import Listings
from onehead_cli.evaluation.measurer import Measurer
from onehead_cli.events import SILENT
from onehead_cli.export.build import build_file, readings_of
from onehead_cli.export.data import ExportData
from onehead_cli.files.atomic import write_atomically
from onehead_cli.network.runner import TorchRunner
from onehead_cli.prediction.predictor import Predictor
from onehead_cli.runtime.compute import has_bf16, processor_name
from onehead_cli.tasks.detection.exported import NMS_INPUT
from onehead_cli.tasks.task import get_task

PAGE = Path(__file__).parent.parent / "docs" / "deploy.md"
SIDES = (None, 512)
NUMBERS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Variant:
    """A way to run the network. megabytes: of its file."""

    name: str
    network: Checkpoint
    precision: str
    megabytes: float


class OpenVinoRunner(FileRunner):
    """Runs an exported file in OpenVINO."""

    def __init__(self, network: ExportedNetwork, hint: str) -> None:
        import openvino

        super().__init__(network.path, network.session, network.architecture.tasks)
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": hint}
        # To OpenVINO the NMS is a constant: here that of `evaluate`, as onnxruntime is told it.
        content = with_nms(network.path.read_bytes(), network.reading["nms_iou"])
        core = openvino.Core()
        self._request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()
        self._session = self

    def run(self, *args: Any, **options: Any) -> Any:
        if isinstance(args[0], list):  # as onnxruntime's session is asked
            _, feed = args
            found = self._request.infer({key: value for key, value in feed.items() if key != NMS_INPUT})
            return [found[name] for name in self._outputs]
        return super().run(*args, **options)


def with_nms(content: bytes, nms_iou: float) -> bytes:
    model = onnx.load_from_string(content)
    for initializer in model.graph.initializer:
        if initializer.name == NMS_INPUT:
            initializer.CopyFrom(onnx.numpy_helper.from_array(np.float32(nms_iou), NMS_INPUT))
    changed: bytes = model.SerializeToString()
    return changed


@dataclass
class InOpenVino(ExportedNetwork):
    hint: str = "f32"

    def runner(self, device: torch.device, precision: torch.dtype) -> FileRunner:
        return OpenVinoRunner(self, self.hint)


@dataclass
class Compiled(Checkpoint):
    def runner(self, device: torch.device, precision: torch.dtype) -> TorchRunner:
        whole = super().runner(device, precision)
        assert isinstance(whole, TorchRunner)
        return dataclasses.replace(whole, model=torch.compile(whole.model))  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data with the shipped student's classes")
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(shipped_student())
    config = load_config(None, {"data.root": given.data, "device": "cpu", "model.precision": "fp32", "threads": 1})
    with tempfile.TemporaryDirectory() as folder:
        sections = []
        for side in SIDES:
            network = checkpoint
            if side is not None:
                network = dataclasses.replace(checkpoint, preprocess={**checkpoint.preprocess, "image_size": side})
            sections.append(measure(network, config, Path(folder), rounds=given.rounds, scored=side is None))
    write_atomically(PAGE, lambda file: file.write(page(sections, given.data).encode()))
    return 0


@dataclass(frozen=True)
class Section:
    """images: by task. rows: of the table."""

    side: int
    images: Mapping[str, int]
    rows: list[list[str]]


def measure(checkpoint: Checkpoint, config: Config, folder: Path, *, rounds: int, scored: bool) -> Section:
    side = checkpoint.preprocess["image_size"]
    tasks = checkpoint.architecture.tasks
    variants = all_variants(checkpoint, config, folder)
    listings = Listings(config, classes={task: checkpoint.architecture.classes[task] for task in tasks})
    scores: dict[str, list[str]] = {}
    images: dict[str, int] = {}
    for variant in variants if scored else []:
        if isinstance(variant.network, Compiled):
            continue  # it would be compiled anew for the last batch of each split
        measurer = Measurer(in_precision(config, variant), ["val", "test"], listings, SILENT)
        results = measurer.measure(variant.name, dict.fromkeys(tasks, variant.network))
        images = {task: len(result) for task, result in results.items()}
        scores[variant.name] = [f"{result.scores()[get_task(t).metric.key]:.4f}" for t, result in results.items()]
        print(side, variant.name, *scores[variant.name], flush=True)
    passes = {v.name: one_pass(v, config, side) for v in variants if not isinstance(v.network, Compiled)}
    seconds = interleaved_minima(passes, rounds=rounds)
    for variant in variants:
        if isinstance(variant.network, Compiled):  # two in one process would be compiled anew at each turn
            torch.compiler.reset()
            alone = {variant.name: one_pass(variant, config, side)}
            seconds |= interleaved_minima(alone, rounds=rounds)
    eager = seconds[variants[0].name]
    rows = [
        [
            variant.name,
            f"{variant.megabytes:.1f}",
            *(scores.get(variant.name, [""] * len(tasks)) if scored else []),
            f"{1000 * seconds[variant.name]:.1f}",
            f"{seconds[variant.name] / eager:.2f}",
        ]
        for variant in variants
    ]
    return Section(side, images, rows)


def in_precision(config: Config, variant: Variant) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"precision": variant.precision})})


def all_variants(checkpoint: Checkpoint, config: Config, folder: Path) -> list[Variant]:
    stored = {entry.name: getattr(checkpoint, entry.name) for entry in dataclasses.fields(Checkpoint)}
    compiled, has = Compiled(**stored), has_bf16(torch.device("cpu"))
    megabytes = shipped_student().stat().st_size / 1e6
    variants = [Variant("torch, eager, float32", checkpoint, "fp32", megabytes)]
    variants += [Variant("torch, eager, bf16", checkpoint, "bf16", megabytes)] if has else []
    variants.append(Variant("torch, compiled, float32", compiled, "fp32", megabytes))
    variants += [Variant("torch, compiled, bf16", compiled, "bf16", megabytes)] if has else []
    readings = readings_of(checkpoint, config.evaluation, SILENT)
    data = ExportData.open(checkpoint, list(readings), config, SILENT, needed=True)
    assert data is not None
    calibration = data.calibration(120)
    files = {}
    for numbers in NUMBERS:
        path = folder / f"{numbers}-{checkpoint.preprocess['image_size']}.onnx"
        made = build_file(
            checkpoint, shipped_student(), readings, config.evaluation, numbers=numbers, calibration=calibration
        )
        path.write_bytes(made)
        files[numbers] = load_exported(path, threads=1)
        variants.append(Variant(f"onnxruntime, {numbers}", files[numbers], "fp32", len(made) / 1e6))
    if not has_openvino():
        return variants
    for name, numbers, hint in (("float32", "float32", "f32"), ("bf16", "float32", "bf16"), ("int8", "int8", "f32")):
        file = files[numbers]
        its = {entry.name: getattr(file, entry.name) for entry in dataclasses.fields(ExportedNetwork)}
        size = file.path.stat().st_size / 1e6
        variants.append(Variant(f"OpenVINO, {name}", InOpenVino(**its, hint=hint), "fp32", size))
    return variants


def one_pass(variant: Variant, config: Config, side: int) -> Callable[[], object]:
    predictor = Predictor(variant.network, in_precision(config, variant))
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    fit = Fit.of(side, side, side, "resize")
    return lambda: list(predictor.predict([pixels], [fit]))


def page(sections: list[Section], data: Path) -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnx", "onnxruntime")]
    if has_openvino():
        versions.append(f"OpenVINO {importlib.metadata.version('openvino')}")
    images = ", ".join(f"{count} {task}" for task, count in sections[0].images.items())
    machine = processor_name(torch.device("cpu"))
    lines = [
        TEXT.strip(),
        "",
        "## What it costs",
        "",
        f"`python benchmarks/deploy_page.py --data {data.name}` wrote this page on {datetime.date.today()}:",
        f"{machine}, one thread, {', '.join(versions)}.",
        f"Scores are on val and test together ({images} images), boxes read as in `evaluate`.",
        "Latency is the shortest pass from an image in memory to class, boxes and a mask of the input's size.",
    ]
    for section in sections:
        scored = section is sections[0]
        lines += ["", f"### {section.side} px, " + ("the student's own size" if scored else "latency alone"), ""]
        header = ["", "MB", *(["Top-1", "mIoU", "mAP"] if scored else []), "ms", "/ eager"]
        lines += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in section.rows]
    return "\n".join(lines) + "\n"


def has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


TEXT = """
# One file on the edge

`onehead export` writes a network as one ONNX file with everything inside: normalisation, network, pooling, decoding,
NMS and voting. A device needs onnxruntime and no torch.

```sh no-run: it installs packages
pip install 'onehead[export]'
```

```sh
onehead export --output student.onnx --runner               # float32, the shipped student
onehead export --output half.onnx --weights float16         # half the size, computed in float32
onehead predict --checkpoint student.onnx photo.jpg         # as with any checkpoint; evaluate and profile too
```

```sh no-run: it needs data of the student's own classes
onehead export --output int8.onnx --int8 --data data        # calibrated on the train split of data
```

Before the file is written, it is compared with the checkpoint in float32; if its results differ, it is not written and
the exit code is 10. A float file is compared on eight synthetic images and a black one: probabilities, scores, box
coordinates and mask pixels. An int8 file is compared on all images of val, without labels: the same Top-1 for 95 %, a
mask IoU of .85, an F1 of the drawn boxes of .70. The usual recipe, with only convolutions in 8 bits, does not reach
that. `{name}.export.json` has the figures and, if the data are available, what the file loses in Top-1, mIoU and mAP,
with the interval.

## On the device

`--runner` writes `onehead_runner.py` beside the file. It needs numpy, Pillow and onnxruntime, under 200 MB in all:

```sh no-run: it installs packages
pip install numpy Pillow onnxruntime
```

```sh
python onehead_runner.py student.onnx photos/ --masks masks --coco found.json > records.jsonl
find . -name '*.jpg' -print0 | python onehead_runner.py student.onnx -
```

Its records are those of `onehead predict`. The file itself is run like this:

| input | | |
|---|---|---|
| `image` | uint8 [S, S, 3] | RGB, resized as `preprocess` in the metadata says |
| `size` | int64 [2] | height and width of the original, which boxes and mask refer to |
| `mask_size` | int64 [2] | height and width of the mask to return; the full size costs most |

| output | | |
|---|---|---|
| `probabilities` | float32 [classes] | |
| `mask` | uint8 [height, width] | class indices |
| `boxes` | float32 [n, 4] | x1 y1 x2 y2 in pixels of the original, best first |
| `scores` | float32 [n] | all from the lowest score up; `thresholds` in the metadata: from which a box is drawn |
| `labels` | int64 [n] | class indices |

The metadata's entry `onehead` is JSON: class names, thresholds, preprocessing, versions, the checkpoint's SHA-256. The
entry `sha256` is the hash of all bytes before it. The IoU threshold of NMS, `nms_iou`, is an optional fourth input;
onnxruntime prints a harmless warning about it when it loads the file.

`onehead predict --coco FILE` and the runner's `--coco` write a COCO JSON of images, categories and boxes with scores
(`--coco-masks`: masks as RLE too), which pycocotools loads and labelling tools import. With `--coco-ids LABELS.json`
they write a list of results instead, with the ids of that COCO file's images and categories, which `COCO.loadRes` reads
as it is. An image is matched by its path, which must end in the `file_name`. To score boxes, leave `--coco-masks` out:
COCOeval would take the box around a mask, of score 1, for a box that was found.

The file keeps the `evaluation.score_min` and `max_detections` that it was exported with: it has no boxes below the one
and no more than the other. Where the config leaves them at their defaults, the file's own hold; asking for more is
refused.

Memory: a mask at the full size of an image takes up to 4 bytes per pixel and class found in it, 2 GB for five classes
in 100 megapixels. A smaller `mask_size` takes less.

## In a browser

`examples/web/` is a page without a build step that runs the file with onnxruntime-web, on one thread and without a
request to any server but its own. Drop an image, and it shows class, mask and boxes. They are the same as those of
`onehead predict`, because it resizes as Pillow does.

```sh no-run: needs npm and a browser
onehead export --weights float16 --output examples/web/student.onnx
cd examples/web && npm install && python -m http.server --bind 127.0.0.1
```

At 256 px an image takes about 0.1 s in Chromium, three times as long as outside a browser. int8 is half the download of
float16, but was not clearly faster there. Tested only in Chromium.

## Limits

A file has one input size, takes one image at a time, and reads boxes in one way: another `data.image_size`,
`best_class` or `vote_iou` needs another export. Not tested: LiteRT, CoreML, TensorRT, ARM. On x86 processors without
VNNI, int8 may saturate; measure there.
"""


if __name__ == "__main__":
    sys.exit(main())
