"""The records in a folder of predictions: a line of JSON per image, of all runs that wrote into it.

A run adds its lines to the end of the file as it goes, so that one that is stopped or killed keeps what it has done and
every record of the runs before it. Lines that it replaced are taken out at its end, in one step; after a kill they stay
until the next run has ended, and of two lines of an image the later one holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from onehead_cli.errors import DataError
from onehead_cli.events import Reporter
from onehead_cli.files.atomic import make_writable_folder, remove_leftovers, write_atomically
from onehead_cli.files.lock import locked
from onehead_cli.prediction.names import Outputs, Places, of_json

FILE = "predictions.jsonl"
#: The first word of the temporary files in the folder.
TEMPORARY = "predictions"
#: Of every record.
_BEGINNING = b'{"file": '


@contextmanager
def hold_records(folder: Path, reporter: Reporter) -> Iterator[Records]:
    """Make the folder and hold it; where another run holds it, wait for its end.

    Raises:
        OneheadError: the folder cannot be written, or what is in it under the name of the records is none.
        OSError: the file of the records cannot be read or written.
    """
    make_writable_folder(folder)

    def waiting(process: str) -> None:
        reporter.say(f"{folder}: process {process} is writing into it; waiting for it to end")

    with locked(folder, waiting=waiting) as held:
        if held:
            remove_leftovers(folder, f"{TEMPORARY}[._]*")
        else:
            reporter.warn(f"{folder}: cannot be locked: do not start a second run in it")
        records = Records(folder, reporter)
        try:
            yield records
        except BaseException:
            with suppress(OSError):  # what ended the run is what counts
                records.close()
            raise
        records.close()


class Records:
    """earlier: the outputs of each image that has a record already."""

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        """Raises: DataError: a line is no record."""
        self._path = folder / FILE
        self._places = Places(folder)
        self.earlier: dict[str, Outputs] = {}
        self._line: dict[str, int] = {}  # the number of the line that holds, by image
        self._replaced: set[int] = set()
        self._lines = 0
        self._size = 0  # of the whole lines, in bytes
        self._end = b""  # what the last of them lacks
        self._file: FileIO | None = None
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            self._read(file, reporter)

    def add(self, image: str, record: dict[str, Any]) -> None:
        """Write the record of an image into the file. Args: image: where it is, as `Places.of` says.

        Raises:
            OSError: it cannot be written; the file is as it was.
        """
        if self._file is None:
            self._file = FileIO(self._path, "a")
            self._file.truncate(self._size)
        line = self._end + json.dumps(record, allow_nan=False).encode("ascii") + b"\n"
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(self._size)
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        self._size, self._end = self._size + len(line), b""
        self._count(image)

    def close(self) -> None:
        """Take out the lines that others have replaced. Raises: OSError: the file cannot be written anew."""
        if self._file is None:
            return
        self._file.close()
        if self._replaced:
            write_atomically(self._path, self._copy)

    def _read(self, file: BinaryIO, reporter: Reporter) -> None:
        for line in file:
            whole = line.endswith(b"\n")
            try:
                image, outputs = self._parse(line)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                if not whole and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
                    reporter.warn(f"{self._path}: its last line is incomplete, as after a killed run, and is removed")
                    return
                raise DataError(
                    f"{self._path}: line {self._lines + 1} is not a record of predict: move the file away, or choose "
                    "another folder with --output"
                ) from None
            self._size += len(line)
            self._end = b"" if whole else b"\n"
            if (before := self.earlier.get(image)) is not None:
                outputs = Outputs(outputs.name or before.name, outputs.files | before.files)
            self.earlier[image] = outputs
            self._count(image)

    def _parse(self, line: bytes) -> tuple[str, Outputs]:
        record = json.loads(line)
        files = {of_json(file) for file in written_files(record)}
        name = record.get("earlier", {}).get("name")
        if "overlay" in record:
            name = record["overlay"].removesuffix(".png")
        elif files:
            name = min(files, key=len).rpartition("_")[0]
        files |= {of_json(file) for file in record.get("earlier", {}).get("files", [])}
        return self._places.of_record(record), Outputs(of_json(name) if name else "", frozenset(files))

    def _count(self, image: str) -> None:
        if image in self._line:
            self._replaced.add(self._line[image])
        self._line[image] = self._lines
        self._lines += 1

    def _copy(self, to: BinaryIO) -> None:
        with self._path.open("rb") as file:
            to.writelines(line for number, line in enumerate(file) if number not in self._replaced)


def written_files(record: Mapping[str, Any]) -> list[str]:
    """The overlay, mask and the like of a record, which are its image's own, as the record names them."""
    files = [value["file"] for value in record.values() if isinstance(value, dict) and "file" in value]
    return [record["overlay"], *files] if "overlay" in record else files
