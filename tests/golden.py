"""Prove that this code gives the same bits as the code of a git tag: `python tests/golden.py [--only NAME,...]`.

Every scenario is a few commands on tiny drawn pictures. The tag's code runs them once and its files stay in the
reference folder; this checkout runs them each time, on the same data, and every file is compared: checkpoints tensor by
tensor, logs and JSON value by value, all others byte by byte. What people read (tables, notes, help) is not compared,
nor are times. Another processor or another torch gives other bits, so the reference is made anew there.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from PIL import Image
from processes import started
from safetensors import safe_open

TODAY = Path(__file__).resolve().parent.parent
Command = list[str]


@dataclass(frozen=True)
class Part:
    """Commands that run one after the other in the same processes, which saves imports.

    In a command, {data} and {named} are folders of data (see `SCENARIOS["data"]` and `write_named`), {tag} is the tag's
    code and {teachers} the output folder of `plain`. stopped: the last command gets SIGTERM once this log has a step.
    """

    commands: Sequence[Command]
    processes: int = 1
    stopped: str = ""


def sets(settings: str) -> Command:
    return [word for setting in settings.split() for word in ("--set", setting)]


# A short memory of the averaged weights, so that those that are evaluated have learned something.
SMALL = ["--image-size", "64", *sets("teacher.batch_size=4 teacher.ema_decay=0.5")]
SMALL += sets("student.batch_size=2 student.ema_decay=0.5")
TINY = ["--backbone", "test_efficientnet", "--no-pretrained", *SMALL]
FP32 = sets("model.precision=fp32")
DATA = ["--data", "{data}", "--output", "out", "--quiet", "--json"]
NAMED = ["--data", "{named}", "--output", "out", "--quiet", "--json", *sets("data.ignore_index=254")]
TEACHERS, STUDENT, EVALUATE = ["train-teacher", "--task", "all"], ["train-unified"], ["evaluate", "--split", "val,test"]
PREDICT = ["predict", "{data}/mini_coco_det/test", "{data}/mini_voc_seg/test/JPEGImages", "--output", "out"]
PREDICT += ["--score-threshold", "0.02", "--json", "--quiet"]
PROFILE = ["profile", "--runs", "1", "--output", "out", "--json", "--quiet"]
SHOW = [*TEACHERS, "--show-config", "--json"]
CONFIGS = ("demo", "lite-long", "lite-quick", "own-data", "reference-long", "reference-quick")
PREPARE = ["prepare-data", "--json", "--quiet"]
DRAWN = ["--source", "synthetic", "--sizes", "20,10,10", "--image-size", "96", "--data", "data"]
PREVIEW = ["--preview", "--data", "data", "--preview-dir", "preview"]

PLAIN = [*DATA, "--epochs", "2", *TINY, *sets("student.boxes_from_masks=true")]
# What is young and needs no ImageNet weights.
KEYS = [*DATA, "--epochs", "2", "--backbone", "mobilenetv3_small_050", "--no-pretrained", *SMALL, *FP32]
KEYS += sets("""
    model.skip=stride16 model.pooling=soft model.neck_dropout=0.2 model.icnr=true detection.confidence=varifocal
    detection.confidence_cost=0.5 detection.ignore_iou=0.5 detection.every_box=true detection.smallest=0.5
    detection.priors=kmeans detection.size_unit=cells detection.mask_box_weight=0.5 teacher.boxes_from_masks=true
    student.boxes_from_masks=true segmentation.lovasz=0.3 segmentation.repeat_factor=0.9 segmentation.copy_paste=0.5
    data.cache_scale=2 data.aspect=1.3 data.sizes=[64,96] teacher.small_until=0.5 student.small_until=0.5
    teacher.keep=last student.best_mean=2 student.from_teachers=true student.renew_norms=true
    student.normaliser_floor=0.2 distill.box_confidence=0.005 evaluation.best_class=true evaluation.vote_iou=0.5
    evaluation.nms_iou=0.5 evaluation.predict_nms_iou=0.3 evaluation.shared_below=5 evaluation.score_min=0.001
""")
# What needs ImageNet weights, which are packaged for the default backbone.
IMAGENET = [*NAMED, "--epochs", "1", *SMALL, *FP32]
IMAGENET += sets("""
    model.frozen_stages=2 model.imagenet_classes=true model.class_evidence=true model.skip=auto data.fit=letterbox
    teacher.imagenet_teacher=true student.imagenet_teacher=true student.boxes_from_masks=true distill.images=all
    segmentation.imagenet_cells=0.5
""")
YOLO = [*NAMED, "--epochs", "3", *TINY, *FP32]
YOLO += sets("""
    data.tasks=[seg,det] data.workers=2 model.detection_loss=yolov1 model.batch_norm=slow model.boxes_per_cell=3
    teacher.eval_every=2 teacher.buffer_size=2 student.buffer_size=2 student.task_weights=fixed
    student.fixed_weights.det=2 student.normalise_losses=false distill.lambda=1
""")
# Dropout draws from torch's own generator, whose state a resumed run must have back.
SAVED = [*DATA, "--epochs", "4", *TINY, *FP32]
SAVED += sets("model.neck_dropout=0.3 teacher.save_every=2 student.save_every=2")
START = ["--start-from", "shipped", "--epochs", "1", *SMALL, *FP32]
TAUGHT = [*DATA, "--teachers", "{teachers}", *FP32]
LOW = [*FP32, *sets("evaluation.score_min=0.001")]


def use(data: Command, reading: Command, *which: str) -> list[Command]:
    """All that is done with a trained network."""
    commands = [[*EVALUATE, *data, *reading], [*PREDICT, *reading], PROFILE]
    return [[*command, *which] for command in commands]


def old(end: str) -> list[Command]:
    """The same with a checkpoint of 0.1.0."""
    return use(DATA, LOW, "--checkpoint", "{tag}/tests/checkpoints/format2." + end, "--output", f"out/{end}")


SCENARIOS = {
    "data": [Part([[*PREPARE, *d] for d in (DRAWN, ["--verify", "--data", "data"], PREVIEW, ["--check", "data"])])],
    "config": [
        Part([[*SHOW, *options] for options in ([], KEYS, IMAGENET, YOLO)]),
        Part([[*SHOW, "--config", "{tag}/configs/" + name + ".yaml"] for name in CONFIGS]),
    ],
    "plain": [Part([[*TEACHERS, *PLAIN], [*STUDENT, *PLAIN], *use(DATA, [])])],
    "keys": [Part([[*TEACHERS, *KEYS], [*STUDENT, *KEYS], *use(DATA, LOW)])],
    "imagenet": [Part([[*TEACHERS, *IMAGENET], [*STUDENT, *IMAGENET], [*EVALUATE, *NAMED, *FP32]])],
    # With classes that the packaged student does not know, and with its own.
    "start": [
        Part([[*STUDENT, *DATA, *START, "--lambda-distill", "0"], ["train-teacher", "--task", "seg", *NAMED, *START]])
    ],
    "yolo": [
        Part([[*TEACHERS, *YOLO, "--deterministic"], [*STUDENT, *YOLO]]),
        Part([[*EVALUATE, *NAMED, *LOW, *sets("data.tasks=[seg,det]"), "--relative", "--strict"]]),
    ],
    "two": [Part([[*STUDENT, *TAUGHT, "--epochs", "2", *TINY], [*EVALUATE, *TAUGHT]], processes=2)],
    "resume": [Part([[*TEACHERS, *SAVED], [*STUDENT, *SAVED], [*EVALUATE, *DATA, *FP32]])],
    # The last is the packaged student.
    "old": [Part([*old("pth"), *old("safetensors"), *use(NAMED, LOW)])],
}
#: What today's code runs instead: stopped and resumed runs, each in a process of its own, against those never stopped.
STOPPED = {
    "resume": [
        Part([[*TEACHERS, *SAVED]], stopped="out/seg.jsonl"),
        Part([[*TEACHERS, *SAVED, "--resume"], [*STUDENT, *SAVED]], stopped="out/all.jsonl"),
        Part([[*STUDENT, *SAVED, "--resume"], [*EVALUATE, *DATA, *FP32]]),
    ],
}
#: The tag's runs that others read from.
SHARED = ("data", "plain")

RUNNER = """
import contextlib, io, json, pathlib, runpy, sys
commands, code, results = json.loads(sys.argv[1]), sys.argv[2], []
import onehead_cli
assert pathlib.Path(onehead_cli.__file__).is_relative_to(code), onehead_cli.__file__
for command in commands:
    sys.argv, out, exit_code = ["onehead", *command], io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_module("onehead_cli", run_name="__main__")  # as python -m does
        except SystemExit as end:
            exit_code = end.code or 0
    results.append([exit_code, out.getvalue()])
    if exit_code not in (0, 10, 11):
        break
print(json.dumps(results))
"""
#: Exit codes: done, and what `evaluate --strict` found.
DONE = (0, 10, 11)


def run(parts: Sequence[Part], folder: Path, code: Path, places: Mapping[str, Path]) -> None:
    """Run all commands in a new folder, each answer into a file; paths below it are relative, so the same each time.

    Raises:
        ChildProcessError: a command did not end as it should.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "answers").mkdir(parents=True)
    variables = {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    number = 0
    for part in parts:
        commands = [[word.format_map(places) for word in command] for command in part.commands]
        script = ["-c", RUNNER, json.dumps(commands), str(code)]
        with contextlib.chdir(folder), started(part.processes, script, **variables) as processes:
            if part.stopped:
                stop_at_first_step(processes[0], folder / part.stopped)
            (out, errors), *_ = [process.communicate(timeout=600) for process in processes]
        results = json.loads(out) if processes[0].returncode == 0 else []
        for index, command in enumerate(commands):
            stopped = part.stopped and index == len(commands) - 1
            exit_code, answer = results[index] if index < len(results) else (processes[0].returncode, "")
            if exit_code not in ([128 + signal.SIGTERM] if stopped else DONE) or not (answer or stopped):
                why = errors.strip().rpartition("\n")[2]
                raise ChildProcessError(f"{' '.join(command[:3])} ... ended with {exit_code}: {why}")
            if not stopped:
                document = {"exit": exit_code, "answer": json.loads(answer)}
                (folder / "answers" / f"{number:02}-{command[0]}.json").write_text(json.dumps(document))
                number += 1


def stop_at_first_step(process: subprocess.Popen[str], log: Path) -> None:
    while not log.is_file() or log.read_text().count("\n") < 2:  # the first line is of the scan
        if process.poll() is not None:
            return
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)


def extract(commit: str, folder: Path) -> Path:
    """The code of a commit; no git worktree, which would have to be removed again."""
    code = folder / "code"
    if not code.is_dir():
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            subprocess.run(["git", "-C", TODAY, "archive", "--output", f"{draft}/code.tar", commit], check=True)
            with tarfile.open(f"{draft}/code.tar") as archive:
                archive.extractall(f"{draft}/code", filter="data")
            Path(draft, "code").rename(code)
    return code


def write_named(data: Path, named: Path, student: Path) -> None:
    """A copy of the drawn data with the class names of the packaged student, and 254 for the pixels of no class."""
    with safe_open(student, "pt") as file:
        names = json.loads(file.metadata()["onehead"])["architecture"]["classes"]
    shutil.rmtree(named, ignore_errors=True)
    shutil.copytree(data, named, ignore=shutil.ignore_patterns("manifest.json", ".*"))
    for split in (named / "imagenette-160").iterdir():
        for folder, name in zip(sorted(split.iterdir()), names["cls"], strict=True):
            folder.rename(split / name)
    (named / "mini_voc_seg/classes.yaml").write_text(yaml.safe_dump(names["seg"]))
    for path in (named / "mini_voc_seg").glob("*/SegmentationClass/*.png"):
        with Image.open(path) as mask:
            changed = mask.point([*range(255), 254])  # keeps the palette
        changed.save(path)
    for path in (named / "mini_coco_det/annotations").iterdir():
        document = json.loads(path.read_text())
        for category, name in zip(document["categories"], names["det"], strict=True):
            category["name"] = name
        path.write_text(json.dumps(document))


KINDS = {".pth": "checkpoints", ".jsonl": "logs", ".png": "pictures", ".jpg": "pictures"}
#: Of a key of the config: other words are noted, and no difference.
TEXTS = (".meaning", ".type", ".unit")


@dataclass
class Comparison:
    """Two runs of a scenario. roots: folders of code, whose paths count as the same. stopped: see STOPPED."""

    roots: tuple[Path, Path]
    stopped: bool
    counts: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    def folders(self, before: Path, now: Path) -> None:
        there, here = self._files(before), self._files(now)
        self.found += [
            f"{name}: only {'the tag' if name in there else 'today'} writes it" for name in sorted(there ^ here)
        ]
        for name in sorted(there & here):
            self.counts[KINDS.get(Path(name).suffix, "JSON files and tables")] += 1
            differences = list(self._values(self._content(before / name), self._content(now / name), ""))
            texts = [line for line in differences if line.partition(": ")[0].endswith(TEXTS)]
            self.notes |= dict.fromkeys(texts)
            real = [f"{name}: {line}" for line in differences if line not in texts]
            self.found += [*real[:3], *([f"{name}: and {len(real) - 3} more"] if len(real) > 3 else [])]

    def _files(self, folder: Path) -> set[str]:
        """Neither locks and caches nor TensorBoard's, nor diagrams, whose words are others; of a stopped run not the
        save before the last, nor the answers of trainings, which say that they were resumed."""
        left_out = r"(^|/)(\.|tensorboard/)|_histogram\.png$" + (r"|_previous\.pth$|^answers/" if self.stopped else "")
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        return {name for name in names if not re.search(left_out, name)}

    def _content(self, path: Path) -> Any:
        """What is compared of a file; of paths in the folders of code, only the file's name."""
        if path.suffix == ".pth":
            document = torch.load(path, map_location="cpu", weights_only=True)
            document["origin"].pop("commit", None)
            learned = document["training"].get("auxiliary", {})
            # What a term learns has its name before it now.
            document["training"]["auxiliary"] = {key.removeprefix("cells.layer."): v for key, v in learned.items()}
            return document
        content = path.read_bytes()
        if path.suffix == ".jsonl" and path.name != "predictions.jsonl":
            records = [_timeless(json.loads(line)) for line in content.splitlines()]
            return [record for record in records if not (self.stopped and record["kind"] == "resumed")]
        for root in self.roots if path.suffix not in (".png", ".jpg") else ():
            content = re.sub(re.escape(f"{root}/".encode()) + rb'([^"\s]*/)?', b"", content)
        if path.suffix == ".md":  # what people read says image for picture now, and per class for a class
            content = re.sub(b"([Pp])icture", lambda m: b"Image" if m[1] == b"P" else b"image", content)
            content = content.replace(b", a class", b", per class")
        if path.parent.name == "answers":
            answer = _timeless(json.loads(content))
            fields = answer["answer"].get("fields")
            return {each["key"]: each for each in fields} if fields else answer
        return hashlib.sha256(content).hexdigest()

    def _values(self, a: Any, b: Any, where: str) -> Iterator[str]:
        """Where two nested values differ in a bit or a type."""
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            self.counts["tensors"] += 1
            if (a.dtype, a.shape) != (b.dtype, b.shape):
                yield f"{where}: was {a.dtype} {list(a.shape)}, now {b.dtype} {list(b.shape)}"
            elif not torch.equal(_bits(a), _bits(b)):
                yield f"{where}: differs by up to {(a.double() - b.double()).abs().max().item():.3g}"
        elif isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from (
                f"{where}.{key}: only {'the tag' if key in a else 'today'} has it" for key in a.keys() ^ b.keys()
            )
            for key in (key for key in a if key in b):
                yield from self._values(a[key], b[key], f"{where}.{key}" if where else str(key))
        elif isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
            for index, (x, y) in enumerate(zip(a, b, strict=True)):
                yield from self._values(x, y, f"{where}[{index}]")
        else:
            self.counts["values"] += 1
            if type(a) is not type(b) or repr(a) != repr(b):  # repr tells -0.0 from 0.0, and NaN is NaN
                yield f"{where}: was {a!r:.80}, now {b!r:.80}"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _timeless(value: Any) -> Any:
    """A JSON value without what a clock or the system's memory says; of a limit on such, without what was found."""
    if isinstance(value, dict):
        found = ("value", "ok", "note") if value.get("name") == "latency" else ()
        gone = ("seconds", "latency", "memory", "peak_memory_mb", *found)
        return {key: _timeless(item) for key, item in value.items() if key not in gone}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "nothing"


def make_reference(names: Sequence[str], code: Path, runs: Path, places: Mapping[str, Path]) -> None:
    """Run what the tag's code has not yet run, of these scenarios and those that they read from."""
    versions = [torch.__version__, timm.__version__, np.__version__, torch.backends.cpu.get_cpu_capability()]
    for name in dict.fromkeys([*SHARED, *names]):
        read = SHARED[: SHARED.index(name)] if name in SHARED else SHARED
        made_of = [versions, *([asdict(part) for part in SCENARIOS[each]] for each in (*read, name))]
        marker, begun = runs / name / ".done", time.monotonic()
        if not marker.is_file() or marker.read_text() != json.dumps(made_of):
            run(SCENARIOS[name], runs / name, code, places)
            if name == "data":
                write_named(places["data"], places["named"], code / "onehead_cli/shipped/student.safetensors")
            marker.write_text(json.dumps(made_of))
            print(f"{name}: the tag's run took {time.monotonic() - begun:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--tag", default="boxes-a", help="what this code is compared with [default: boxes-a]")
    parser.add_argument("--reference", type=Path, help="where the tag's code and files stay [default: a temp folder]")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(SCENARIOS)}")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(SCENARIOS)
    if unknown := set(chosen) - SCENARIOS.keys():
        parser.error(f"--only {','.join(sorted(unknown))}: there are {', '.join(SCENARIOS)}")
    resolve = ["git", "-C", str(TODAY), "rev-parse", f"{options.tag}^{{commit}}"]
    commit = subprocess.run(resolve, check=True, capture_output=True, text=True).stdout.strip()
    reference = (options.reference or Path(tempfile.gettempdir(), "onehead-golden")).resolve() / commit[:12]
    reference.mkdir(parents=True, exist_ok=True)
    code, runs = extract(commit, reference), reference / "runs"
    places = {"tag": code, "data": runs / "data/data", "named": reference / "named", "teachers": runs / "plain/out"}
    make_reference(chosen, code, runs, places)

    total, found = Counter[str](), list[str]()
    for name in chosen:
        begun, comparison = time.monotonic(), Comparison((code, TODAY), stopped=name in STOPPED)
        with tempfile.TemporaryDirectory() as folder:
            try:
                run(STOPPED.get(name, SCENARIOS[name]), Path(folder, name), TODAY, places)
                comparison.folders(runs / name, Path(folder, name))
            except ChildProcessError as error:
                comparison.found.append(str(error))
        verdict = f"{len(comparison.found)} DIFFERENCES in" if comparison.found else "equal:"
        print(f"{name}: {verdict} {_said(comparison.counts)} ({time.monotonic() - begun:.0f} s)", flush=True)
        print("".join(f"  note: {note}\n" for note in comparison.notes), end="", flush=True)
        found += [f"DIFFERENT in {name}: {line}" for line in comparison.found]
        total += comparison.counts
    print(f"compared with {options.tag} ({commit[:12]}): {_said(total)}", *found, sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
