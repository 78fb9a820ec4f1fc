"""Shows what datasets hold: a sheet of labelled samples and a histogram of the labels per task, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onehead_cli.config.sections import IGNORE_INDEX, Config
from onehead_cli.data.cache import CacheBudget
from onehead_cli.data.format import get_format
from onehead_cli.data.images import open_image
from onehead_cli.data.listings import Listings
from onehead_cli.data.split import Loading, Split
from onehead_cli.drawing import LIGHT, class_colours, class_text, numbers_for_names
from onehead_cli.errors import DataError
from onehead_cli.events import Reporter
from onehead_cli.files.json_files import SCHEMA, write_json
from onehead_cli.preview.histograms import count_labels, counts_document
from onehead_cli.preview.label_chart import Panel, draw_chart
from onehead_cli.preview.sample_sheet import Sample, draw_sheet
from onehead_cli.registry import TASKS, seed_of
from onehead_cli.tasks.labels import LabelCounts
from onehead_cli.tasks.task import get_task
from onehead_cli.wording import how_many

LABELS_FILE = "labels.json"
#: On a sheet, shared out among the splits.
_SAMPLES = 12
_VOID = "void (no class)"


def preview_data(
    config: Config, *, splits: Sequence[str], folder: Path, seed: int, reporter: Reporter
) -> dict[str, Any]:
    """Write {task}.png, {task}_histogram.png and labels.json into `folder` and return what labels.json holds.

    A dataset or split that is not there is passed over with a note.

    Args:
        seed: chooses the samples.

    Raises:
        DataError: none of the datasets is there, one cannot be read, or a file cannot be written.
    """
    listings = Listings(config)
    loaded, missing = _load(config, listings, splits, reporter)
    tasks: dict[str, Any] = {}
    images: dict[str, Image.Image] = {}
    classes: dict[str, list[str]] = {}
    with reporter.track("preview", sum(len(s) for found in loaded.values() for s in found.values())) as advance:
        done = 0

        def count(name: str) -> None:
            nonlocal done
            done += 1
            advance(done, name)

        for task, found in loaded.items():
            counts = {split: count_labels(listings.get(task, split), count) for split in found}
            sheet, histogram = f"{task}.png", f"{task}_histogram.png"
            images[sheet] = _sheet(task, found, counts, seed)
            images[histogram] = _histogram(task, counts)
            tasks[task] = {
                "sheet": sheet,
                "histogram": histogram,
                "splits": {split: counts_document(get_task(task), each) for split, each in counts.items()},
            }
            classes[task] = _all_classes(counts)
    if warning := numbers_for_names(classes):
        reporter.warn(warning)
    document = {
        "schema": SCHEMA,
        "command": "prepare-data",
        "preview": str(folder),
        "seed": seed,
        "missing": missing,
        "tasks": tasks,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task in TASKS:
            for name in (f"{task}.png", f"{task}_histogram.png"):
                if name in images:
                    images[name].save(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)  # of an earlier preview, when the dataset was there
        write_json(document, folder / LABELS_FILE, indent=1)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); "
            "choose another folder with --preview-dir"
        ) from None
    return document


def _load(
    config: Config, listings: Listings, splits: Sequence[str], reporter: Reporter
) -> tuple[dict[str, dict[str, Split]], list[str]]:
    """The splits that are there by task, and the names of those that are not."""
    loaded: dict[str, dict[str, Split]] = {}
    missing = []
    for task in config.data.tasks:
        for split in splits:
            if not get_format(task).is_there(config, split):
                missing.append(f"{task} {split}")
                continue
            listing = listings.get(task, split)
            found = get_task(task).load(listing, config, Loading("bilinear", CacheBudget(0)))
            for warning in found.warnings:
                reporter.warn(warning)
            loaded.setdefault(task, {})[split] = found
    if not loaded:
        raise DataError(f"{config.data.root}: contains none of the datasets; create them with `onehead prepare-data`")
    if missing:
        reporter.note(f"{', '.join(missing)}: missing, skipped")
    return loaded, missing


def _sheet(task: str, found: Mapping[str, Split], counts: Mapping[str, LabelCounts], seed: int) -> Image.Image:
    chosen = _choose(counts, np.random.default_rng([seed, seed_of(task)]))
    samples = [_sample(found[split], split, index) for split, index in chosen]
    names = _all_classes(counts)
    texts = {name: class_text(name, number) for number, name in enumerate(names)}
    drawn = {name for sample in samples for _, name, _ in sample.label.boxes}
    if drawn:
        colours = class_colours(names)
        legend = {name: colour for name, colour in colours.items() if name in drawn}
        return draw_sheet(samples, texts=texts, box_colours=colours, legend=legend)
    if not any(sample.label.mask is not None for sample in samples):
        return draw_sheet(samples, texts=texts)
    colours = class_colours(names[1:])  # the background is left as it is
    table = np.zeros((256, 3), dtype=np.uint8)
    table[1 : len(names)] = [colours[name] for name in names[1:]]
    table[IGNORE_INDEX] = LIGHT
    shown = frozenset[str | None]().union(*(counts[split].shown[index] for split, index in chosen))
    legend = {name: colour for name, colour in colours.items() if name in shown}
    legend |= {_VOID: LIGHT} if None in shown else {}
    return draw_sheet(samples, texts=texts, mask_colours=table, legend=legend)


def _choose(counts: Mapping[str, LabelCounts], rng: np.random.Generator) -> list[tuple[str, int]]:
    """Split and index of each sample: drawn at random, those that show something new before the others."""
    chosen: list[tuple[str, int]] = []
    seen: set[str | None] = set()
    for split, counted in counts.items():
        order = rng.permutation(len(counted.shown)).tolist()
        for _ in range(min(max(_SAMPLES // len(counts), 1), len(order))):
            index = next((i for i in order if counted.shown[i] - seen), order[0])
            order.remove(index)
            seen |= counted.shown[index]
            chosen.append((split, index))
    return chosen


def _sample(found: Split, split: str, index: int) -> Sample:
    found.batch([index])  # refuses what training would refuse, such as boxes for an image of another size
    path = found.paths[index]
    image, label = open_image(path), get_task(found.task).show_label(found, index)
    if label.panel is not None:
        image = _side_by_side(image, label.panel)
    return Sample(image, f"{split} · {path.name}", label)


def _side_by_side(image: Image.Image, panel: Image.Image) -> Image.Image:
    both = Image.new("RGB", (2 * image.width, image.height))
    both.paste(image, (0, 0))
    both.paste(panel.resize(image.size, Image.Resampling.BILINEAR), (image.width, 0))
    return both


def _histogram(task: str, counts: Mapping[str, LabelCounts]) -> Image.Image:
    diagram = get_task(task).histogram
    classes = _all_classes(counts)
    names: list[str | None] = [*classes]
    legend = {split: f"{split}: {how_many(len(counted.sizes), 'image')}" for split, counted in counts.items()}
    if diagram.has_background:
        # Beside the background no other class would have a bar to be seen.
        del names[0]
        for split, counted in counts.items():
            ground, void = (counted.amounts[name] / counted.amounts.total() for name in (classes[0], None))
            legend[split] += f"; {counted.unit}: {ground:.1%} {class_text(classes[0], 0)}, {void:.1%} void"
    if diagram.nothing is not None:
        names.append(None)
    images = {split: [counted.images(name) for name in names] for split, counted in counts.items()}
    amounts = {split: [counted.amounts[name] for name in names] for split, counted in counts.items()}
    units = {counted.unit for counted in counts.values()}
    panels = [Panel(title, amounts if title in units else images) for title in diagram.panels]
    rows = [str(diagram.nothing) if name is None else class_text(name, classes.index(name)) for name in names]
    return draw_chart(rows, panels, splits=legend)


def _all_classes(counts: Mapping[str, LabelCounts]) -> list[str]:
    """Of all splits: one of them may lack a class that another has."""
    return list(dict.fromkeys(name for counted in counts.values() for name in counted.classes))
