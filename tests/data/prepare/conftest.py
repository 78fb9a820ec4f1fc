"""A server on this machine in place of the official ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from official_data import Official, Server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment must not come between a test and its server."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the official servers have, tiny: 25 images in each official split, of Imagenette in each class."""
    folder = tmp_path_factory.mktemp("packed")
    Official(tmp_path_factory.mktemp("official"), images=25).pack(folder)
    return folder


@pytest.fixture
def server(packed: Path) -> Iterator[Server]:
    """Sends `packed`."""
    server = Server(packed)
    yield server
    server.close()
