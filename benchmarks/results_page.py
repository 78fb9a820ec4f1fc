"""Write docs/RESULTS.md and its plots from the kept results; `make results` ends with it.

    python benchmarks/results_page.py --config configs/lite-long.yaml --seeds 0,1,2

Reads only the JSON files of benchmarks/results.py, benchmarks/specialists.py and benchmarks/ablation.py: every figure
of the page is computed from them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from report import ablations, details, scores, verdicts
from report.data import FULL, PLAIN, TEST, VAL, Document, Results, differing_settings, load_results
from report.text import Lines, listed, teacher_epochs

from onehead_cli.files.atomic import write_atomically
from onehead_cli.registry import TASKS

DEFAULT_CONFIG = Path("configs/lite-long.yaml")
DEFAULT_RESULTS = Path("benchmarks/results")


def page(results: Results, *, pictures: Path) -> str:
    """The whole page; plots are written into `pictures`, whose other files it shows where they are there."""
    compared = [ablations.table, ablations.outcomes]
    if results.finals[FULL]:
        sections = [
            scores.final_tables,
            verdicts.goals,
            verdicts.drops,
            scores.beside_the_reference,
            lambda found: scores.conversions(found, pictures),
            *compared,
            details.per_class,
            details.errors,
            lambda found: details.curves(found, pictures),
            lambda found: details.sheet(pictures),
            details.time_and_machine,
        ]
    else:
        sections = [lambda found: ["No seed of the full recipe is finished yet."], *compared]
    parts = [["# Results", *_what_this_is(results)], *(section(results) for section in sections)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _what_this_is(results: Results) -> Lines:
    seeds = listed(results.wanted, ",")
    full = list(results.finals[FULL].values())
    config, folder = f"configs/{results.config}", _place(results.folder)
    options = "" if config == DEFAULT_CONFIG.as_posix() else f"--config {config} "
    options += "" if folder == DEFAULT_RESULTS.as_posix() else f"--results {folder} "
    lines = [
        "",
        f"Written by `benchmarks/results_page.py` from the JSON files in `{folder}/`. But for the floors, the targets",
        "and the reference's published scores, no figure here is typed by hand. `make results` trains what is missing,",
        "measures it and writes this page anew:",
        "",
        "```sh",
        f"python benchmarks/results.py --config {config} --data data --seeds {seeds}",
        f"python benchmarks/results_page.py {options}--seeds {seeds}",
        "```",
        "",
        f"val chooses {_chosen(full)}, and chose the recipe, so scores on val, and the pooled scores that include",
        "them, are slightly optimistic. test chooses nothing and is read only after the training. Each figure is the",
        "mean over the seeds that are there ± their sample deviation; differences are taken seed by seed.",
        "",
        "| part | seeds here | seeds missing |",
        "|---|---|---|",
    ]
    parts = {
        "full: the config as it is": results.finals[FULL],
        "plain: the same without the conversions of labels": results.finals[PLAIN],
    }
    parts |= {f"long baseline {task}": docs for task, docs in results.long_baselines.items()}
    parts |= {f"specialist {task}: {scores.SPECIALISTS[task]}": docs for task, docs in results.specialists.items()}
    lines += [
        f"| {name} | {listed(docs) or 'none'} | {listed(results.missing(docs)) or 'none'} |"
        for name, docs in parts.items()
    ]
    if full:
        lines += ["", *_setting(full[0])]
    for differing in _unlike(results):
        lines += ["", f"**Not of one kind:** {differing}."]
    return lines


def _chosen(full: Sequence[Document]) -> str:
    """What val decides of each network."""
    last = full and all(full[0]["config"][network].get("keep") == "last" for network in ("teacher", "student"))
    return "thresholds" if last else "epochs and thresholds"


def _place(folder: Path) -> str:
    """A folder below the repository as seen from there; of another only the name, as its place is nobody's concern."""
    root, folder = Path(__file__).resolve().parent.parent, folder.resolve()
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else folder.name


def _setting(document: Document) -> Lines:
    config, evaluation = document["config"], document["evaluation"]
    images = {name: " / ".join(str(part["pictures"][task]) for task in TASKS) for name, part in evaluation.items()}
    manifest = document.get("manifest")
    return [
        f"{config['model']['backbone']} at {config['data']['image_size']} px; teachers "
        f"{teacher_epochs(config)}, student {config['student']['epochs']}. Images of cls / seg / det: "
        f"val {images[VAL]}, test {images[TEST]}." + (f" Manifest of the data: `{manifest[:12]}`." if manifest else "")
    ]


def _unlike(results: Results) -> Lines:
    """What differs between the configs of units that a mean puts together, and of the specialists from full's."""
    found: Lines = []
    for recipe, docs in results.finals.items():
        found += [f"{recipe}: {line}" for line in differing_settings({f"seed {s}": d for s, d in docs.items()})]
    full = {f"full, seed {seed}": doc for seed, doc in results.finals[FULL].items()}
    plain = {f"plain, seed {seed}": doc for seed, doc in results.finals[PLAIN].items()}
    if full and plain:
        found += [f"full and plain: {line}" for line in differing_settings(full | plain, ignored=scores.CONVERSIONS)]
    for task, docs in results.specialists.items():
        named = {f"specialist {task}, seed {seed}": doc for seed, doc in docs.items()}
        if named:
            found += [f"specialist {task}: {line}" for line in differing_settings(full | named)]
    units = [*results.finals.values(), *results.specialists.values(), *results.long_baselines.values()]
    data = {split: found for docs in units for doc in docs.values() for split, found in doc["data"].items()}
    if any(doc["data"].items() - data.items() for docs in units for doc in docs.values()):
        found += ["the units were made from different images or labels"]
    return list(dict.fromkeys(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="those that there are to be; what is missing is named")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="what the results were made with")
    parser.add_argument("--results", type=Path, default=DEFAULT_RESULTS, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=Path("docs/RESULTS.md"), help="with pictures in docs/results")
    given = parser.parse_args()
    if not all(seed.isdigit() for seed in given.seeds.split(",")):
        parser.error(f"--seeds {given.seeds}: give numbers such as 0,1,2")
    results = load_results(given.results, [int(seed) for seed in given.seeds.split(",")], given.config.name)
    pictures = given.page.parent / given.page.stem.lower()
    pictures.mkdir(parents=True, exist_ok=True)
    text = page(results, pictures=pictures)
    write_atomically(given.page, lambda file: file.write(text.encode()))
    print(given.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
