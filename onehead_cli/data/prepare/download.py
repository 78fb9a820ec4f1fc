"""One file from the network: resumed where it broke, retried, checked, and never seen half-written."""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry, Timeout, make_headers, parse_url

from onehead_cli import __version__
from onehead_cli.errors import DownloadError
from onehead_cli.files.checksum import sha256_of

#: Says what is wrong with a file, or None.
Check = Callable[[Path], str | None]

_CHUNK = 1 << 16
#: Of a file whose size is not known; nothing here that is fetched without one is larger.
_MAX_UNKNOWN_BYTES = 8_000_000_000
#: Waits longer than this are announced.
_NOTICED_SECONDS = 1.5
#: Statuses that may be over in a moment; any other from 400 on is final for its address.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: There is no such file. A mirror that is just being filled says so too, but seldom: asked again, though not for long.
_ABSENT = frozenset({403, 404, 410})  # S3 says 403
_ABSENT_ATTEMPTS = 2


class _GiveUp(Exception):
    """This address is of no use."""


class _TryAgain(Exception):
    """This address may be of use in a moment."""

    def __init__(self, reason: str, retry_after: float | None = None, *, absent: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.absent = absent


class _WrongFile(_GiveUp):
    """This address sent another file than the one wanted."""


class _Missing(_GiveUp):
    """This address says again and again that it has no such file."""


class Downloader:
    """Fetches files; safe to use from several threads.

    Args:
        connect_timeout: seconds until a connection must stand.
        stall_timeout: longest silence of a server, in seconds; a slow line that keeps sending is never cut.
        attempts: failures in a row, none of them bringing the file further, after which an address is given up;
            two where it says that there is no such file.
        backoff: seconds of the first wait, doubled each time, of which up to half is taken off at random.
        longest_wait: seconds of the longest wait, one that a server asks for in Retry-After included.
        notify: called with a line before each wait that a user would wonder about.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = 10.0,
        stall_timeout: float = 30.0,
        attempts: int = 6,
        backoff: float = 1.0,
        longest_wait: float = 60.0,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._timeout = Timeout(connect=connect_timeout, read=stall_timeout)
        self._attempts = attempts
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._notify = notify
        self._stopped = threading.Event()
        self._pools: dict[str | None, urllib3.PoolManager] = {}

    def stop(self) -> None:
        """End all that is under way in other threads, at its next chunk."""
        self._stopped.set()

    def fetch(
        self,
        urls: Sequence[str],
        target: Path,
        *,
        size: int | None = None,
        sha256: str | None = None,
        check: Check | None = None,
        advance: Callable[[int], None] = lambda received: None,
    ) -> None:
        """Bring the file at the first address that gives the right one to `target`, in one rename at the end.

        What has come stays in `{target}.part`. It is gone on with in the next attempt, at the next address and in the
        next run if the checksum is known, which tells a mixture of two files; else the file starts over.

        Args:
            urls: addresses of the same file, tried in order.
            size: bytes. sha256: of the whole file. check: of the finished file, before it gets its name.
            advance: called with the bytes of the file that have come so far.

        Raises:
            DownloadError: no address gave the file; one line with each address and its reason.
            OSError: the file cannot be written.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        reasons = []
        for url in urls:
            try:
                self._fetch_from(url, part, size, sha256, check, advance)
            except _GiveUp as failure:
                reasons.append(f"{url}: {failure}")
            else:
                part.replace(target)
                return
        raise DownloadError(f"{target.name}: not downloaded: {'; '.join(reasons)}")

    def fetch_optional(self, url: str, target: Path) -> bool:
        """Bring a small file that need not be there to `target`; whether it was.

        Raises:
            DownloadError: the address says neither that it has the file nor that it has not.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            self._fetch_from(url, part, None, None, None, lambda received: None)
        except _Missing:
            return False
        except _GiveUp as failure:
            raise DownloadError(f"{target.name}: not downloaded: {url}: {failure}") from None
        part.replace(target)
        return True

    def _fetch_from(
        self,
        url: str,
        part: Path,
        size: int | None,
        sha256: str | None,
        check: Check | None,
        advance: Callable[[int], None],
    ) -> None:
        if sha256 is None:
            part.unlink(missing_ok=True)
        elif size is None and part.is_file() and _what_is_wrong(part, sha256, check) is None:
            return  # a run was killed between the last byte and the rename
        while True:
            resumed = _size_of(part) > 0
            self._receive_all(url, part, size, advance)
            reason = _what_is_wrong(part, sha256, check)
            if reason is None:
                return
            part.unlink()
            # What was there before may be to blame: this address gets a chance to send the whole.
            if not resumed:
                raise _WrongFile(reason)

    def _receive_all(self, url: str, part: Path, size: int | None, advance: Callable[[int], None]) -> None:
        failures, furthest = 0, _size_of(part)
        while size is None or _size_of(part) != size:
            try:
                self._receive(url, part, size, advance)
                return
            except _TryAgain as failure:
                reason, retry_after, absent = str(failure), failure.retry_after, failure.absent
            except HTTPError as error:
                reason, retry_after, absent = self._explain(error), None, False
            reached = _size_of(part)
            failures = 1 if reached > furthest else failures + 1
            furthest = max(reached, furthest)
            if failures >= (min(_ABSENT_ATTEMPTS, self._attempts) if absent else self._attempts):
                raise (_Missing if absent else _GiveUp)(f"{reason}, {failures} times in a row")
            seconds = self._pause(failures, retry_after)
            if seconds > _NOTICED_SECONDS:
                self._notify(f"{url}: {reason}; trying again in {seconds:.0f} s")
            if self._stopped.wait(seconds):
                raise _GiveUp("stopped")

    def _receive(self, url: str, part: Path, size: int | None, advance: Callable[[int], None]) -> None:
        """One request: the file from where the part ends, or from its beginning if the server sends that."""
        start = _size_of(part)
        headers = {"User-Agent": f"onehead/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        response = self._pool(url).request(
            "GET",
            url,
            headers=headers,
            preload_content=False,
            timeout=self._timeout,
            retries=Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5),
        )
        try:
            total = self._expect(response, part, start, size)
            received = start if response.status == 206 else 0
            with part.open("ab" if received else "wb") as file:
                while chunk := response.read1(_CHUNK, decode_content=False):
                    if self._stopped.is_set():
                        raise _GiveUp("stopped")
                    received += len(chunk)
                    if received > (total or _MAX_UNKNOWN_BYTES):
                        raise _WrongFile(f"sends more than {total or _MAX_UNKNOWN_BYTES:,} bytes")
                    file.write(chunk)
                    advance(received)
                file.flush()
                os.fsync(file.fileno())
            if total is not None and received < total:
                raise _TryAgain("connection dropped")
        finally:
            # Not released for reuse: what is left of a body that was not read would be taken for the next answer.
            response.close()

    def _expect(self, response: urllib3.BaseHTTPResponse, part: Path, start: int, size: int | None) -> int | None:
        """How many bytes the file will have with this answer; None where the server does not say."""
        status = response.status
        if status in _PASSING:
            raise _TryAgain(f"HTTP {status}", Retry().get_retry_after(response))
        if status == 416:  # the part is longer than the file
            part.unlink(missing_ok=True)
            raise _TryAgain("HTTP 416")
        if status in _ABSENT:
            raise _TryAgain(f"HTTP {status}", absent=True)
        if status not in (200, 206):
            raise _GiveUp(f"HTTP {status}")
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else size
        if status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start or not start:
                part.unlink(missing_ok=True)
                raise _TryAgain("answered with a different range than requested")
            total = size if found[2] == "*" else int(found[2])
        if size is not None and total != size:
            # The part stays: the page of a hotel's login must not cost what has come of two gigabytes.
            raise _WrongFile(f"has {total:,} bytes instead of {size:,}")
        return total

    def _pause(self, failures: int, retry_after: float | None) -> float:
        """Seconds until the next attempt."""
        seconds: float = min(self._backoff * 2 ** (failures - 1), self._longest_wait) * random.uniform(0.5, 1)
        return min(max(seconds, retry_after or 0), self._longest_wait)

    def _explain(self, error: HTTPError) -> str:
        reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
        if isinstance(reason, ConnectTimeoutError) and not isinstance(reason, NewConnectionError):
            return f"no connection within {self._timeout.connect_timeout:g} s"
        if isinstance(reason, ReadTimeoutError):
            return f"no data for {self._timeout.read_timeout:g} s"
        if isinstance(reason, NewConnectionError):
            return "no connection"
        if isinstance(reason, ProtocolError):
            return "connection dropped"
        if isinstance(reason, SSLError):
            return f"no secure connection ({reason})"
        return f"connection failed ({type(reason).__name__})"

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections for an address; through a proxy where the environment names one."""
        parts = urlsplit(url)
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        if proxy not in self._pools:
            self._pools[proxy] = _proxied(proxy) if proxy else urllib3.PoolManager(maxsize=16)
        return self._pools[proxy]


def _proxied(proxy: str) -> urllib3.ProxyManager:
    """Args: proxy: as in the environment: "http://name:password@host:port", all but the host may be left out."""
    address = proxy if "://" in proxy else f"http://{proxy}"
    auth = parse_url(address).auth
    headers = make_headers(proxy_basic_auth=unquote(auth)) if auth else None
    return urllib3.ProxyManager(address, proxy_headers=headers, maxsize=16)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _what_is_wrong(path: Path, sha256: str | None, check: Check | None) -> str | None:
    if sha256 is not None:
        found = sha256_of(path)
        if found != sha256:
            return f"wrong checksum (sha256 {found} instead of {sha256})"
    return check(path) if check is not None else None
