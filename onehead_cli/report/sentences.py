"""What the report says in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onehead_cli.evaluation.drop_check import Drop
from onehead_cli.tasks.task import get_task
from onehead_cli.wording import how_many


def verdict_in_words(drop: Drop, *, against: str, images: int) -> str:
    """A sentence or two on one task. Args: against: what the baseline is called. images: of the split."""
    task = get_task(drop.task)
    metric, unit = task.metric.label, f" {task.metric.unit}" if task.metric.unit else ""
    owner = "the teacher's" if against == "teacher" else f"that of {against}"
    limit = f"{100 * drop.limit:g}% of the baseline's score" if drop.relative else f"{drop.limit:g}{unit}"
    change = abs(drop.diff)
    if round(change, 4) == 0:
        moved = f"{metric} is the same as {owner}"
    else:
        gained = task.metric.sign * drop.diff > 0
        moved = f"{metric} is {change:.4f}{unit} {'better' if gained else 'worse'} than {owner}"
    interval = f"the 95% interval of the difference runs from {drop.low:+.4f} to {drop.high:+.4f}"
    if drop.verdict == "PASS":
        said = f"all of it stays within the limit of {limit}, so less than that was lost, if anything"
    elif drop.verdict == "FAIL":
        said = f"all of it lies beyond the limit of {limit}, so more than that was lost"
    elif drop.reason is not None:
        return f"On {how_many(images, 'image')}: {drop.reason}. No conclusion is possible."
    else:
        said = f"the limit of {limit} lies inside it, so these images cannot decide"
        if drop.images_to_decide is not None:
            said += f"; about {drop.images_to_decide:,} would, if the difference stays the same"
    return f"On {how_many(images, 'image')} {moved}; {interval}: {said}."


def not_shown(document: Mapping[str, Any], imagenet: str) -> list[str]:
    """What the report is silent about, and what it may not be taken for. Args: imagenet: see `imagenet_sentence`."""
    found = [
        "The interval covers the choice of images: it says how far the scores of other images of the same kind may "
        "differ. Another training seed would move the scores as well; for that, train and evaluate with --seeds.",
        "Scores on these images say little about images of another kind, place or time.",
        "Each task is judged on images labelled for that task only, so whether the tasks agree with one another on "
        "one image is not measured.",
    ]
    small = [name for name, count in document["pictures"].items() if count < 100]
    if small:
        found.append(f"Few images ({', '.join(small)}): a single one can move a score by more than one percent.")
    if imagenet:
        found.append(imagenet)
    if "test" not in document["splits"]:
        found.append("These are not the test images: thresholds and weights may have been chosen on them.")
    return found
