"""The page in examples/web in headless Chromium, against `predict`; `make test-install`."""

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import PIL
import pytest
from browser import MISSING, Browser
from PIL import Image

from onehead_cli.app import run
from onehead_cli.runner import KEY, with_checksum

PAGE = Path(__file__).parents[2] / "examples" / "web"
_MISSING = [*MISSING, *([] if shutil.which("npm") else ["npm"])]

pytestmark = [
    pytest.mark.install,
    pytest.mark.skipif(bool(_MISSING), reason=f"the page is opened with what is not here: {', '.join(_MISSING)}"),
]

STATUS, PROBLEM = (f"document.getElementById({name!r})" for name in ("status", "problem"))
#: Gives the page images by drops, one right after the other.
DROP = """
const [names, done] = arguments;
(async () => {
  const files = [];
  for (const name of names) files.push(new File([await (await fetch(name)).blob()], name));
  for (const file of files) {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(file);
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  }
})().then(() => done(null), (error) => done(String(error)));
"""
#: An image as the page's resize.js makes it, in base64.
RESIZE = """
const [name, preprocess, done] = arguments;
(async () => {
  const { fitted } = await import("./resize.js");
  const image = await createImageBitmap(await (await fetch(name)).blob());
  const pixels = await fitted(image, preprocess, async () => undefined);
  return btoa(Array.from(pixels, (value) => String.fromCharCode(value)).join(""));
})().then(done, (error) => done(String(error)));
"""
#: Whether the page may ask another origin.
ASK = "const [url, done] = arguments; fetch(url, { mode: 'no-cors' }).then(() => done(true), () => done(false));"


class Server:
    """Serves a folder on this machine alone. asked: what it was asked for."""

    def __init__(self, folder):
        self.asked = asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, form, *arguments):
                asked.append(self.path)

        handler = functools.partial(Handler, directory=folder)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def changed(content, *, outputs=None, score=None):
    """An exported file with fewer outputs, or with another score from which boxes are shown."""
    model = onnx.load_from_string(content)
    [stored] = [json.loads(entry.value) for entry in model.metadata_props if entry.key == KEY]
    del model.metadata_props[:]
    if outputs is not None:
        kept = [output for output in model.graph.output if output.name in outputs]
        del model.graph.output[:]
        model.graph.output.extend(kept)
    if score is not None:
        stored["thresholds"]["boxes"] = [score] * len(stored["thresholds"]["boxes"])
    model.metadata_props.add(key=KEY, value=json.dumps(stored))
    return with_checksum(model.SerializeToString())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The page's folder with onnxruntime-web, the shipped student in several conditions, and images.

    student.onnx shows boxes from a low score on, for on drawn images the network is sure of none.
    """
    folder = tmp_path_factory.mktemp("site") / "web"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules", "package-lock.json", "*.onnx"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-update-notifier"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, shell=os.name == "nt")
    assert done.returncode == 0, done.stderr
    assert not (folder / "package-lock.json").exists()

    file = folder / "student.onnx"
    command = ["export", "--weights", "float16", "--output", str(file), "--data", str(folder / "none"), "--quiet"]
    assert run(command) == 0
    content = file.read_bytes()
    file.write_bytes(changed(content, score=0.02))
    (folder / "class.onnx").write_bytes(changed(content, outputs=["probabilities"]))
    (folder / "no-class.onnx").write_bytes(changed(content, outputs=["mask", "boxes", "scores", "labels"]))
    (folder / "cut.onnx").write_bytes(content[:-1000])
    (folder / "flipped.onnx").write_bytes(content[:-50_000] + bytes([content[-50_000] ^ 1]) + content[-49_999:])
    (folder / "text.onnx").write_text("no model")
    foreign = onnx.load_from_string(content)
    del foreign.metadata_props[:]
    onnx.save(foreign, folder / "foreign.onnx")

    photographs = Image.open(PAGE.parents[1] / "docs" / "predictions.jpg").convert("RGB")
    wide, tall = photographs.crop((40, 60, 540, 400)), photographs.crop((40, 60, 400, 640))
    wide.save(folder / "wide.png")
    tall.save(folder / "tall.png")
    wide.resize((9, 7)).save(folder / "tiny.png")
    wide.convert("L").save(folder / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(folder / "turned.jpg", exif=exif, quality=95)
    wide.resize((5000, 3400)).save(folder / "large.png", compress_level=1)
    # Of middling contrast, so that no step on the way to the result is cut at 0 or 255.
    noise = np.random.default_rng(0).integers(60, 190, (300, 300, 3), dtype=np.uint8)
    for name, (width, height) in {"noise-wide": (300, 120), "noise-tall": (60, 300)}.items():
        Image.fromarray(noise[:height, :width]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def server(site):
    made = Server(site)
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser():
    made = Browser()
    yield made
    made.close()


@pytest.fixture(scope="module")
def predicted(site, tmp_path_factory):
    """What `predict` says of each image, by its name."""
    output, images = tmp_path_factory.mktemp("predicted"), [*map(str, site.glob("*.png")), str(site / "turned.jpg")]
    command = ["predict", *images, "--checkpoint", str(site / "student.onnx"), "--output", str(output), "--quiet"]
    assert run(command) == 0
    lines = (output / "predictions" / "predictions.jsonl").read_text().splitlines()
    return {Path(record["file"]).name: record for record in map(json.loads, lines)}


@pytest.fixture
def page(browser, server):
    """Opens the page with a file; waits until it is ready, or says why not."""

    def open_page(model="student.onnx"):
        browser.open(f"{server.address}?model={model}")
        browser.wait(f"{STATUS}.textContent.startsWith('Ready') || {PROBLEM}.textContent")
        return browser

    return open_page


def record_of(browser, path):
    """What the page says of an image that is given to its file chooser."""
    browser.choose(path)
    browser.wait(f"{STATUS}.textContent.startsWith('{path.name}:') || {PROBLEM}.textContent")
    assert browser.value(f"{PROBLEM}.hidden"), browser.value(f"{PROBLEM}.textContent")
    return json.loads(browser.value("document.getElementById('record').textContent"))


def assert_same(found, expected):
    assert (found["width"], found["height"]) == (expected["width"], expected["height"])
    assert [each["name"] for each in found["class"]["top5"]] == [each["name"] for each in expected["class"]["top5"]]
    probabilities = [[each["probability"] for each in of["class"]["top5"]] for of in (found, expected)]
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-3)
    assert len(found["boxes"]) == len(expected["boxes"]) and expected["boxes"]
    for one, other in zip(found["boxes"], expected["boxes"], strict=True):
        assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert one["box"] == pytest.approx(other["box"], abs=0.1)


@pytest.mark.parametrize("name", ["wide.png", "tall.png", "tiny.png", "grey.png", "turned.jpg"])
def test_the_page_says_what_predict_says(page, site, predicted, name):
    expected = predicted[name]
    browser = page()
    found = record_of(browser, site / name)
    assert_same(found, expected)
    labels = {*found["mask"]["pixels"], *expected["mask"]["pixels"]}
    counts = [[of["mask"]["pixels"].get(label, 0) for label in labels] for of in (found, expected)]
    assert counts[0] == pytest.approx(counts[1], abs=0.001 * found["width"] * found["height"] + 1)
    # The lists that are seen say the same as the record.
    top = expected["class"]
    first = browser.value("document.querySelector('#class li').innerText").split("\n")
    assert first == [top["title"], f"{100 * top['probability']:.1f} %"]
    assert browser.value("document.querySelectorAll('#boxes tbody tr').length") == len(expected["boxes"])
    assert browser.value("document.querySelectorAll('#mask tbody tr').length") == len(expected["mask"]["pixels"])
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")


def test_the_mask_of_a_large_image_is_smaller(page, site, predicted):
    browser = page()
    found, expected = record_of(browser, site / "large.png"), predicted["large.png"]
    assert_same(found, expected)
    pixels = found["mask"]["pixels"]
    assert sum(pixels.values()) == 1024 * 696
    assert "1024 × 696" in browser.value("document.getElementById('mask-size').textContent")
    for name, count in expected["mask"]["pixels"].items():
        assert pixels.get(name, 0) / (1024 * 696) == pytest.approx(count / (5000 * 3400), abs=0.003)


@pytest.mark.parametrize("name", ["noise-wide.png", "noise-tall.png", "tiny.png"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fit", ["resize", "letterbox"])
def test_images_are_resized_as_pillow_does(page, site, name, interpolation, fit):
    side = 96
    browser = page("missing.onnx")
    wanted = {"image_size": side, "fit": fit, "interpolation": interpolation}
    pixels = base64.b64decode(browser.run(RESIZE, name, wanted), validate=True)
    found = np.frombuffer(pixels, np.uint8).reshape(side, side, 3).astype(int)
    with Image.open(site / name) as image:
        scale = side / max(image.size)
        width, height = (side if fit == "resize" else max(1, round(length * scale)) for length in image.size)
        resized = image.resize((width, height), Image.Resampling[interpolation.upper()])
    canvas = Image.new("RGB", (side, side), (128, 128, 128))
    canvas.paste(resized, ((side - width) // 2, (side - height) // 2))
    # Pillow before 13 takes rows and columns of a tall image in the other order.
    other = "tall" in name and int(PIL.__version__.partition(".")[0]) < 13
    assert np.abs(found - np.asarray(canvas)).max() <= (2 if other else 0)


def test_of_several_drops_the_last_is_shown(page, predicted):
    browser = page()
    assert browser.run(DROP, ["large.png", "tall.png", "wide.png", "grey.png"]) is None
    browser.wait(f"{STATUS}.textContent.startsWith('grey.png:')")
    time.sleep(1)
    assert browser.value(f"{STATUS}.textContent").startswith("grey.png:")
    assert browser.value(f"{PROBLEM}.hidden")
    assert_same(json.loads(browser.value("document.getElementById('record').textContent")), predicted["grey.png"])


def test_a_task_that_the_file_lacks_is_not_shown(page, site, predicted):
    browser = page("class.onnx")

    def hidden(part):
        return browser.value(f"document.getElementById('{part}').hidden")

    found = record_of(browser, site / "wide.png")
    assert found["class"]["name"] == predicted["wide.png"]["class"]["name"]
    assert not {"mask", "boxes"} & set(found) and hidden("mask") and hidden("boxes") and not hidden("class")
    browser = page("no-class.onnx")
    found = record_of(browser, site / "wide.png")
    assert found["mask"]["pixels"].keys() == predicted["wide.png"]["mask"]["pixels"].keys()
    assert "class" not in found and hidden("class") and not hidden("mask") and not hidden("boxes")


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("foreign.onnx", "foreign.onnx was not written by onehead export: it says nothing of itself."),
        ("cut.onnx", "cut.onnx is damaged, or no ONNX file."),
        ("flipped.onnx", "flipped.onnx is damaged: its checksum does not fit. Export it again."),
        ("text.onnx", "text.onnx is damaged, or no ONNX file."),
        ("missing.onnx", "missing.onnx is not here: README.md says how to export it. Then reload."),
    ],
)
def test_a_file_that_cannot_be_used_gives_one_line(page, site, file, line):
    browser = page(file)
    assert browser.value(f"{PROBLEM}.innerText") == line
    assert browser.value(f"{STATUS}.textContent") == ""
    browser.choose(site / "wide.png")
    browser.wait(f"{PROBLEM}.innerText === {json.dumps(line)}")
    assert browser.value("document.getElementById('result').hidden")


def test_an_image_that_cannot_be_read_gives_one_line_and_the_next_is_shown(page, site, predicted, tmp_path):
    browser = page()
    record_of(browser, site / "wide.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes((site / "wide.png").read_bytes()[:100])
    browser.choose(broken)
    browser.wait(f"{PROBLEM}.textContent === 'broken.png is no image that this browser can read.'")
    assert browser.value("document.getElementById('result').hidden")
    assert_same(record_of(browser, site / "wide.png"), predicted["wide.png"])


def test_the_page_asks_nobody_but_its_own_server(browser, server, page, site):
    page()
    browser.log("performance")
    server.asked.clear()
    page()
    record_of(browser, site / "wide.png")
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    own = {url for url in asked if url.startswith(server.address)}
    assert {"app.js", "student.onnx", "ort-wasm-simd-threaded.wasm"} <= {url.rpartition("/")[2] for url in own}
    assert all(url.startswith("data:") for url in set(asked) - own)
    assert any(path.endswith("student.onnx") for path in server.asked)

    other = Server(site)
    try:
        assert browser.run(ASK, server.address) and not browser.run(ASK, other.address)
        assert other.asked == []
    finally:
        other.close()
    refused = [entry["message"] for entry in browser.log("browser") if "Content Security Policy" in entry["message"]]
    assert refused and all(other.address in message for message in refused)
