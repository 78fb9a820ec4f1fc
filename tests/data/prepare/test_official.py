"""`prepare-data --source official`, through the command, from a server on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from official_data import ARCHIVES, COCO_ARCHIVE, IMAGENETTE_ARCHIVE, VOC_ARCHIVE, Official, Server, state_checksum
from PIL import Image
from rich.console import Console as RichConsole

from onehead_cli.app import run
from onehead_cli.commands.console import Console
from onehead_cli.data.layout import DATASET_FOLDERS
from onehead_cli.data.manifest import verify_manifest
from onehead_cli.data.prepare import download, fetched
from onehead_cli.data.prepare.addresses import OFFICIAL_SOURCES
from onehead_cli.data.prepare.settings import Written
from onehead_cli.data.prepare.staging import write_datasets

SIZES = "12,10,10"
PICTURES = 32


def command(server, root, *more):
    return ["prepare-data", "--data", str(root), "--sizes", SIZES, "--quiet", *server.redirects(), *more]


def files_of(root):
    """All but the cache and what a kill may leave."""
    paths = (path for path in sorted(root.rglob("*")) if path.is_file())
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".")}


def error_of(capsys):
    captured = capsys.readouterr().err
    lines = [line for line in captured.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), captured
    return lines[0]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    class Quick(download.Downloader):
        def __init__(self, **more):
            super().__init__(connect_timeout=2.0, stall_timeout=1.0, attempts=3, backoff=0.001, **more)

    monkeypatch.setattr(fetched, "Downloader", Quick)


@pytest.fixture
def own(packed, tmp_path):
    """A server of files that the test may change."""
    shutil.copytree(packed, tmp_path / "served")
    server = Server(tmp_path / "served")
    yield server
    server.close()


@contextlib.contextmanager
def changed_annotations(own, split):
    """The annotations of a split, packed anew with what the body changes in them."""
    name = f"annotations/instances_{split}.json"
    with zipfile.ZipFile(own.folder / COCO_ARCHIVE) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    coco = json.loads(contents[name])
    yield coco
    contents[name] = json.dumps(coco).encode()
    with zipfile.ZipFile(own.folder / COCO_ARCHIVE, "w") as archive:
        for each, content in contents.items():
            archive.writestr(each, content)
    state_checksum(own.folder / COCO_ARCHIVE)


def test_official_draws_what_local_draws(server, tmp_path, capsys):
    assert run(command(server, tmp_path / "fetched", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    counts = {"train": 12, "val": 10, "test": 10}
    assert document["source"] == "official" and document["counts"] == dict.fromkeys(("cls", "seg", "det"), counts)

    local = Official(tmp_path / "local", images=25)
    folders = [part for name, path in local.arguments().items() for part in (f"--{name}", str(path))]
    assert (
        run(["prepare-data", "--source", "local", "--data", str(tmp_path / "copied"), *folders, "--sizes", SIZES]) == 0
    )
    fetched, copied = files_of(tmp_path / "fetched"), files_of(tmp_path / "copied")
    del fetched["manifest.json"], copied["manifest.json"]
    assert fetched == copied
    assert verify_manifest(tmp_path / "fetched") == []
    # Of COCO no image but the drawn ones was fetched, of all else each archive once.
    asked = [path for path, _, _ in server.log if not path.endswith(".sha256")]
    assert len(asked) == len(set(asked)) == PICTURES + len(ARCHIVES)


def test_the_manifest_says_where_each_file_came_from(server, tmp_path, capsys):
    root = tmp_path / "data"
    assert run(command(server, root, "--seed", "4", "--categories", "c13,c2")) == 0
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["source"] == "official"
    assert manifest["arguments"] == {"seed": 4, "sizes": [12, 10, 10], "categories": ["c13", "c2"]}
    images = json.loads((root / "mini_coco_det/annotations/instances_val.json").read_text())
    assert [category["name"] for category in images["categories"]] == ["c2", "c13"]
    licences = {image["file_name"]: image["license"] for image in images["images"]}
    for entry in manifest["files"]:
        content = (root / entry["path"]).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
        name = entry["path"].rpartition("/")[2]
        if entry["path"].startswith("mini_coco_det/val/"):
            base = "https://s3.amazonaws.com/images.cocodataset.org/"
            assert entry["source"] == {
                "dataset": "coco",
                "path": f"val2017/{name}",
                "url": f"{base}val2017/{name}",
            }
            assert entry.get("license") == ({"name": "free"} if licences[name] == 0 else None)
        elif entry["path"].startswith("mini_voc_seg/val/SegmentationClass"):
            source = entry["source"]
            assert source["dataset"] == "voc" and source["path"] == f"SegmentationClass/{name}"
            assert source["url"].endswith("/VOCtrainval_11-May-2012.tar")
    assert server.url not in (root / "manifest.json").read_text()  # the same from every mirror


def test_a_second_draw_needs_no_network(server, tmp_path, capsys):
    cache = ["--cache-dir", str(tmp_path / "cache")]
    assert run(command(server, tmp_path / "one", *cache)) == 0
    server.log.clear()
    assert run(command(server, tmp_path / "two", *cache)) == 0
    assert server.log == [] and files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert not (tmp_path / "one" / ".cache").exists()
    # What is damaged in the cache is noticed and fetched anew, and nothing else.
    image = next((tmp_path / "cache/coco/train2017").iterdir())
    image.write_bytes(image.read_bytes()[:-300])
    (tmp_path / "cache" / IMAGENETTE_ARCHIVE).write_bytes(b"x")
    assert run(command(server, tmp_path / "three", *cache)) == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "three")
    expected = {f"coco/train2017/{image.name}", IMAGENETTE_ARCHIVE, IMAGENETTE_ARCHIVE + ".sha256"}
    assert {path for path, _, _ in server.log} == expected


def test_a_server_of_every_trouble_gives_the_same_files(own, server, tmp_path, capsys):
    assert run(command(server, tmp_path / "calm")) == 0
    images = sorted(path.relative_to(own.folder).as_posix() for path in (own.folder / "coco").rglob("*.jpg"))
    own.answers = {name: [500, "drop", "ok"] for name in ARCHIVES}
    own.answers |= {name: [trouble, "ok"] for name, trouble in zip(images, ["drop", 500, 503] * 20, strict=False)}
    assert run(command(own, tmp_path / "rough")) == 0
    assert files_of(tmp_path / "calm") == files_of(tmp_path / "rough")


@pytest.mark.parametrize("content", [b"<html>not found</html>", None])
def test_a_dead_image_is_named(own, tmp_path, capsys, content):
    victim = own.folder / "coco/train2017/000000000007.jpg"
    for path in (own.folder / "coco/train2017").iterdir():
        if path == victim or content is None:
            path.unlink()
        if path == victim and content is not None:
            path.write_bytes(content)
    assert run(command(own, tmp_path / "data", "--sizes", "22,10,10")) == 1  # all there are
    message = error_of(capsys)
    assert f"{own.url}/coco/train2017/0000000000" in message
    assert ("000000000007.jpg: not a readable image" in message) if content else ("HTTP 404" in message)
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_a_image_of_another_size_than_its_annotations_is_dead(own, tmp_path, capsys):
    for path in (own.folder / "coco/val2017").iterdir():
        Image.new("RGB", (5, 7)).save(path)
    assert run(command(own, tmp_path / "data")) == 1
    assert "5 x 7 pixels instead of" in error_of(capsys)


def test_images_with_the_same_content_are_drawn_once(own, tmp_path, capsys):
    """Content is known only once fetched: the repeated ones are struck and others drawn, the same ones each time."""
    with changed_annotations(own, "val2017") as coco:
        first, second = (image for image in coco["images"] if image["id"] in (110, 111))
        second |= {"width": first["width"], "height": first["height"]}
    images = own.folder / "coco/val2017"
    shutil.copyfile(images / first["file_name"], images / second["file_name"])
    for root in ("one", "two"):
        assert run(command(own, tmp_path / root, "--sizes", "12,11,10")) == 0  # 21 of 22, two of them the same
    one = files_of(tmp_path / "one")
    digests = [hashlib.sha256(content).hexdigest() for name, content in one.items() if name.endswith(".jpg")]
    assert len(digests) == len(set(digests)) and one == files_of(tmp_path / "two")
    assert run(command(own, tmp_path / "three", "--sizes", "12,12,10")) == 1
    assert "val and test: found 21 unused images in val2017" in error_of(capsys)


@pytest.mark.parametrize("name", ["../../../evil.jpg", "/tmp/evil.jpg", "a/b.jpg"])
def test_annotations_cannot_write_outside_the_cache(own, tmp_path, capsys, name):
    with changed_annotations(own, "val2017") as coco:
        coco["images"][5]["file_name"] = name
    assert run(command(own, tmp_path / "data")) == 1
    assert f"instances_val2017.json: images[5] has the file_name {name!r}" in error_of(capsys)
    assert not list(tmp_path.rglob("evil.jpg"))


def test_without_a_stated_checksum_the_official_one_holds(own, tmp_path, capsys):
    (own.folder / (IMAGENETTE_ARCHIVE + ".sha256")).unlink()
    assert run(command(own, tmp_path / "data")) == 1
    message = error_of(capsys)
    size = (own.folder / IMAGENETTE_ARCHIVE).stat().st_size
    assert f"{own.url}/{IMAGENETTE_ARCHIVE}: has {size:,} bytes instead of 99,003,388" in message
    assert "an older file of 98,948,031 bytes is not accepted" in message


def test_a_stated_checksum_that_is_none_or_wrong_is_named(own, tmp_path, capsys):
    stated = own.folder / (VOC_ARCHIVE + ".sha256")
    stated.write_text("<html>")
    assert run(command(own, tmp_path / "data")) == 1
    assert f"{own.url}/{VOC_ARCHIVE}.sha256: not a checksum" in error_of(capsys)
    stated.write_text("0" * 64 + "  VOC.tar\n")
    assert run(command(own, tmp_path / "data")) == 1
    assert f"{own.url}/{VOC_ARCHIVE}: wrong checksum" in error_of(capsys)


def test_the_same_command_again_has_nothing_to_do(own, tmp_path, capsys):
    root = tmp_path / "data"
    assert run(command(own, root)) == 0
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    own.log.clear()
    assert run(command(own, root)) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before and own.log == []
    assert run(command(own, root, "--seed", "1")) == 1  # another draw does not replace this one
    assert "already holds" in error_of(capsys)
    victim = next((root / "mini_coco_det/val").iterdir())
    victim.write_bytes(b"")
    assert run(command(own, root)) == 1  # nor is a damaged one taken for whole
    assert run(command(own, root, "--overwrite")) == 0 and verify_manifest(root) == [] and own.log == []


def test_mirrors_are_tried_in_order(server, tmp_path, monkeypatch, capsys):
    """Without --base-url: the facts are those of the tiny archives, the first address of each is dead."""
    for name in ARCHIVES:
        dataset = name.split("/")[0]
        source, content = OFFICIAL_SOURCES[dataset], (server.folder / name).read_bytes()
        bases = (f"{server.url}/dead/", f"{server.url}/{dataset}/")
        facts = {"bases": bases, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for key, value in facts.items():
            monkeypatch.setitem(source.__dict__, key, value)
    assert run(["prepare-data", "--data", str(tmp_path / "data"), "--sizes", SIZES, "-q"]) == 0
    asked = [path for path, _, _ in server.log]
    # What the dead address does not have is asked for twice there.
    dead = sum(path.startswith("dead/") for path in asked)
    assert (dead, len(asked) - dead) == (2 * (PICTURES + len(ARCHIVES)), PICTURES + len(ARCHIVES))


def test_dry_run_writes_nothing_and_says_what_is_there(server, tmp_path, capsys):
    root = tmp_path / "data"
    assert run([*command(server, root, "--dry-run", "--json")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert not root.exists() and server.log == []
    found = {(part["dataset"], part["what"]): part for part in document["downloads"]}
    assert {key: part["bytes"] for key, part in found.items() if key[1] == "archive"} == {
        ("imagenette", "archive"): 99_003_388,
        ("voc", "archive"): 1_999_639_040,
        ("coco", "archive"): 252_907_541,
    }
    assert found["coco", "pictures"]["files"] == PICTURES and not document["pictures_known"]
    assert found["voc", "archive"]["url"] == f"{server.url}/{VOC_ARCHIVE}"
    assert document["missing_bytes"] == sum(part["bytes"] for part in found.values())

    assert run(command(server, root)) == 0
    before = sorted(root.rglob("*"))
    server.log.clear()
    capsys.readouterr()
    assert run([*command(server, root, "--dry-run", "--json", "--overwrite")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["missing_bytes"] == 0 and document["pictures_known"]
    assert all(part["cached_files"] == part["files"] for part in document["downloads"])
    assert sorted(root.rglob("*")) == before and server.log == []
    # Another draw needs other images: what is missing of them is known without a network.
    assert run([*command(server, root, "--dry-run", "--json", "--seed", "1")]) == 0
    images = json.loads(capsys.readouterr().out)["downloads"][-1]
    assert 0 < images["cached_files"] < images["files"] == PICTURES


def test_a_full_disk_is_said_before_anything_is_fetched(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9))
    assert run(command(server, tmp_path / "data")) == 1
    assert "1.0 GB free and the downloads need 2.7 GB" in error_of(capsys) and server.log == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--base-url", "cocoa=http://x"], 2, "no dataset 'cocoa'; did you mean 'coco'?"),
        (["--base-url", "voc=ftp://x/"], 2, "--base-url voc=ftp://x/: give an address such as voc=https://"),
        (["--base-url", "voc"], 2, "--base-url voc: give an address"),
        (["--base-url", "coco=http://"], 2, "give an address"),
        (["--source", "oficial"], 2, "official"),
        (["--source", "synthetic", "--cache-dir", "x"], 2, "--cache-dir is for --source official"),
        (["--source", "synthetic", "--categories", "c1"], 2, "--categories is for --source official and local"),
        (["--source", "local", "--dry-run"], 2, "--dry-run is for --source official"),
        (["--coco", "x"], 2, "--coco is for --source local, not for --source official"),
        (["--source", "synthetic", "--voc", "x"], 2, "--voc is for --source local, not for --source synthetic"),
        (["--image-size", "64"], 2, "--image-size is for --source synthetic, not for --source official"),
        (["--verify", "--dry-run"], 2, "--dry-run is for --source official, not for --verify"),
        (["--preview", "--overwrite"], 2, "--overwrite is for --source official and synthetic and local, not for"),
        (["--base-url", "coco=http://[::1"], 2, "give an address"),
        (["--base-url", "coco=http://a:99999/"], 2, "give an address"),
        (["--base-url", "coco=http://a b/"], 2, "give an address"),
        (["--categories", ","], 2, "--categories: give names"),
        (["--categories", "a,b,c,d,e,f,g,h,i,j,k"], 2, "--categories names 11 and --sizes gives a split of 10"),
        (["--sizes", "9,10,10"], 2, "at least 10 images"),
        (["--categories", "c2,c88"], 2, "no category 'c88' in COCO; the nearest are c8, "),
    ],
)
def test_wrong_arguments_are_explained(server, tmp_path, capsys, arguments, code, message):
    redirects = server.redirects() if message.startswith("no category") else []
    assert (
        run(["prepare-data", "--data", str(tmp_path / "data"), "--sizes", SIZES, "-q", *redirects, *arguments]) == code
    )
    assert message in error_of(capsys)
    # Nothing but what tells the categories was fetched.
    assert {path for path, _, _ in server.log} <= {COCO_ARCHIVE, COCO_ARCHIVE + ".sha256"}


def start(server, root, *more):
    args = [sys.executable, "-m", "onehead_cli", *command(server, root, *more)]
    return subprocess.Popen(args, stderr=subprocess.PIPE, text=True)


def test_two_runs_do_not_share_a_cache(own, tmp_path, capsys):
    own.throttle = 0.02
    cache = ["--cache-dir", str(tmp_path / "cache")]
    with start(own, tmp_path / "one", *cache) as first:
        while not own.log:
            time.sleep(0.01)
        assert run(command(own, tmp_path / "two", *cache)) == 1
        assert f"{tmp_path / 'cache'}: another run is using it" in error_of(capsys)
        assert run(command(own, tmp_path / "one")) == 1
        assert f"{tmp_path / 'one'}: another run is using it" in error_of(capsys)
        own.throttle = 0.0
        assert first.wait(30) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_downloads_at_once_and_keeps_what_has_come(own, tmp_path, number, code):
    own.throttle = 0.05
    root = tmp_path / "data"
    with start(own, root) as process:
        while not any(path.endswith(".jpg") for path, _, _ in own.log):
            own.throttle = 0.0 if len(own.log) > 3 else 0.001
            time.sleep(0.002)
        own.throttle = 0.05
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == code and time.monotonic() - began < 3
    assert files_of(root) == {} and (root / ".cache" / VOC_ARCHIVE).is_file()


@pytest.mark.soak
def test_fault_60_a_killed_run_is_gone_on_with(own, server, tmp_path, soak, record_property):
    """Killed at any moment, the next run ends with the same bytes and does not download finished files again."""
    assert run(command(server, tmp_path / "calm")) == 0
    calm = files_of(tmp_path / "calm")
    root, rng = tmp_path / "data", random.Random(0)
    finished: dict[str, int] = {}  # file -> how often it had been asked for when it was first found finished
    kills, wanted = 0, 40 if soak else 8
    cycles = resumed = 0
    while kills < wanted:
        # Every other time at a random byte of the downloads, else at a random moment of all that follows the start.
        by_bytes = kills % 2 == 0
        own.throttle = 0.002 if by_bytes else 0.0
        goal = own.sent + rng.randrange(60_000)
        old = set(root.glob(".prepare-*"))
        with start(own, root) as process:
            while process.poll() is None and (own.sent < goal if by_bytes else not set(root.glob(".prepare-*")) - old):
                time.sleep(0.001)
            time.sleep(0 if by_bytes else rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        killed = process.returncode == -signal.SIGKILL
        kills += killed
        assert killed or process.returncode == 0
        for path in (root / ".cache").rglob("*"):
            name = path.relative_to(root / ".cache").as_posix()
            if path.is_file() and path.suffix not in (".part", ".sha256"):
                finished.setdefault(name, len(own.asked(name)))
        assert {name: len(own.asked(name)) for name in finished} == finished
        if (root / "manifest.json").exists() or kills == wanted:
            assert run(command(own, root)) == 0
            assert files_of(root) == calm and {name: len(own.asked(name)) for name in finished} == finished
            assert not {path.name for path in root.iterdir() if path.name.startswith(".")} - {".cache"}
            cycles += 1
            resumed += any(first > 0 for name in ARCHIVES for first, _ in own.asked(name))
            shutil.rmtree(root)
            finished.clear()
            own.log.clear()
    assert resumed > 0 and cycles < wanted
    record_property("kills", kills)


@pytest.mark.parametrize("old", [False, True])
def test_a_kill_between_the_moves_is_mended_by_the_next_run(tmp_path, monkeypatch, old):
    """Publishing, cut off before each of its renames in turn, into a new folder and over older data."""

    class Killed(BaseException):
        pass

    def write(seed):
        def write_into(staging):
            for folder in DATASET_FOLDERS.values():
                (staging / folder).mkdir()
                (staging / folder / f"{seed}.txt").write_text(f"{folder} {seed}")
            return {}

        settings = Written(root=root, seed=seed, sizes=(1, 1, 1), overwrite=old)
        write_datasets(settings, source="local", repeatable=False, write=write_into)

    root = tmp_path / "calm"
    write(1)
    calm = files_of(root)
    rename = type(root).rename
    for cut in range(9 if old else 6):
        root = tmp_path / str(cut)
        if old:
            write(0)
        renames = 0

        def cut_off(self, target, cut=cut):
            nonlocal renames
            renames += 1
            if renames > cut:
                raise Killed
            return rename(self, target)

        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(type(root), "rename", cut_off)
            write(1)
        assert renames == min(cut + 1, 8 if old else 5)
        assert not (root / "manifest.json").exists() or verify_manifest(root) == []
        if not (root / "manifest.json").exists() or old:
            write(1)
        assert files_of(root) == calm and verify_manifest(root) == []
        assert not [path for path in root.iterdir() if path.name.startswith(".")]


def test_official_never_imports_torch(server, tmp_path):
    script = (
        "import sys; from onehead_cli.app import run\n"
        f"assert run({command(server, tmp_path / 'data')!r}) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, env=dict(os.environ))


def test_both_bars_stand_on_a_terminal_of_80_columns():
    console, shown = Console(), io.StringIO()
    console._err = RichConsole(file=shown, force_terminal=True, width=80)
    with console.track("all downloads", 2_350_000_000, unit="bytes") as whole:
        with console.track("VOCtrainval_11-May-2012.tar", 1_999_639_040, unit="bytes") as one:
            whole(352_000_000, "")
            one(150_000_000, "")
            console._bars.refresh()
            lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in shown.getvalue().splitlines()]
        whole(2_350_000_000, "")
    assert any(line.startswith("all downloads") and "352.0 MB/2.4 GB" in line for line in lines)
    assert any(line.strip("\r").startswith("VOCtrainval") and "150.0 MB/2.0 GB" in line for line in lines)
    assert max(map(len, lines)) <= 80
