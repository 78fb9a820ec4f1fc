"""Every link of the Markdown pages leads somewhere."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import ROOT, anchors, links, pages


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_relative_link_and_anchor_resolves(page: Path) -> None:
    broken = []
    for link in links(page):
        parts = urlsplit(link.target)
        if parts.scheme or parts.netloc:
            continue
        path = (ROOT / page).parent / unquote(parts.path) if parts.path else ROOT / page
        leads = path.exists() and path.resolve().is_relative_to(ROOT)
        if leads and parts.fragment:
            leads = path.suffix == ".md" and parts.fragment in anchors(path.resolve().relative_to(ROOT))
        if not leads:
            broken.append(f"{page}:{link.line}: {link.target}")
    assert not broken, "\n".join(broken)


def test_links_and_anchors_are_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "# A *name*, `with_code`: 1.5 %\n\n[one](b.md#c 'title') and\n[two][ref] ![three](d.png)\n\n"
        "| [four](e.md) | `[no](x.md)` |\n|---|---|\n| [![six](f.png)](g.md) | |\n\n## Twice\n\n## Twice\n\n"
        "```\n[no](x.md)\n```\n\n[ref]: h.md\n"
    )
    assert [link.target for link in links(page)] == ["b.md#c", "h.md", "d.png", "e.md", "g.md", "f.png"]
    assert anchors(page) == {"a-name-with_code-15-", "twice", "twice-1"}


def test_the_index_names_every_page() -> None:
    named = {link.target.partition("#")[0] for link in links(Path("docs/README.md"))}
    there = {page.relative_to("docs").as_posix() for page in pages() if page.parts[0] == "docs"}
    assert there - named == {"README.md"}
