"""Other packages' tasks, put on the path as an installation does it, without a network."""

import os
from collections.abc import Mapping
from pathlib import Path


def install(site: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], *code: Path) -> str:
    """Write a package's metadata into `site`; gives a PYTHONPATH with it and with the folders of its code."""
    metadata = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    groups = entry_points.items()
    text = "".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in each.items()) for group, each in groups)
    (metadata / "entry_points.txt").write_text(text)
    return os.pathsep.join([str(site), *map(str, code), os.environ.get("PYTHONPATH", "")])
