"""The options of prepare-data that hold several values in one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from onehead_cli.config.fields import field_of
from onehead_cli.data.prepare.addresses import OFFICIAL_SOURCES
from onehead_cli.data.prepare.settings import Written
from onehead_cli.errors import ConfigError
from onehead_cli.suggestion import did_you_mean

#: Of the classification datasets of all sources.
_CLASSES = 10


def parse_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options as the settings take them.

    Raises:
        ConfigError: a text that says nothing usable, or splits that are too small.
    """
    values = dict(given)
    if "sizes" in values:
        values["sizes"] = _parse_sizes(values["sizes"])
    if "categories" in values:
        sizes = values.get("sizes", field_of(Written, "sizes").default)
        values["categories"] = _parse_categories(values["categories"], sizes)
    if "base_urls" in values:
        values["base_urls"] = _parse_base_urls(values["base_urls"])
    return values


def _parse_sizes(text: str) -> tuple[int, int, int]:
    try:
        train, val, test = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--sizes {text}: give three numbers, such as 240,60,60") from None
    if min(train, val, test) < _CLASSES:
        raise ConfigError(f"--sizes {text}: each split needs at least {_CLASSES} images, one per class")
    return train, val, test


def _parse_categories(text: str, sizes: tuple[int, int, int]) -> Sequence[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError("--categories: give names of COCO categories, such as person,dog")
    if min(sizes) < len(names):
        raise ConfigError(
            f"--categories names {len(names)} and --sizes gives a split of {min(sizes)}: "
            "each split needs at least one image per category"
        )
    return names


def _parse_base_urls(assignments: Sequence[str]) -> dict[str, str]:
    urls = {}
    for assignment in assignments:
        name, _, url = assignment.partition("=")
        if name not in OFFICIAL_SOURCES:
            meant = did_you_mean(name, OFFICIAL_SOURCES) or f"; the datasets are {', '.join(OFFICIAL_SOURCES)}"
            raise ConfigError(f"--base-url {assignment}: no dataset '{name}'{meant}")
        if not _is_address(url):
            raise ConfigError(f"--base-url {assignment}: give an address such as {name}=https://mirror.example/{name}/")
        urls[name] = url
    return urls


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port of six digits
        return False
    return usable and not any(sign.isspace() for sign in url)
