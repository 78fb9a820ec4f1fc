"""The draw: which images of an official split go where. The same seed gives the same images on any machine."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from onehead_cli.data.layout import DATASET_FOLDERS, SPLITS
from onehead_cli.errors import DataError
from onehead_cli.files.checksum import sha256_of

#: The classes of each image that may be drawn, by its name.
Pool = Mapping[str, Collection[int]]


class Draw:
    """The draw of one task. sizes: images per split."""

    def __init__(self, task: str, sizes: tuple[int, int, int], seed: int, seen: set[str]) -> None:
        """Args: seen: sha256 of the images that other tasks have drawn; those of this one are added."""
        self.sizes = dict(zip(SPLITS, sizes, strict=True))
        self._folder = DATASET_FOLDERS[task]
        self._key = f"{seed}/{task}"
        self._seen = seen

    def pick(self, pool: Pool, sizes: Mapping[str, int], where: str) -> dict[str, list[str]]:
        """The images of each split by name alone: `take` begins with these.

        Raises:
            DataError: the pool is too small; `where` says what it is.
        """
        wanted = sum(sizes.values())
        if len(pool) < wanted:
            raise DataError(
                f"{self._folder} {' and '.join(sizes)}: found {len(pool)} unused images in {where}, "
                f"asked for {wanted}; ask for fewer, or complete the dataset"
            )
        return draw_splits(pool, sizes, key=self._key)

    def take(
        self, pool: Pool, sizes: Mapping[str, int], where: str, get: Callable[[Sequence[str]], Mapping[str, Path]]
    ) -> dict[str, dict[str, Path]]:
        """The images of each split and where they lie, no content twice, neither here nor in another task.

        What an image holds is known only once `get` has brought it. So all that are drawn are brought at once, those
        that repeat another are struck from the pool, and the draw is made anew until none does.

        Raises:
            DataError: as for `pick`.
        """
        left = dict(pool)
        paths: dict[str, Path] = {}
        digests: dict[str, str] = {}
        while True:
            drawn = self.pick(left, sizes, where)
            names = [name for split in drawn.values() for name in split]
            paths |= get([name for name in names if name not in paths])
            digests |= {name: sha256_of(paths[name]) for name in names if name not in digests}
            found: set[str] = set()
            for name in names:
                if digests[name] in self._seen or digests[name] in found:
                    del left[name]
                found.add(digests[name])
            if all(name in left for name in names):
                self._seen |= found
                return {split: {name: paths[name] for name in chosen} for split, chosen in drawn.items()}


def draw_splits(pool: Pool, sizes: Mapping[str, int], *, key: str) -> dict[str, list[str]]:
    """Deal the images of a pool to splits so that rare classes stand in each of them; each split's names sorted.

    First, in rounds, each class, the rarest first, is given one more image in each split, until half the split is
    dealt equally to the classes (at least one round). Then each split is filled from the pool whatever the classes.
    In both, images come in the order of a sha256 of the key and their name: it depends on nothing else.

    With C classes and s splits of at least C images, a class of more than (s - 1) x C images stands in each.

    Args:
        sizes: images of each split; together no more than the pool has.
    """
    order = sorted(pool, key=lambda name: hashlib.sha256(f"{key}/{name}".encode()).digest())
    images = Counter(label for labels in pool.values() for label in set(labels))
    rarest_first = sorted(images, key=lambda label: (images[label], label))
    queues: dict[int, deque[str]] = {label: deque() for label in rarest_first}
    for name in order:
        for label in set(pool[name]):
            queues[label].append(name)
    everything = deque(order)
    drawn: dict[str, list[str]] = {split: [] for split in sizes}
    held = {split: Counter[int]() for split in sizes}
    used: set[str] = set()

    def give(split: str, queue: deque[str]) -> None:
        """The first image of the queue that is still free, if there is one."""
        while queue:
            name = queue.popleft()
            if name not in used:
                used.add(name)
                drawn[split].append(name)
                held[split].update(set(pool[name]))
                return

    rounds = {split: max(1, size // (2 * max(len(rarest_first), 1))) for split, size in sizes.items()}
    for done in range(max(rounds.values(), default=0)):
        for label in rarest_first:
            for split, size in sizes.items():
                if done < rounds[split] and held[split][label] <= done and len(drawn[split]) < size:
                    give(split, queues[label])
    for split, size in sizes.items():
        while len(drawn[split]) < size:
            give(split, everything)
    return {split: sorted(names) for split, names in drawn.items()}


def equal_shares(size: int, classes: Iterable[str]) -> dict[str, int]:
    """`size` images dealt equally to the classes; the first ones get what is over."""
    names = list(classes)
    return {name: size // len(names) + (place < size % len(names)) for place, name in enumerate(names)}
