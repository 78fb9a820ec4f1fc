"""How far bf16 moves class probabilities, by how the class map is pooled.

    python benchmarks/pooling.py --data data --checkpoint output/all_best.pth

The largest change of a class probability between bf16 and float32, over the images of val. Without a threshold it is
what the network itself moves by; with a gate, a cell that only one of the two leaves out adds to it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console as RichConsole

from onehead_cli.checkpoint.checkpoint import Checkpoint, load_checkpoint
from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.commands.console import table
from onehead_cli.config.load import load_config
from onehead_cli.config.sections import Pooling
from onehead_cli.data.listings import Listings
from onehead_cli.errors import OneheadError
from onehead_cli.evaluation.measurer import Measurer
from onehead_cli.events import SILENT
from onehead_cli.tasks.classification.pooling import pool_classes


def class_maps(checkpoint: Checkpoint, data: Path, precision: str) -> torch.Tensor:
    """Of each image of val, float32 [images, classes, cells, cells]."""
    config = load_config(None, {"data.root": data, "model.precision": precision})
    measurer = Measurer(config, [config.data.val_split], Listings(config), SILENT)
    measurer.measure("", {"cls": checkpoint})
    return torch.stack([each.float() for each in measurer.maps[id(checkpoint), "cls"].values()])


def largest_change(maps: tuple[torch.Tensor, torch.Tensor], threshold: float, pooling: Pooling) -> float:
    one, other = (pool_classes(each, threshold, pooling=pooling).softmax(1) for each in maps)
    return float((one - other).abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--checkpoint", type=Path, default=shipped_student(), help="default: the one of the package")
    given = parser.parse_args()
    try:
        checkpoint = load_checkpoint(given.checkpoint)
        maps = class_maps(checkpoint, given.data, "bf16"), class_maps(checkpoint, given.data, "fp32")
    except OneheadError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    own = float(checkpoint.thresholds["cells"])
    ways: list[tuple[str, float, Pooling]] = [("none", 0.0, "gate"), ("gate, its own", own, "gate")]
    ways += [("gate", 0.3, "gate"), *(("soft", threshold, "soft") for threshold in (0.1, 0.2, 0.3, own))]
    rows = [[name, f"{threshold:g}", f"{largest_change(maps, threshold, way):.4f}"] for name, threshold, way in ways]
    RichConsole(highlight=False).print(
        table(f"{given.checkpoint.name}: bf16 against float32", ["Pooling", "Threshold", "Largest change"], rows)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
