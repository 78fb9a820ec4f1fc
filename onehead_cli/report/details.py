"""What report.html shows, as plain values: they stand in evaluate.json, and the page is drawn from them."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onehead_cli import __version__
from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.checkpoint.networks import best_path
from onehead_cli.config.sections import Config
from onehead_cli.data.manifest import licences, manifest_hash
from onehead_cli.evaluation.compare import Comparison, EvaluateResult
from onehead_cli.evaluation.drop_check import interval_of_score
from onehead_cli.evaluation.report import imagenet_sentence, limit_in_words
from onehead_cli.files.checksum import sha256_of
from onehead_cli.report.cost import costs
from onehead_cli.report.sentences import not_shown, verdict_in_words
from onehead_cli.runtime.compute import precision_name, processor_name
from onehead_cli.tasks.reader import Result
from onehead_cli.tasks.task import get_task
from onehead_cli.training.log import read_run
from onehead_cli.wording import readable
from onehead_cli.wording import shown as shown_text


@dataclasses.dataclass(frozen=True)
class Shown:
    """One network of the report. label: in tables. results: by task. files: the checkpoint of each task."""

    label: str
    networks: Mapping[str, Checkpoint]
    results: Mapping[str, Result]
    files: Mapping[str, Path]


def shown_networks(result: EvaluateResult, config: Config) -> list[Shown]:
    """The network that is judged, last, and before it what it is compared with; each has a label of its own."""
    found = [_other(comparison, result, config) for comparison in result.comparisons]
    if result.unified:
        files = dict.fromkeys(result.unified, result.checkpoint)
        network = next(iter(result.networks.values()))
        label = "student" if len(network.architecture.tasks) > 1 else network.name
        found.append(Shown(label, result.networks, result.unified, files))
    found = [shown for shown in found if shown.results]
    taken: set[str] = set()
    for place in reversed(range(len(found))):  # the one that is judged keeps its label
        label, count = found[place].label, 1
        while found[place].label in taken:
            count += 1
            found[place] = dataclasses.replace(found[place], label=f"{label} ({count})")
        taken.add(found[place].label)
    return found


def _other(comparison: Comparison, result: EvaluateResult, config: Config) -> Shown:
    label, tasks, path = "teacher", comparison.networks, comparison.against
    if path is None:
        folder = config.teachers_folder
        files = (
            {task: best_path(folder, task) for task in tasks}
            if result.unified
            else dict.fromkeys(tasks, result.checkpoint)
        )
    else:
        # "teacher" alone stands for the config's own.
        label = shown_text(path.name if path.name != "teacher" else str(path))
        names = {task: network.name for task, network in tasks.items()}
        files = {task: best_path(path, names[task]) if path.is_dir() else path for task in tasks}
    return Shown(label, tasks, comparison.results, files)


def report_details(result: EvaluateResult, config: Config) -> dict[str, Any]:
    """All numbers of the report by section, but for those of single images."""
    networks = shown_networks(result, config)
    tasks = list(dict.fromkeys(task for shown in networks for task in shown.results))
    document = result.document
    return {
        "verdicts": list(_verdicts(result, networks)),
        "limit": limit_in_words(result.drops) if result.drops else None,
        "scores": [row for shown in networks for row in _scores(shown, config)],
        "cost": costs(networks, config),
        "per_class": {task: _per_class(task, networks) for task in tasks},
        "figures": {task: _figures(task, networks) for task in tasks},
        "training": _training(networks),
        "data": _data(result, networks, config),
        "provenance": _provenance(result, networks, config),
        "not_shown": not_shown(document, imagenet_sentence(document["imagenet_classes"])),
    }


def _verdicts(result: EvaluateResult, networks: Sequence[Shown]) -> Iterator[dict[str, Any]]:
    compared = [comparison for comparison in result.comparisons if comparison.results]
    for comparison, shown in zip(compared, networks, strict=False):
        for drop in comparison.drops:
            task = get_task(drop.task)
            images = len(result.unified[drop.task])
            yield {
                **dataclasses.asdict(drop),
                "title": task.title,
                "label": task.metric.label,
                "unit": task.metric.unit,
                "sign": task.metric.sign,
                "against": shown.label,
                "images": images,
                "sentence": verdict_in_words(drop, against=shown.label, images=images),
            }


def _scores(shown: Shown, config: Config) -> Iterator[dict[str, Any]]:
    for name, result in shown.results.items():
        task = get_task(name)
        for metric in task.metrics:
            row = {
                "task": name,
                "title": task.title,
                "network": shown.label,
                "metric": metric.label,
                "unit": metric.unit,
            }
            value = result.scores().get(metric.key)
            low, high = None, None
            if metric == task.metric and value is not None:
                settings = config.evaluation
                low, high = interval_of_score(result, resamples=settings.resamples, seed=config.seed)
            yield {**row, "value": value, "low": low, "high": high}


def _per_class(name: str, networks: Sequence[Shown]) -> dict[str, Any]:
    """Classes by what the last network lost against the first in the first score; those without last."""
    task = get_task(name)
    tables = {shown.label: shown.results[name].per_class() for shown in networks if name in shown.results}
    labels, rows = list(tables), []
    for same in zip(*tables.values(), strict=True):
        values = {
            label: {key: row.get(key) for key in task.class_scores} for label, row in zip(labels, same, strict=True)
        }
        rows.append(
            {"name": readable(str(same[0]["name"])), "count": same[0]["count"], "values": values, "change": None}
        )
        key = next(iter(task.class_scores), "")
        first, last = values[labels[0]].get(key), values[labels[-1]].get(key)
        if len(labels) > 1 and first is not None and last is not None:
            rows[-1]["change"] = last - first
    rows.sort(key=lambda row: (row["change"] is None, task.metric.sign * (row["change"] or 0.0)))
    return {"counted": task.counted, "scores": dict(task.class_scores), "networks": labels, "rows": rows}


def _figures(name: str, networks: Sequence[Shown]) -> list[dict[str, Any]]:
    """Each figure with what each network has of it."""
    found: dict[str, dict[str, Any]] = {}
    for shown in networks:
        if name not in shown.results:
            continue
        for figure in get_task(name).figures(shown.results[name], shown.networks[name].thresholds):
            values = dataclasses.asdict(figure)
            title = values.pop("title")
            entry = found.setdefault(title, {"title": title, "kind": type(figure).__name__.lower(), "networks": {}})
            entry["networks"][shown.label] = values
    return list(found.values())


def _training(networks: Sequence[Shown]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for shown in networks:
        for task, file in shown.files.items():
            path = file.parent / f"{shown.networks[task].name}.jsonl"
            if path not in [run["log"] for run in found] and (run := read_run(path)) is not None:
                found.append({"network": shown.label, "name": shown.networks[task].name, "log": path, **run})
    return [{**run, "log": os.fsdecode(run["log"])} for run in found]


def _data(result: EvaluateResult, networks: Sequence[Shown], config: Config) -> dict[str, Any]:
    tasks = list(dict.fromkeys(task for shown in networks for task in shown.results))
    classes = {}
    for task in tasks:
        rows = next(shown.results[task] for shown in networks if task in shown.results).per_class()
        counts = {readable(str(row["name"])): row["count"] for row in rows}
        # Beside the background no other class would have a bar to be seen.
        background = next(iter(counts), None) if get_task(task).histogram.has_background else None
        bars = {name: count for name, count in counts.items() if name != background}
        classes[task] = {"counted": get_task(task).counted, "counts": counts, "shown": bars}
    return {
        "root": str(config.data.root),
        "splits": list(result.document["splits"]),
        "images": result.document["pictures"],
        "classes": classes,
        "skipped": result.document["skipped"],
        "manifest": manifest_hash(config, tasks),
        "trained_on": {
            f"{shown.label} {network.name}": network.data.get("manifest")
            for shown in networks
            for network in shown.networks.values()
        },
        "licences": dict(Counter(licences(config.data.root)).most_common()),
    }


def _provenance(result: EvaluateResult, networks: Sequence[Shown], config: Config) -> dict[str, Any]:
    files = {}
    for shown in networks:
        for task, file in shown.files.items():
            network = shown.networks[task]
            files[f"{shown.label} {network.name}"] = {
                "file": shown_text(str(file)),
                "sha256": sha256_of(file) if file.is_file() else None,
                "backbone": network.architecture.backbone,
                "image_size": network.preprocess["image_size"],
                "epoch": network.epoch,
                "seed": network.seed,
                **{key: network.origin.get(key) for key in ("precision", "processor", "commit")},
            }
    measurer = result.measurer
    return {
        "networks": files,
        "onehead": __version__,
        "torch": _version("torch"),
        "numpy": np.__version__,
        "device": measurer.device.type,
        "processor": processor_name(measurer.device),
        "precision": precision_name(measurer.precision),
        "resamples": config.evaluation.resamples,
        "seed": config.seed,
    }


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)
