"""A block of commands that is not run says why; tests/install runs the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import blocks, pages


@pytest.mark.parametrize("page", pages(), ids=str)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    assert [block.line for block in blocks(page) if block.why_not == ""] == []
