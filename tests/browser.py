"""Headless Chromium, steered by chromedriver, for tests that open a page."""

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
#: What is not here of what it takes; empty where all is.
MISSING = [
    what
    for what, names in {"Chromium": CHROMIUM, "chromedriver": ["chromedriver"]}.items()
    if not any(map(shutil.which, names))
]


class Browser:
    """Headless Chromium, steered by chromedriver."""

    def __init__(self):
        self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._driver.stdout is not None
        found = next(filter(None, (re.search(r"successfully on port (\d+)", line) for line in self._driver.stdout)))
        self._session = f"http://127.0.0.1:{found[1]}/session"
        # Root may run it, as in a container; a container's shared memory is small; and no name is looked up.
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
        arguments.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        binary = next(filter(None, map(shutil.which, CHROMIUM)))
        wanted = {
            "goog:chromeOptions": {"args": arguments, "binary": binary},
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        try:
            made = self._call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._driver.terminate()
            raise
        self._session += f"/{made['sessionId']}"

    def close(self):
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.communicate()

    def resize(self, width, height):
        """The page's own size, which may be narrower than a window can be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})

    def open(self, address):
        self._call("POST", "/url", {"url": address})

    def run(self, script, *arguments):
        """What a script passes to the function that is its last argument."""
        return self._call("POST", "/execute/async", {"script": script, "args": arguments})

    def value(self, expression):
        return self._call("POST", "/execute/sync", {"script": f"return {expression}", "args": []})

    def wait(self, expression, seconds=60):
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, self.value("document.body.innerText")
            time.sleep(0.05)

    def choose(self, path):
        """Give an image to the file chooser."""
        found = self._call("POST", "/element", {"using": "css selector", "value": "#file"})
        self._call("POST", f"/element/{next(iter(found.values()))}/value", {"text": str(path)})

    def log(self, kind):
        return self._call("POST", "/se/log", {"type": kind})

    def _call(self, method, path, body=None):
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._session + path, content, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None
