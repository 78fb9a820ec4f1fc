"""The kept results as the page reads them: which seeds are there, scores by seed, means, deviations, differences."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import frequent_map

from onehead_cli.registry import TASKS
from onehead_cli.tasks.task import get_task

Document = dict[str, Any]
#: A figure of each seed; seeds without one are left out.
BySeed = dict[int, float]

FULL, PLAIN = "full", "plain"
UNIFIED, BASELINE = "unified", "baseline"
POOLED, VAL, TEST = "pooled", "val", "test"


@dataclass(frozen=True)
class Results:
    """The kept documents.

    finals: recipe -> seed -> document of results.py. specialists: task -> seed -> document of specialists.py.
    long_baselines: task -> seed -> document of long_baselines.py. comparison: the rows of ablation.py; runs: its
    documents. wanted: the seeds that there are to be. folder: where they are. config: the file that finals, specialists
    and long baselines were made with. others: file of another config -> seed -> its document of the full recipe.
    """

    finals: dict[str, dict[int, Document]]
    specialists: dict[str, dict[int, Document]]
    long_baselines: dict[str, dict[int, Document]]
    comparison: list[Document]
    runs: list[Document]
    wanted: list[int]
    folder: Path
    config: str
    others: dict[str, dict[int, Document]]

    def score(self, recipe: str, report: str, who: str, task: str) -> BySeed:
        """The main score of student or teachers.

        Args: report: pooled, val or test. who: unified or baseline.
        """
        metric = get_task(task).metric.key
        return _by_seed(self.finals[recipe], lambda doc: doc["evaluation"][report][who][metric])

    def difference(self, recipe: str, report: str, task: str) -> BySeed:
        """Unified minus its own baseline."""
        return minus(self.score(recipe, report, UNIFIED, task), self.score(recipe, report, BASELINE, task))

    def specialist(self, report: str, task: str) -> BySeed:
        return _by_seed(
            self.specialists[task], lambda doc: doc["scores"].get(report, {}).get(get_task(task).metric.key)
        )

    def long_baseline(self, report: str, task: str) -> BySeed:
        return _by_seed(
            self.long_baselines[task], lambda doc: doc["scores"].get(report, {}).get(get_task(task).metric.key)
        )

    def lead(self, recipe: str, report: str, other: Callable[[str, str], BySeed], task: str) -> BySeed:
        """Unified minus `other`, which gives a score of a report and task."""
        return minus(self.score(recipe, report, UNIFIED, task), other(report, task))

    def imagenet(self, report: str) -> BySeed:
        """Top-1 of the untouched ImageNet classifier; empty where it does not know the classes."""
        return _by_seed(self.finals[FULL], lambda doc: (doc["imagenet_classifier"] or {}).get(report))

    def per_class(self, report: str, who: str, task: str) -> list[list[Document]]:
        """The rows per class of each seed of the full recipe."""
        return [doc["evaluation"][report]["per_class"][task][who] for doc in self.finals[FULL].values()]

    def frequent(self, recipe: str, who: str, report: str) -> BySeed:
        """mAP over the classes with enough boxes, of student or teacher."""
        docs = self.finals[recipe]
        return _by_seed(docs, lambda doc: frequent_map(doc["evaluation"][report]["per_class"]["det"][who]))

    def frequent_specialist(self, report: str) -> BySeed:
        return _by_seed(self.specialists["det"], lambda doc: frequent_map(doc["per_class"].get(report, [])))

    def frequent_long_baseline(self, report: str) -> BySeed:
        return _by_seed(self.long_baselines["det"], lambda doc: frequent_map(doc["per_class"].get(report, [])))

    def class_ap(self, name: str) -> BySeed:
        """AP of a class of detection, pooled, of the full recipe's student."""
        return _by_seed(
            self.finals[FULL], lambda doc: _ap_of(name, doc["evaluation"][POOLED]["per_class"]["det"][UNIFIED])
        )

    def class_ap_specialist(self, name: str) -> BySeed:
        return _by_seed(self.specialists["det"], lambda doc: _ap_of(name, doc["per_class"].get(POOLED, [])))

    def shown_boxes(self, report: str, what: str) -> BySeed:
        """Args: what: precision or recall of the boxes that the student's thresholds show; 0.1.0 did not keep them."""
        return _by_seed(self.finals[FULL], lambda doc: doc["evaluation"][report].get("shown_boxes", {}).get(what))

    def on_train(self, who: str, task: str) -> BySeed:
        """The main score of the full recipe's student or teachers on the images that they learned from, as they are."""
        metric = get_task(task).metric.key
        return _by_seed(self.finals[FULL], lambda doc: doc.get("on_train", {}).get(who, {}).get(metric))

    def missing(self, docs: Mapping[int, Document]) -> list[int]:
        return [seed for seed in self.wanted if seed not in docs]


def load_results(folder: Path, wanted: Sequence[int], config: str) -> Results:
    """What a folder of results has of the wanted seeds and of a config, and all ablations; other files do no harm.

    What a document is, it says itself; 0.1.0's do not all name their config, and all have the same.
    """
    finals: dict[str, dict[int, Document]] = {FULL: {}, PLAIN: {}}
    specialists: dict[str, dict[int, Document]] = {task: {} for task in TASKS}
    long_baselines: dict[str, dict[int, Document]] = {task: {} for task in TASKS}
    comparison: list[Document] = []
    runs: list[Document] = []
    others: dict[str, dict[int, Document]] = defaultdict(dict)
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, list):
            comparison += document
        elif {"name", "network", "set", "scores"} <= document.keys():
            runs.append(document)
        elif (made_with := document.get("config_file", config)) != config:
            if document.get("recipe") == FULL:
                others[made_with][document["seed"]] = document
        elif "recipe" in document:
            finals[document["recipe"]][document["seed"]] = document
        elif "specialist" in document:
            specialists[document["specialist"]][document["seed"]] = document
        elif "long_baseline" in document:
            long_baselines[document["long_baseline"]][document["seed"]] = document
    return Results(
        finals={recipe: _only(docs, wanted) for recipe, docs in finals.items()},
        specialists={task: _only(docs, wanted) for task, docs in specialists.items()},
        long_baselines={task: _only(docs, wanted) for task, docs in long_baselines.items()},
        comparison=comparison,
        runs=runs,
        wanted=list(wanted),
        folder=folder,
        config=config,
        others=dict(others),
    )


def _ap_of(name: str, rows: Sequence[Document]) -> float | None:
    return next((row["ap"] for row in rows if row["name"] == name), None)


def minus(a: BySeed, b: BySeed) -> BySeed:
    """The difference of each seed that both have."""
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.fmean(found) if found else None


def deviation(values: Iterable[float]) -> float | None:
    """The sample deviation; None for fewer than two values."""
    found = list(values)
    return statistics.stdev(found) if len(found) > 1 else None


def shown(values: BySeed | Sequence[float], form: str = ".4f") -> str:
    """`mean ± deviation`, the deviation where there are several values; a dash where there is none."""
    found = list(values.values()) if isinstance(values, dict) else list(values)
    centre, spread = mean(found), deviation(found)
    if centre is None:
        return "–"
    text = format(centre, form)
    if float(text) == 0:  # a tiny negative difference, which would read as -0.0000
        text = format(0.0, form)
    return text if spread is None else f"{text} ± {format(spread, form.lstrip('+'))}"


def differing_settings(documents: Mapping[str, Document], *, ignored: Sequence[str] = ()) -> list[str]:
    """The keys whose values are not the same in all configs, as "key: value (name, name), value (name)"."""
    flat = {name: _flat(document["config"]) for name, document in documents.items()}
    keys = sorted({key for config in flat.values() for key in config})
    lines = []
    for key in keys:
        values: dict[str, list[str]] = {}
        for name, config in flat.items():
            if key in config:
                values.setdefault(str(config[key]), []).append(name)
        if len(values) > 1 and not key.startswith(("seed", *ignored)):
            lines.append(f"{key}: " + ", ".join(f"{value} ({', '.join(names)})" for value, names in values.items()))
    return lines


def _only(documents: Mapping[int, Document], wanted: Sequence[int]) -> dict[int, Document]:
    """Others would be a choice of seeds after the fact."""
    return {seed: documents[seed] for seed in wanted if seed in documents}


def _by_seed(documents: Mapping[int, Document], read: Callable[[Document], float | None]) -> BySeed:
    found = {seed: read(document) for seed, document in documents.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
