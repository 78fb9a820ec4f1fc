"""The order of images of which some are to be seen more often than others."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def repeated_order(factors: Sequence[float], generator: torch.Generator) -> list[int]:
    """One pass over n images: n indices, among which image i is expected n r_i / sum(r) times.

    A pass stays as long as one without repeats, so that an epoch does. Each image comes as often as expected, rounded
    down or up by chance (systematic resampling): images whose share is below 1 are left out of some passes.
    """
    count = len(factors)
    order = torch.randperm(count, generator=generator)
    shares = torch.tensor(factors, dtype=torch.float64)[order]
    ends = shares.cumsum(0) * (count / shares.sum())
    ends = (ends + torch.rand(1, generator=generator, dtype=torch.float64)).floor().long()
    ends[-1] = count  # whatever the rounding
    times = torch.diff(ends, prepend=ends.new_zeros(1))
    seen = order.repeat_interleave(times)
    return seen[torch.randperm(count, generator=generator)].tolist()
