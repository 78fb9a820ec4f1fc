"""What the networks of a report cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onehead_cli.checkpoint.checkpoint import Checkpoint
from onehead_cli.config.sections import Config
from onehead_cli.profiling.counts import Count, count_parts, total

if TYPE_CHECKING:
    from onehead_cli.report.details import Shown

#: What `onehead profile --json` printed, if it was kept under this name in the output folder.
PROFILE = "profile.json"


def costs(networks: Sequence[Shown], config: Config) -> list[dict[str, Any]]:
    """A row per network: of several teachers one each, and their sum."""
    counted: dict[str, dict[str, Count]] = {}
    rows = []
    for shown in networks:
        mine = {id(network): (network, shown.files[task]) for task, network in shown.networks.items()}
        found = []
        for network, file in mine.values():
            count = _count(network, counted)
            found.append(
                {
                    "network": f"{shown.label} {network.name}",
                    "image_size": network.preprocess["image_size"],
                    "parameters": count.parameters,
                    "multiply_adds": count.multiply_adds,
                    "bytes": file.stat().st_size if file.is_file() else None,
                    "p50_ms": None,
                    **_latency(config.output / PROFILE, file, network.preprocess["image_size"]),
                }
            )
        rows += found
        if len(found) > 1:
            keys = ("parameters", "multiply_adds", "bytes")
            sums = {
                key: None if any(row[key] is None for row in found) else sum(row[key] for row in found) for key in keys
            }
            rows.append({"network": f"{shown.label}, together", "image_size": None, **sums, "p50_ms": None})
    return rows


def _count(network: Checkpoint, counted: dict[str, dict[str, Count]]) -> Count:
    """The cost of a network. Args: counted: the parts of those that were counted, for counting takes a second: networks
    that differ in their tasks alone have the same parts."""
    side, architecture = network.preprocess["image_size"], network.architecture
    whole = replace(architecture, tasks=tuple(architecture.classes))
    same = f"{side} {whole}"
    if same not in counted:
        counted[same] = count_parts(replace(network, architecture=whole).untrained().eval(), side, torch.float32)
    shared = ("", *architecture.tasks)
    return total(count for name, count in counted[same].items() if name.partition(".")[2] in shared)


def _latency(path: Path, checkpoint: Path, side: int) -> Mapping[str, Any]:
    """The latency of a checkpoint, where a profile of it is there, of one image of its own size."""
    try:
        document = json.loads(path.read_bytes())
        if Path(document["checkpoint"]).resolve() != checkpoint.resolve():
            return {}
        latency = document["latency"]
        if (document["image_size"], latency["batch"]) != (side, 1):
            return {}
        return {"p50_ms": float(latency["p50_ms"]), "measured_on": f"{latency['processor']}, {latency['precision']}"}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
