"""Memory over a long run on the CPU: `train-unified` for 2,000 steps, `predict` over 10,000 files.

Growth is the median resident set of the last fifth of the run against that of the second fifth; the first one still
loads and warms up. Each run is a process of its own, read once per second. With --json FILE, the curves are in the file
and drawn beside it, in a PNG of the same name.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

from common import QUICK_MODEL, Check, Options, finish, parse_options
from PIL import Image, ImageDraw, ImageFont

from onehead_cli import engine
from onehead_cli.commands.console import Console
from onehead_cli.data.prepare.settings import Synthetic
from onehead_cli.events import SILENT
from onehead_cli.prediction.image_paths import find_images

IMAGE_SIDE = 64
#: The last fifth against the second.
BOUND = 1.05
_COLOURS = ("#1f6fd0", "#d0541f", "#2a9d4a")


@dataclass(frozen=True)
class Curve:
    """Resident memory of a process: megabytes[i], of 1e6 bytes, `seconds[i]` after its start."""

    seconds: list[float]
    megabytes: list[float]

    @property
    def growth(self) -> float:
        """(median of the last fifth - median of the second fifth) / median of the second fifth."""
        fifth = max(len(self.megabytes) // 5, 1)
        early, late = median(self.megabytes[fifth : 2 * fifth]), median(self.megabytes[-fifth:])
        return (late - early) / early


def main(options: Options) -> int:
    if not Path("/proc/self/status").is_file():
        sys.exit("this benchmark reads /proc, which only Linux has")
    # Steps and files of a round; fewer with overlays, which take 300 kB each.
    steps, files, overlaid = (10, 10, 0) if options.quick else (200, 1000, 100)
    every = 0.05 if options.quick else 1.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # In batches of one and a buffer of one, an epoch has as many steps as a task has images.
        drawn = Synthetic(root=root / "data", sizes=(steps, 10, 10), image_size=IMAGE_SIDE)
        engine.prepare_data(drawn, reporter=Console(quiet=True))
        where = ["--output", root, "--device", "cpu", "--quiet"]
        training = ["--data", root / "data", "--image-size", options.image_size, "--batch-size", 1, *where]
        student = ["--epochs", options.rounds, "--set", "student.buffer_size=1", *training]
        if options.quick:
            student += ["--lambda-distill", 0, "--backbone", QUICK_MODEL["backbone"], "--no-pretrained"]
        else:
            _watch("train-teacher", "--task", "all", "--epochs", 1, *training, every=every)
        curves = {f"train-unified, {options.rounds * steps} steps": _watch("train-unified", *student, every=every)}
        for count, what, flags in (
            (options.rounds * files, "files", ["--no-overlays", "--no-masks"]),
            (options.rounds * overlaid, "files with overlays and masks", []),
        ):
            if not count:
                continue
            images = _link_images(root / "data", root / f"files{count}", count)
            curves[f"predict, {count} {what}"] = _watch("predict", images, *flags, *where, every=every)
    if options.json is not None:
        draw_curves(curves).save(options.json.with_suffix(".png"))
    return finish(
        "flat memory",
        options,
        column="Median MB",
        measured={name: f"{median(curve.megabytes):.0f}" for name, curve in curves.items()},
        checks=[Check(f"{name}: last / second fifth", 1 + curve.growth, BOUND) for name, curve in curves.items()],
        date=date.today().isoformat(),
        growth={name: curve.growth for name, curve in curves.items()},
        curves={name: asdict(curve) for name, curve in curves.items()},
    )


def _link_images(data: Path, folder: Path, count: int) -> Path:
    """A folder of `count` hard links to the images below `data`, in turn."""
    folder.mkdir()
    images = find_images([str(data)], skip=folder, reporter=SILENT).paths
    for number, image in zip(range(count), itertools.cycle(images), strict=False):
        os.link(image, folder / f"{number:06d}{image.suffix}")
    return folder


def _watch(*arguments: object, every: float) -> Curve:
    """Run a command of onehead and read its resident set every so many seconds until it ends."""
    began, curve = time.monotonic(), Curve([], [])
    child = subprocess.Popen([sys.executable, "-m", "onehead_cli", *map(str, arguments)], stdout=subprocess.DEVNULL)
    while child.poll() is None:
        # The line is missing once the process has ended and waits to be collected.
        status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                curve.seconds.append(round(time.monotonic() - began, 2))
                curve.megabytes.append(int(line.split()[1]) * 1024 / 1e6)
        time.sleep(every)
    if child.returncode:
        sys.exit(f"{arguments[0]} failed")
    return curve


def draw_curves(curves: Mapping[str, Curve], *, size: tuple[int, int] = (1000, 480)) -> Image.Image:
    """A line per run: its memory in MB from 0 on, over the share of the run that is done."""
    font = ImageFont.load_default(size=15)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = 80, 20, size[0] - 20, size[1] - 60 - 24 * len(curves)
    highest = -(-max(max(curve.megabytes) for curve in curves.values()) // 500) * 500
    for share in range(5):
        y = bottom - (bottom - top) * share / 4
        draw.line((left, y, right, y), fill="#d8d8d8")
        draw.text((left - 8, y), f"{highest * share / 4:.0f} MB", font=font, fill="black", anchor="rm")
    for share in range(6):
        x = left + (right - left) * share / 5
        draw.line((x, top, x, bottom), fill="#d8d8d8")
        draw.text((x, bottom + 6), f"{share * 20} %", font=font, fill="black", anchor="mt" if share < 5 else "rt")
    draw.text(((left + right) / 2, bottom + 28), "share of the run", font=font, fill="black", anchor="mt")
    for place, (name, curve) in enumerate(curves.items()):
        colour, whole = _COLOURS[place % len(_COLOURS)], max(curve.seconds[-1], 1e-9)
        draw.line(
            [
                (left + (right - left) * second / whole, bottom - (bottom - top) * megabytes / highest)
                for second, megabytes in zip(curve.seconds, curve.megabytes, strict=True)
            ],
            fill=colour,
            width=2,
        )
        y = bottom + 64 + 24 * place
        draw.line((left, y, left + 24, y), fill=colour, width=4)
        text = f"{name}: {whole:.0f} s, growth {curve.growth:+.1%}"
        draw.text((left + 34, y), text, font=font, fill="black", anchor="lm")
    return picture


if __name__ == "__main__":
    sys.exit(main(parse_options(__doc__, rounds=10, image_size=IMAGE_SIDE)))
