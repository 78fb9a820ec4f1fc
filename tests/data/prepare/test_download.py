"""One file from a server that fails in every way a server can."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import time
from pathlib import Path

import pytest
from official_data import Server

from onehead_cli.data.prepare.download import Downloader
from onehead_cli.errors import DownloadError

NAME = "big.bin"
BODY = random.Random(0).randbytes(300_000)
SIZE = len(BODY)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / NAME).write_bytes(BODY)
    (tmp_path / "served" / "mirror.bin").write_bytes(BODY)
    server = Server(tmp_path / "served")
    yield server
    server.close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / NAME


def quick(**changes):
    return Downloader(**{"connect_timeout": 1.0, "stall_timeout": 0.5, "attempts": 3, "backoff": 0.001, **changes})


def fetch(server, target, *, paths=(NAME,), size=SIZE, sha256=DIGEST, downloader=None, **more):
    urls = [f"{server.url}/{path}" for path in paths]
    (downloader or quick()).fetch(urls, target, size=size, sha256=sha256, **more)


def only_the_file(target: Path) -> bool:
    return [path.name for path in target.parent.iterdir()] == [target.name] and target.read_bytes() == BODY


@pytest.mark.parametrize("known", [{}, {"size": None}, {"sha256": None}, {"size": None, "sha256": None}])
def test_a_file_arrives_and_its_bytes_are_counted(server, target, known):
    counts: list[int] = []
    fetch(server, target, advance=counts.append, **known)
    assert only_the_file(target) and server.log == [(NAME, 0, True)]
    assert counts == sorted(counts) and counts[-1] == len(BODY)


def test_fault_56_a_dropped_connection_is_resumed_where_it_broke(server, target):
    """A connection that drops in mid-file is resumed at the byte where it broke, in the same run or in the next."""
    server.answers[NAME] = ["drop"] * 4
    fetch(server, target)
    assert only_the_file(target)
    starts = [start for start, _ in server.asked(NAME)]
    # Four drops, each of half of what is left: more failures than attempts, but every one of them got further.
    assert starts == sorted(starts) and len(set(starts)) == 5 and starts[1] == len(BODY) // 2

    target.unlink()
    server.log.clear()
    target.with_name(NAME + ".part").write_bytes(BODY[:123_457])  # what a killed run left
    fetch(server, target)
    assert only_the_file(target) and server.log == [(NAME, 123_457, True)]


def test_a_part_that_is_complete_needs_no_network(target):
    target.parent.mkdir()
    target.with_name(NAME + ".part").write_bytes(BODY)
    quick().fetch(["http://127.0.0.1:1/big.bin"], target, size=len(BODY), sha256=DIGEST)
    assert only_the_file(target)


def test_fault_57_a_server_that_ignores_range_sends_the_whole_anew(server, target):
    """If a server answers a Range with the whole file, the file is started over, and the result is right."""
    server.ranges = False
    server.answers[NAME] = ["drop", "ok"]
    fetch(server, target)
    assert only_the_file(target) and server.asked(NAME) == [(0, False), (0, True)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_with_a_file_of_another_size_costs_nothing_of_what_has_come(server, target, ranges):
    """Such as the login page of a hotel; the mirror goes on with the part."""
    target.parent.mkdir()
    target.with_name(NAME + ".part").write_bytes(BODY[:1000])
    server.ranges = ranges
    server.answers[NAME] = [(BODY + b"more",)]
    with pytest.raises(DownloadError, match="has 300,004 bytes instead of 300,000"):
        fetch(server, target)
    server.ranges = True
    fetch(server, target, paths=(NAME, "mirror.bin"))
    assert only_the_file(target) and server.asked("mirror.bin") == [(1000, True)]


@pytest.mark.parametrize("left", [b"x" * 1000, BODY + b"too long"])
def test_a_part_of_another_file_is_dropped_and_the_same_address_asked_again(server, target, left):
    target.parent.mkdir()
    target.with_name(NAME + ".part").write_bytes(left)
    fetch(server, target)
    assert only_the_file(target) and server.asked(NAME)[-1] == (0, True)


def test_without_a_checksum_a_part_is_not_trusted(server, target):
    target.parent.mkdir()
    target.with_name(NAME + ".part").write_bytes(BODY[:1000])
    fetch(server, target, sha256=None)
    assert only_the_file(target) and server.asked(NAME) == [(0, True)]


def test_fault_58_a_wrong_checksum_is_deleted_and_the_next_mirror_asked(server, target):
    """A file with a wrong checksum is deleted and the next mirror asked; after the last one the error names both."""
    wrong = bytes(len(BODY))
    server.answers[NAME] = [(wrong,)]
    fetch(server, target, paths=(NAME, "mirror.bin"))
    assert only_the_file(target) and server.log == [(NAME, 0, True), ("mirror.bin", 0, True)]

    target.unlink()
    server.answers["mirror.bin"] = [(wrong,)]
    with pytest.raises(DownloadError) as caught:
        fetch(server, target, paths=(NAME, "mirror.bin"))
    message = str(caught.value)
    assert f"{server.url}/{NAME}: wrong checksum" in message and f"{server.url}/mirror.bin: wrong" in message
    assert DIGEST in message and hashlib.sha256(wrong).hexdigest() in message and "\n" not in message
    assert list(target.parent.iterdir()) == []


def test_a_check_of_the_caller_counts_like_a_checksum(server, target):
    with pytest.raises(DownloadError, match=rf"{NAME}: too blue$"):
        fetch(server, target, sha256=None, check=lambda path: "too blue")
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "reason", "requests"),
    [
        (404, "HTTP 404, 2 times in a row", 2),
        (403, "HTTP 403, 2 times in a row", 2),
        (401, "HTTP 401", 1),
        (500, "HTTP 500, 3 times in a row", 3),
        (503, "HTTP 503, 3 times in a row", 3),
        ("stall", r"no data for 0\.5 s, 3 times in a row", 3),
    ],
)
def test_fault_59_what_fails_is_tried_again_and_then_named(server, target, answer, reason, requests):
    """404, 500, a timeout or a stall is retried with growing pauses, a 404 once; the error then names the address."""
    if requests > 1:
        server.answers[NAME] = [answer] * (requests - 1) + ["ok"]
        fetch(server, target)
        assert only_the_file(target)
        target.unlink()
    server.log.clear()
    server.ranges = False  # so that no answer gets further than the one before
    server.answers[NAME] = [(answer,)]
    with pytest.raises(DownloadError, match=f"{server.url}/{NAME}: {reason}$") as caught:
        fetch(server, target)
    assert "\n" not in str(caught.value) and len(server.log) == requests and not target.exists()
    fetch(server, target, paths=(NAME, "mirror.bin"), downloader=quick(attempts=1))
    assert only_the_file(target)


def test_pauses_grow_and_keep_to_what_the_server_asks_for(server, target, monkeypatch):
    pauses: list[float] = []
    downloader = quick(attempts=7, backoff=1.0, longest_wait=20.0)
    monkeypatch.setattr(downloader._stopped, "wait", lambda seconds: pauses.append(seconds))
    lines: list[str] = []
    monkeypatch.setattr(downloader, "_notify", lines.append)
    server.answers[NAME] = [(500,)]
    with pytest.raises(DownloadError, match="7 times in a row"):
        fetch(server, target, downloader=downloader)
    for pause, full in zip(pauses, (1, 2, 4, 8, 16, 20), strict=True):
        assert full / 2 <= pause <= full
    assert len(lines) >= 4 and lines[-1] == f"{server.url}/{NAME}: HTTP 500; trying again in {pauses[-1]:.0f} s"
    for header, expected in (("7", 7.0), ("3600", 20.0)):
        pauses.clear()
        server.retry_after = header
        server.answers[NAME] = [503, "ok"]
        fetch(server, target, downloader=downloader)
        assert pauses == [expected]
        target.unlink()


def test_no_server_at_all_is_named(target):
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:1/big\.bin: no connection, 2 times in a row"):
        quick(attempts=2).fetch(["http://127.0.0.1:1/big.bin"], target)


def test_a_slow_line_is_not_a_stall(server, target):
    server.throttle = 0.003  # 0.9 s for the whole, with a timeout of 0.5 s
    began = time.monotonic()
    fetch(server, target)
    assert only_the_file(target) and time.monotonic() - began > 0.6


def test_stopping_ends_a_download_in_another_thread(server, target):
    server.throttle = 0.01
    downloader = quick()
    errors: list[Exception] = []

    def work() -> None:
        try:
            fetch(server, target, downloader=downloader)
        except DownloadError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not server.log:
        time.sleep(0.005)
    downloader.stop()
    thread.join(10)
    assert not thread.is_alive() and "stopped" in str(errors[0]) and not target.exists()
    assert server.sent < SIZE


@pytest.mark.parametrize(
    ("form", "credentials"),
    [
        ("http://{}", None),
        ("{}", None),
        ("http://me:a%20b@{}", f"Basic {base64.b64encode(b'me:a b').decode()}"),
    ],
)
def test_the_proxy_of_the_environment_is_used(server, target, monkeypatch, form, credentials):
    monkeypatch.setenv("http_proxy", form.format(server.url.removeprefix("http://")))
    quick(attempts=1).fetch([f"http://example.invalid/{NAME}"], target, sha256=DIGEST)
    assert only_the_file(target) and server.proxy_authorization == credentials


def test_a_part_that_is_complete_is_known_by_its_checksum_where_the_size_is_not(server, target):
    target.parent.mkdir()
    target.with_name(NAME + ".part").write_bytes(BODY)
    fetch(server, target, size=None)
    assert only_the_file(target) and server.log == []
