"""From the options of prepare-data to the settings of the one thing that is to be done."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, get_args

from pydantic import ValidationError

from onehead_cli.commands.flags import Flag
from onehead_cli.commands.prepare_values import parse_values
from onehead_cli.config.fields import fields_of
from onehead_cli.data.prepare.settings import (
    Check,
    Local,
    Official,
    Plan,
    PrepareSettings,
    Preview,
    Synthetic,
    Verify,
    Written,
)
from onehead_cli.errors import ConfigError


class Source(StrEnum):
    official = "official"
    synthetic = "synthetic"
    local = "local"


_SOURCES: dict[Source, type[Written]] = {
    Source.official: Official,
    Source.synthetic: Synthetic,
    Source.local: Local,
}

#: Key -> flag, where the flag is not the key.
_NAMES = {
    "root": "--data",
    "path": "--check",
    "folder": "--preview-dir",
    "cache_folder": "--cache-dir",
    "base_urls": "--base-url",
}

#: The fields of all modes, each once.
FLAGS = {
    known.key: Flag(_NAMES.get(known.key, f"--{known.key.replace('_', '-')}"), known)
    for mode in get_args(PrepareSettings)
    for known in fields_of(mode)
}

#: What does no harm to a mode that does not read it.
_ANYWHERE = {"root", "sizes", "seed"}


def settings_of(
    given: Mapping[str, Any], source: Source | None, *, dry_run: bool, verify: bool, preview: bool
) -> PrepareSettings:
    """The settings of what is to be done.

    Args:
        given: values of the given flags, by field.
        source: None where --source is not given.

    Raises:
        ConfigError: two things at once, an option that this one would pass over, or a value that it does not take.
    """
    if "folder" in given and not preview:
        raise ConfigError("--preview-dir needs --preview")
    check = "path" in given
    if not check and not {"deep", "skip_bad"}.isdisjoint(given):
        raise ConfigError("--deep and --skip-bad need --check PATH")
    if sum((verify, preview, check, source is not None)) > 1:
        raise ConfigError("--source, --verify, --check and --preview cannot be combined; give one of them")
    if verify or preview or check:
        _refuse_misplaced(None, given, dry_run)
        return _build(Verify if verify else Preview if preview else Check, given)
    source = source or Source.official
    _refuse_misplaced(source, given, dry_run)
    if dry_run:
        return _build(Plan, given)
    return _build(_SOURCES[source], given)


def _refuse_misplaced(source: Source | None, given: Collection[str], dry_run: bool) -> None:
    """Raises: ConfigError: an option that this source would pass over; None where no datasets are written at all."""
    homes = {FLAGS[key].name: [one for one, kind in _SOURCES.items() if key in kind.model_fields] for key in given}
    if dry_run:
        homes["--dry-run"] = [Source.official]
    for key in _ANYWHERE:
        homes.pop(FLAGS[key].name, None)
    for flag, sources in homes.items():
        if sources and source not in sources:
            instead = f"--source {source}" if source else "--verify, --check or --preview"
            raise ConfigError(f"{flag} is for --source {' and '.join(sources)}, not for {instead}")


def _build(mode: type[Any], given: Mapping[str, Any]) -> PrepareSettings:
    values = parse_values({key: value for key, value in given.items() if key in mode.model_fields})
    try:
        settings: PrepareSettings = mode(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            raise ConfigError("--source local needs --coco, --voc and --imagenette") from None
        key = str(first["loc"][0])
        raise ConfigError(f"{FLAGS[key].name} {given[key]}: {first['msg']}") from None
    return settings
