"""What `onehead predict` loads: no more than reading an image takes."""

from __future__ import annotations

import json
import subprocess
import sys

from PIL import Image

#: onehead's rooms that another command is for.
OTHER_ROOMS = ("training", "evaluation", "export", "report", "profiling", "preview", "data.prepare.official")
#: Libraries of other commands; of these torch itself brings none.
OTHER_LIBRARIES = (
    "pycocotools",
    "scipy",
    "thop",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "jinja2",
    "matplotlib",
    "pandas",
)

SCRIPT = """
import json, sys
from onehead_cli.app import run
code = run(["predict", "a.png", "--quiet", "--json", "--coco", "found.json"])
print(json.dumps([code, sorted(sys.modules)]))
"""


def test_predict_loads_what_it_needs(tmp_path):
    """In a process of its own: one that is forked has libraries already."""
    Image.new("RGB", (40, 30), "green").save(tmp_path / "a.png")
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0 and "onehead_cli.prediction.predictor" in modules
    rooms = [name for name in modules if name.startswith(tuple(f"onehead_cli.{room}" for room in OTHER_ROOMS))]
    assert rooms == []
    libraries = {name.partition(".")[0] for name in modules}
    assert "torch" in libraries and not libraries & set(OTHER_LIBRARIES)
