#!/usr/bin/env python3
"""Runs a network that `onehead export` wrote. Needs numpy, Pillow and onnxruntime, and nothing else of onehead.

    python onehead_runner.py student.onnx photo.jpg folder/ > records.jsonl

One line of JSON per image, as `onehead predict` writes them: class, boxes and mask in pixels of the image turned as its
EXIF orientation says. An image that cannot be read has an "error", the others are done, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose as Turn

from onehead_cli.coco_results import CocoResults

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp")
#: Larger images are refused before they are decoded.
MAX_PIXELS = 100_000_000
#: Of what a file holds; the metadata's entry that says so; the beginning of its last one, the SHA-256 of all before.
FORMAT, KEY, SUM_ENTRY = 1, "onehead", b"\x72\x4a\x0a\x06sha256\x12\x40"
#: What turns an image upright, by EXIF orientation.
TURNS = dict(enumerate((Turn.FLIP_LEFT_RIGHT, Turn.ROTATE_180, Turn.FLIP_TOP_BOTTOM, Turn.TRANSPOSE), start=2))
TURNS |= dict(enumerate((Turn.ROTATE_270, Turn.TRANSVERSE, Turn.ROTATE_90), start=6))


class Problem(Exception):
    """What went wrong, in one line."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def with_checksum(content: bytes) -> bytes:
    """A serialised model with its checksum as one more entry of its metadata."""
    return content + SUM_ENTRY + hashlib.sha256(content).hexdigest().encode()


def valid_sha256(content: bytes) -> str | None:
    """The SHA-256 of a whole file; None where the checksum in it does not fit."""
    end = max(0, len(content) - len(SUM_ENTRY) - 64)
    found, last = hashlib.sha256(memoryview(content)[:end]), content[end:]
    if last != SUM_ENTRY + found.hexdigest().encode():
        return None
    found.update(last)
    return found.hexdigest()


class Network:
    """An exported file. document: what it says of itself. sha256: of the file."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Raises: Problem: the file cannot be used."""
        try:
            import onnxruntime
        except ImportError:
            raise Problem("onnxruntime is missing: pip install numpy Pillow onnxruntime") from None
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Problem(f"{path}: cannot be read ({error.strerror})") from None
        sha256 = valid_sha256(content)
        if sha256 is None:
            raise Problem(f"{path}: its checksum does not match, so it is damaged or not written by `onehead export`")
        self.sha256 = sha256
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.document = json.loads(self._session.get_modelmeta().custom_metadata_map[KEY])
        except Exception as error:  # onnxruntime has a type for each status
            raise Problem(f"{path}: cannot be loaded ({str(error).splitlines()[0]})") from None
        if self.document.get("export_format") != FORMAT:
            raise Problem(f"{path}: exported by another version of onehead ({self.document.get('onehead')})")
        self._outputs = [output.name for output in self._session.get_outputs()]

    def classes(self, output: str) -> list[str]:
        """The class names that an output's numbers stand for; none where the file has no such output."""
        task = self.document["tasks_of_outputs"].get(output)
        return list(self.document["architecture"]["classes"].get(task, ()))

    def run(self, image: Image.Image) -> dict[str, Any]:
        """The outputs by name, the mask at the size of the image."""
        size = np.array([image.height, image.width], dtype=np.int64)
        feed = {"image": self._fitted(image), "size": size, "mask_size": size}
        try:
            found = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        except Exception as error:  # onnxruntime has a type for each status
            raise Problem(f"onnxruntime cannot run it ({str(error).splitlines()[0]})") from None
        if not all(np.isfinite(value).all() for value in found.values() if value.dtype.kind == "f"):
            raise Problem("the network's outputs are not finite")
        return found

    def _fitted(self, image: Image.Image) -> NDArray[np.uint8]:
        """The image as the network sees it, uint8 [S, S, 3]: stretched, or scaled and padded with grey."""
        stored = self.document["preprocess"]
        side, method = stored["image_size"], Image.Resampling[stored["interpolation"].upper()]
        if stored["fit"] == "resize":
            return np.asarray(image.resize((side, side), method))
        scale = side / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        canvas = Image.new("RGB", (side, side), (128, 128, 128))
        canvas.paste(image.resize((width, height), method), ((side - width) // 2, (side - height) // 2))
        return np.asarray(canvas)


def open_image(path: Path) -> Image.Image:
    """An image as RGB, turned as its EXIF orientation says.

    Raises:
        Problem: it cannot be read.
    """
    Image.MAX_IMAGE_PIXELS = None  # the limit above is the one that counts
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Problem(f"{image.width} x {image.height} pixels are over the limit of {MAX_PIXELS}")
            image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise Problem(f"not a readable {', '.join(FORMATS)} image ({type(error).__name__}: {error})") from None
    try:
        orientation = image.getexif().get(0x0112, 1)
        turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    except Exception:  # damaged metadata raise whatever the parser stumbles over
        turn = None
    upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        upright = Image.fromarray(np.clip(np.asarray(upright).astype(np.float32) / 257.0, 0, 255).astype(np.uint8))
    return upright.convert("RGB")


class Masks:
    """Writes masks as palette images into a folder, {name of the image}_mask.png."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):  # what is in it may be labels of the same names
            raise Problem(f"--masks {folder}: there are files in it; name a new folder", 2)
        self._folder, self._taken = folder, set[str]()

    def write(self, stem: str, mask: NDArray[np.uint8]) -> str:
        """Its name. Raises: Problem: it cannot be written."""
        name, count = f"{stem}_mask.png", 1
        while name.casefold() in self._taken:
            count += 1
            name = f"{stem}-{count}_mask.png"
        self._taken.add(name.casefold())
        image = Image.fromarray(mask)
        # The bits of a label are dealt to red, green and blue in turn, as in VOC.
        places = [(label, channel) for label in range(256) for channel in range(3)]
        image.putpalette([sum((la >> (3 * bit + ch) & 1) << (7 - bit) for bit in range(3)) for la, ch in places])
        try:
            image.save(self._folder / name)
        except OSError as error:
            raise Problem(f"{self._folder / name}: cannot be written ({error.strerror or error})") from None
        return in_json(name)


def record_of(
    network: Network, outputs: Mapping[str, Any], threshold: float | None, masks: Masks | None, stem: str
) -> dict[str, Any]:
    """What `onehead predict` says of an image.

    Args: threshold: for boxes of all classes; None for the network's own.
    """
    record: dict[str, Any] = {}
    if "probabilities" in outputs:
        names, titles, found = network.classes("probabilities"), network.document["titles"], outputs["probabilities"]
        top = [
            {"name": name, "title": titles.get(name, name), "probability": round(probability, 6)}
            for name, probability in ((names[i], float(found[i])) for i in np.argsort(-found, kind="stable")[:5])
        ]
        record["class"] = {**top[0], "top5": top}
    if "mask" in outputs:
        counts = np.bincount(outputs["mask"].ravel(), minlength=256).tolist()
        names = network.classes("mask")
        if any(counts[len(names) :]):  # a map with a number that is none
            raise Problem("the network's outputs are not finite")
        pixels = {name: count for name, count in zip(names, counts, strict=False) if count}
        record["mask"] = {"pixels": pixels}
        if masks is not None:
            try:
                record["mask"] = {"file": masks.write(stem, outputs["mask"]), "pixels": pixels}
            except Problem as problem:  # the rest of the record is known
                record["error"] = str(problem)
    if "boxes" in outputs:
        names, own = network.classes("labels"), network.document["thresholds"]["boxes"]
        least = own or [network.document["reading"]["score_min"]] * len(names)
        rows = zip(*(outputs[name].tolist() for name in ("labels", "scores", "boxes")), strict=True)
        record["boxes"] = [
            {"label": names[label], "score": round(score, 6), "box": [round(side, 3) for side in box]}
            for label, score, box in rows
            if score >= (least[label] if threshold is None else threshold)
        ]
    return record


def in_json(name: str | Path) -> str:
    """A name as it stands in JSON: its bytes read as UTF-8, one that is not as half a character."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Files, those of folders and below sorted, and for "-" the paths that stdin lists.

    Raises:
        Problem: one is not there, or there is no image.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        if argument == "-":
            content = sys.stdin.buffer.read() if sys.stdin is not None else b""
            if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16, as PowerShell writes it
                content = content.decode("utf-16", "replace").encode()
            content = content.removeprefix(b"\xef\xbb\xbf")
            lines = content.split(b"\0" if b"\0" in content else b"\n")
            named = [Path(os.fsdecode(line.removesuffix(b"\r"))) for line in lines if line.strip()]
        else:
            named = [Path(argument)]
        for path in named:
            if os.path.isdir(path):
                found |= dict.fromkeys(_below(path))
            elif os.path.exists(path):  # pathlib raises where a name is too long
                found[path] = None
            else:
                raise Problem(f"no such file or folder: {path}", 2)
    if not found:
        raise Problem(f"no images ({', '.join(SUFFIXES)}) in: {', '.join(arguments)}", 2)
    return list(found)


def warn(message: str) -> None:
    """A line on stderr, whatever a name in it holds."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    print(f"warning: {line}", file=sys.stderr)


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=lambda error: warn(f"{error.filename}: {error.strerror}")):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(files):
            if name[0] != "." and name.lower().endswith(SUFFIXES) and os.path.isfile(os.path.join(parent, name)):
                yield Path(parent, name)


def coco_results(network: Network, ids: Path | None) -> CocoResults:
    """Raises: Problem: the file with the ids cannot be used."""
    try:
        labels = None if ids is None else json.loads(ids.read_bytes()) or {}
        return CocoResults([*network.classes("labels"), *network.classes("mask")[1:]], labels)
    except (OSError, ValueError, RecursionError) as error:
        raise Problem(f"--coco-ids {ids}: {getattr(error, 'strerror', None) or error}") from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Problem(f"{message}; see --help", 2)


def run(arguments: Sequence[str]) -> int:
    """Do what the command line says. Raises: Problem, OSError."""
    about, _, example = (__doc__ or "").partition("\n\n")
    parser = _Parser(description=about, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the file that `onehead export` wrote")
    parser.add_argument("images", nargs="+", metavar="PATH", help="images, folders, and - for a list on stdin")
    parser.add_argument("--masks", type=Path, metavar="FOLDER", help="write masks as PNGs into it")
    parser.add_argument("--coco", type=Path, metavar="FILE", help="write boxes as a COCO JSON")
    parser.add_argument("--coco-masks", action="store_true", help="with --coco: masks too, as RLE")
    parser.add_argument("--coco-ids", type=Path, metavar="FILE", help="with --coco: results with the ids of this file")
    parser.add_argument("--score-threshold", type=float, metavar="S", help="score of boxes of every class")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the processor")
    given = parser.parse_args(arguments)
    if (given.coco_masks or given.coco_ids) and not given.coco:
        raise Problem(f"{'--coco-masks' if given.coco_masks else '--coco-ids'} needs --coco FILE", 2)
    if given.coco and given.coco.suffix != ".json":  # a glob after --coco would name an image
        raise Problem(f"--coco {given.coco}: the name of a COCO file ends in .json", 2)
    if given.score_threshold is not None and not 0 <= given.score_threshold <= 1:
        raise Problem(f"--score-threshold {given.score_threshold}: from 0 to 1", 2)
    if given.threads is not None and not 1 <= given.threads <= 1024:
        raise Problem(f"--threads {given.threads}: from 1 to 1024", 2)
    if given.coco and given.coco_ids and given.coco.resolve() == given.coco_ids.resolve():
        raise Problem(f"--coco {given.coco}: --coco-ids names the same file, whose labels would be lost", 2)
    if given.coco and (given.coco.is_dir() or not given.coco.parent.is_dir()):
        missing = "a folder has this name" if given.coco.is_dir() else f"there is no folder {given.coco.parent}"
        raise Problem(f"--coco {given.coco}: {missing}")
    paths = find_images(given.images)
    network = Network(given.model, threads=given.threads)
    masks = Masks(given.masks) if given.masks else None
    coco = coco_results(network, given.coco_ids) if given.coco else None
    failed = 0
    for path in paths:
        record: dict[str, Any] = {"file": in_json(path), "checkpoint": network.sha256[:12]}
        try:
            image = open_image(path)
            record |= {"width": image.width, "height": image.height}
            outputs = network.run(image)
            record |= record_of(network, outputs, given.score_threshold, masks, path.stem)
            if coco is not None:
                if why := coco.add_record(record):
                    warn(f"{path}: {why} {given.coco_ids}, so it is not in the COCO file")
                if given.coco_masks and "mask" in record:
                    coco.add_mask(outputs["mask"], network.classes("mask"))
        except (Problem, OSError, MemoryError) as error:
            record["error"] = str(error) or "out of memory"
        if "error" in record:
            failed += 1
            warn(f"{path}: {record['error']}")
        print(json.dumps(record), flush=True)
    if coco is not None:
        unfinished = given.coco.with_name(f".{given.coco.name}.{os.getpid()}.tmp")
        unfinished.write_text(json.dumps(coco.document()) + "\n", encoding="ascii")
        unfinished.replace(given.coco)
    if failed:
        raise Problem(f"{failed} of {len(paths)} images failed")
    return 0


def main() -> int:
    """The exit code: 0 done, 1 failed, 2 usage, 130 and 143 stopped by a signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata that does not matter
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        return run(sys.argv[1:])
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.code
    except BrokenPipeError:  # who read stdout has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        print(f"error: {error.filename or 'stdout'}: cannot be written ({error.strerror})", file=sys.stderr)
        if error.filename is None:  # what is left in its buffer would fail again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


if __name__ == "__main__":
    sys.exit(main())
