"""report.html in headless Chromium; `make test-install`."""

import json

import pytest
from browser import MISSING, Browser

from onehead_cli.app import run

pytestmark = [
    pytest.mark.install,
    pytest.mark.skipif(bool(MISSING), reason=f"the page is opened with what is not here: {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def page(tiny_data, trained):
    assert run(["evaluate", "--data", str(tiny_data), "--output", str(trained), "--split", "test", "--quiet"]) == 0
    return trained / "report.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_from_disk_and_fits(page, width):
    """No request but for the file, nothing that the policy had to refuse, every image decoded, and the page itself is
    never scrolled sideways."""
    browser = Browser()
    try:
        browser.resize(width, 900)
        browser.open(page.as_uri())
        browser.wait("document.readyState === 'complete'")
        images = browser.value("Array.from(document.images, (image) => image.complete && image.naturalWidth > 0)")
        assert len(images) > 20 and all(images)
        assert browser.value("window.innerWidth") == width
        assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.value("document.querySelectorAll('svg').length") > 8
        assert browser.value("document.scripts.length") == 0
        messages = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
        asked = {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }
        assert {address for address in asked if not address.startswith("data:")} == {page.as_uri()}
        assert browser.log("browser") == []
    finally:
        browser.close()
