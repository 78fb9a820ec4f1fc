"""Draw docs/door.jpg, the picture of the README: what the shipped student finds in three photographs.

`onehead predict` reads each photograph of docs/photographs in one forward pass, in fp32 on a CPU, so that another
machine draws the same. Its overlays are put together as they are, and nothing is chosen. The picture's comment names
the student's file, so that a test sees when another one is shipped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from PIL import Image

from onehead_cli.checkpoint.networks import shipped_student
from onehead_cli.commands.console import Console
from onehead_cli.config.load import load_config
from onehead_cli.engine import predict
from onehead_cli.files.checksum import sha256_of

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = ("astronaut", "chelsea", "motorcycle")
PICTURE = ROOT / "docs" / "door.jpg"
WIDTH, GAP, QUALITY = 900, 6, 82


def comment() -> str:
    """What the picture says of itself: the student that it is of."""
    return f"student {sha256_of(shipped_student())}"


def overlays(folder: Path) -> list[Image.Image]:
    """What `onehead predict` writes of the photographs; each record is said."""
    config = load_config(None, {"output": folder, "device": "cpu", "model.precision": "fp32"})
    images = [str(ROOT / "docs" / "photographs" / f"{name}.jpg") for name in PHOTOGRAPHS]
    run = predict(config, images=images, checkpoint=shipped_student(), reporter=Console(quiet=True))
    drawn = []
    for name, record in zip(PHOTOGRAPHS, run, strict=True):
        boxes = ", ".join(f"{box['label']} {box['score']:.2f}" for box in record["boxes"]) or "none"
        print(f"{name}: {record['class']['title']} {record['class']['probability']:.2f}; boxes: {boxes}")
        drawn.append(Image.open(run.folder / record["overlay"]).convert("RGB"))
    return drawn


def put_together(tall: Image.Image, upper: Image.Image, lower: Image.Image) -> Image.Image:
    """One image on the left, as high as the two on the right with the gap between them."""
    ratios = [each.height / each.width for each in (upper, lower)]
    # With w the width on the right: height = w * sum(ratios) + gap, and width = height / ratio of the left + gap + w.
    of_left = tall.height / tall.width
    right = round((WIDTH - GAP - GAP / of_left) / (1 + sum(ratios) / of_left))
    heights = [round(right * ratio) for ratio in ratios]
    height, left = sum(heights) + GAP, WIDTH - GAP - right
    picture = Image.new("RGB", (WIDTH, height), "white")
    picture.paste(tall.resize((left, height), Image.Resampling.LANCZOS), (0, 0))
    picture.paste(upper.resize((right, heights[0]), Image.Resampling.LANCZOS), (left + GAP, 0))
    picture.paste(lower.resize((right, heights[1]), Image.Resampling.LANCZOS), (left + GAP, heights[0] + GAP))
    return picture


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PICTURE, help="default docs/door.jpg")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        picture = put_together(*overlays(Path(folder)))
    picture.save(output, quality=QUALITY, optimize=True, comment=comment().encode())
    print(f"{output}: {picture.width} x {picture.height} px, {output.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
