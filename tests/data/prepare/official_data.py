"""Tiny datasets in the official layouts, and a server on this machine that sends them as the official ones do."""

from __future__ import annotations

import hashlib
import json
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

COCO_ARCHIVE = "coco/annotations/annotations_trainval2017.zip"
VOC_ARCHIVE = "voc/VOCtrainval_11-May-2012.tar"
IMAGENETTE_ARCHIVE = "imagenette/imagenette2-160.tgz"
ARCHIVES = (IMAGENETTE_ARCHIVE, VOC_ARCHIVE, COCO_ARCHIVE)


class Official:
    """Tiny datasets in the official layouts; every image has its own grey value and size."""

    def __init__(self, root: Path, *, images: int = 12, backwards: bool = False) -> None:
        self.coco, self.voc, self.imagenette = root / "coco", root / "voc", root / "imagenette"
        self.images, self.backwards = images, backwards
        for official, offset in (("train", 0), ("val", 100)):
            self._coco(official, offset)
            self._voc(official, offset)
            self._imagenette(official, offset)

    def arguments(self) -> dict[str, Path]:
        return {"coco": self.coco, "voc": self.voc, "imagenette": self.imagenette}

    def _numbers(self, offset: int) -> list[int]:
        numbers = list(range(offset + 1, offset + self.images + 1))
        return numbers[::-1] if self.backwards else numbers

    def _image(self, path: Path, number: int, kind: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16 + number % 16, 16 + number // 16), (number, 80 * kind, 0)).save(path, quality=100)

    def _coco(self, official: str, offset: int) -> None:
        annotations = []
        images = []
        for number in self._numbers(offset):
            name = f"{number:012d}.jpg"
            self._image(self.coco / f"{official}2017" / name, number, 0)
            size = {"width": 16 + number % 16, "height": 16 + number // 16}
            images.append({"id": number, "file_name": name, **size, "license": number % 3})
            # 1 has no box, 2 only one of the eleventh category, 3 only a crowd.
            kinds = {1: [], 2: [(13, 0)], 3: [(1, 1)]}.get(number - offset, [(1 + number % 10, 0), (13, 0), (2, 1)])
            annotations += [
                {
                    "id": number * 10 + position,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [1, 2, 5, 6],
                    "area": 30,
                    "iscrowd": crowd,
                }
                for position, (category, crowd) in enumerate(kinds)
            ]
        # Ids with a gap, out of order: the first ten by id are 1 to 9 and 10.
        categories = [{"id": n, "name": f"c{n}", "supercategory": "s"} for n in (13, *range(10, 0, -1), 14)]
        content = {
            "info": {"year": 2017},
            "licenses": [{"id": 0, "name": "free"}],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        path = self.coco / "annotations" / f"instances_{official}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))

    def _voc(self, official: str, offset: int) -> None:
        base = self.voc / "VOCdevkit" / "VOC2012"
        names = [f"2007_{number:06d}" for number in self._numbers(offset)]
        for name, number in zip(names, self._numbers(offset), strict=True):
            self._image(base / "JPEGImages" / f"{name}.jpg", number, 1)
            (base / "SegmentationClass").mkdir(exist_ok=True)
            Image.new("L", (4, 4), number).save(base / "SegmentationClass" / f"{name}.png")
        lists = base / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{official}.txt").write_text("\n".join(names) + "\n")

    def _imagenette(self, official: str, offset: int) -> None:
        for position, folder in enumerate(("n02", "n01", "n03")):
            for number in self._numbers(offset):
                path = self.imagenette / official / folder / f"{folder}_{number}.JPEG"
                self._image(path, number, 2)
                path.write_bytes(path.read_bytes() + bytes([position]))
            (self.imagenette / official / folder / "readme.txt").write_text("not an image")

    def pack(self, folder: Path) -> None:
        """The files that the official servers have, each dataset in a folder of its name, with .sha256 files."""
        for name in ARCHIVES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / COCO_ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((self.coco / "annotations").iterdir()):
                archive.write(path, f"annotations/{path.name}")
        for official in ("train2017", "val2017"):
            (self.coco / official).rename(folder / "coco" / official)
        with tarfile.open(folder / VOC_ARCHIVE, "w") as archive:
            archive.add(self.voc / "VOCdevkit", "VOCdevkit")
        with tarfile.open(folder / IMAGENETTE_ARCHIVE, "w:gz") as archive:
            archive.add(self.imagenette, "imagenette2-160")
        for name in ARCHIVES:
            state_checksum(folder / name)


def state_checksum(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")


class Server:
    """Sends the files of a folder.

    answers: what the next requests for a path get instead of the file, one after the other; the last one stays if it
        is in a tuple of its own. "drop": half of what was asked for, then the end of the connection. "stall": half,
        then silence. A number: that HTTP status. Bytes: those instead of the file. "ok": the file.
    ranges: whether Range is understood. retry_after: sent with a status. throttle: seconds before each kilobyte.
    log: path, first byte and whether all was sent, a request. sent: bytes of files in all.
    proxy_authorization: what the last request had under this name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, list[object]] = {}
        self.ranges = True
        self.retry_after: str | None = None
        self.throttle = 0.0
        self.log: list[tuple[str, int, bool]] = []
        self.sent = 0
        self.proxy_authorization: str | None = None
        self.released = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # a client that was killed

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def redirects(self) -> list[str]:
        """The options that send every source here."""
        return [f"--base-url={name}={self.url}/{name}" for name in ("coco", "voc", "imagenette")]

    def asked(self, path: str) -> list[tuple[int, bool]]:
        return [(start, whole) for name, start, whole in self.log if name == path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.proxy_authorization = request.headers.get("Proxy-Authorization")
        path = urlsplit(request.path).path.lstrip("/")  # a proxy is asked for the whole address
        queue = self.answers.get(path, [])
        answer = queue.pop(0) if len(queue) > 1 or (queue and not isinstance(queue[0], tuple)) else None
        if answer is None:
            answer = queue[0][0] if queue else "ok"  # type: ignore[index]
        file = self.folder / path
        if isinstance(answer, int) or not file.is_file():
            self.log.append((path, 0, False))
            request.send_response(answer if isinstance(answer, int) else 404)
            if self.retry_after is not None:
                request.send_header("Retry-After", self.retry_after)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = answer if isinstance(answer, bytes) else file.read_bytes()
        start = 0
        asked = request.headers.get("Range")
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body) and start:
            request.send_response(416)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        end = (start + len(body)) // 2 if answer in ("drop", "stall") else len(body)
        begun, whole = (path, start, False), (path, start, True)
        self.log.append(begun)
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        try:
            for at in range(start, end, 1024):
                if self.throttle:
                    time.sleep(self.throttle)
                block = body[at : min(at + 1024, end)]
                # Noted before it is sent: a client that has the last byte may look at once.
                with self._lock:
                    self.sent += len(block)
                if at + len(block) == len(body):
                    self._replace(begun, whole)
                request.wfile.write(block)
        except OSError:  # the client left
            self._replace(whole, begun)
            request.close_connection = True
            return
        if end == len(body):
            return
        if answer == "stall":
            self.released.wait(10)
        request.close_connection = True

    def _replace(self, old: tuple[str, int, bool], new: tuple[str, int, bool]) -> None:
        """Of this very answer, not of another that is equal; of none where the log was cleared since."""
        with self._lock:
            for place, entry in enumerate(self.log):
                if entry is old:
                    self.log[place] = new
