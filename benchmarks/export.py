"""An exported file against torch, on one thread: float32 takes at most .6 of torch's time, int8 at most .3.

Both go from an image in memory to class, boxes and a mask of the input's size. The process of the runner is measured
too: on one image it takes at most 1.3 times what it takes to import its libraries, load the file and run it once.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from common import Check, Options, finish, interleaved_minima, milliseconds, parse_options
from PIL import Image

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint
from onehead_cli.checkpoint.exported import ExportedNetwork, read_exported
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.config.load import load_config
from onehead_cli.data.geometry import Fit
from onehead_cli.events import SILENT
from onehead_cli.export.build import Numbers, build_file, readings_of
from onehead_cli.export.export import runner_source
from onehead_cli.export.measure import drawn_images
from onehead_cli.prediction.predictor import Predictor

BOUNDS: dict[Numbers, float] = {"float32": 0.6, "int8": 0.3}
RUNNER_BOUND = 1.3
#: What the runner cannot do without.
LEAST = """
import sys
import numpy, onnxruntime
from PIL import Image
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = Image.open(sys.argv[2])
side, size = session.get_inputs()[0].shape[0], numpy.array(image.size[::-1])
pixels = numpy.asarray(image.convert("RGB").resize((side, side)))
session.run(None, {"image": pixels, "size": size, "mask_size": size})
"""


def main(options: Options) -> int:
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(shipped_student())
    side = checkpoint.preprocess["image_size"]
    network = Predictor(checkpoint, load_config(None, {"device": "cpu", "model.precision": "fp32"}))
    calibration = [network.fit(image)[0] for image in drawn_images()]
    with tempfile.TemporaryDirectory() as folder:
        files = {numbers: Path(folder) / f"{numbers}.onnx" for numbers in BOUNDS}
        config = load_config(None).evaluation
        readings = readings_of(checkpoint, config, SILENT)
        for numbers, file in files.items():
            student = shipped_student()
            file.write_bytes(
                build_file(checkpoint, student, readings, config, numbers=numbers, calibration=calibration)
            )
        passes = {"torch float32": one_pass(checkpoint, side)}
        passes |= {f"exported {numbers}": one_pass(read(file), side) for numbers, file in files.items()}
        seconds = interleaved_minima(passes, rounds=options.rounds)
        image = Path(folder) / "image.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(image)
        command, script = [files["float32"], image], Path(folder) / "runner.py"
        script.write_text(runner_source())
        processes = {
            "process: libraries and one run": process("-c", LEAST, *command),
            "process: runner": process(script, *command, "--threads", 1),
        }
        seconds |= interleaved_minima(processes, rounds=max(1, options.rounds // 4))
    checks = [
        Check(f"exported {numbers} / torch float32", seconds[f"exported {numbers}"] / seconds["torch float32"], bound)
        for numbers, bound in BOUNDS.items()
    ]
    least, runner = (seconds[name] for name in processes)
    checks.append(Check("runner / libraries and one run", runner / least, RUNNER_BOUND))
    return finish("export", options, measured=milliseconds(seconds), checks=checks, seconds=seconds)


def read(file: Path) -> ExportedNetwork:
    return read_exported(file.read_bytes(), file, threads=1)


def one_pass(network: Checkpoint, side: int) -> Callable[[], object]:
    """From an image of the input's size to all that is found in it."""
    predictor = Predictor(network, load_config(None, {"device": "cpu", "model.precision": "fp32"}))
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    fit = Fit.of(side, side, side, "resize")
    return lambda: list(predictor.predict([pixels], [fit]))


def process(*arguments: object) -> Callable[[], object]:
    command: Sequence[str] = [sys.executable, *map(str, arguments)]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main(parse_options(__doc__, rounds=30)))
