"""Archives that were made to do harm."""

from __future__ import annotations

import io
import os
import random
import tarfile
import warnings
import zipfile

import pytest

from onehead_cli.data.prepare import archives
from onehead_cli.data.prepare.archives import Archive
from onehead_cli.errors import DataError


def make(path, entries):
    """entries: (name, bytes) or, in a tar, (name, type) for what is no file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries:
                info = zipfile.ZipInfo(name)
                if content is tarfile.SYMTYPE:
                    info.external_attr, content = 0o120777 << 16, b"/etc/passwd"
                archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
            for name, content in entries:
                member = tarfile.TarInfo(name)
                if isinstance(content, bytes) and len(content) == 1 and content in b"123456S":
                    member.type, member.linkname = content, "/etc/passwd"
                    archive.addfile(member)
                else:
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return Archive(path)


@pytest.fixture(params=["a.zip", "a.tar", "a.tgz"])
def path(request, tmp_path):
    return tmp_path / request.param


GOOD = [("d/one.txt", b"first"), ("d/sub/two.txt", b"second"), ("three.txt", b"third")]


def test_only_what_is_asked_for_is_unpacked(path, tmp_path):
    archive = make(path, GOOD)
    assert sorted(archive.names()) == sorted(name for name, _ in GOOD)
    assert archive.read("d/sub/two.txt") == b"second"
    found = archive.extract(["three.txt", "d/one.txt"], tmp_path / "out")
    assert {name: where.read_bytes() for name, where in found.items()} == {"three.txt": b"third", "d/one.txt": b"first"}
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["d", "one.txt", "three.txt"]
    with pytest.raises(DataError, match=r"a\.\w+: contains no d/four"):
        archive.extract(["d/four"], tmp_path / "out")


HARM = {
    "escape": ("../evil", b"x"),
    "deep escape": ("d/../../evil", b"x"),
    "absolute": ("/tmp/evil", b"x"),
    "backslash": ("..\\evil", b"x"),
    "symlink": ("d/link", tarfile.SYMTYPE),
    "hard link": ("d/link", tarfile.LNKTYPE),
    "fifo": ("d/pipe", tarfile.FIFOTYPE),
    "device": ("d/null", tarfile.CHRTYPE),
    "sparse": ("d/holes", tarfile.GNUTYPE_SPARSE),
}
#: zipfile turns a backslash into nothing on Linux, and a zip has no devices.
ONLY_TAR = {"hard link", "fifo", "device", "sparse"}


@pytest.mark.parametrize("harm", HARM)
def test_fault_50_an_archive_that_leaves_its_folder_is_refused(path, tmp_path, harm):
    """An archive with an entry that escapes, is a link or a device is refused whole, with the entry's name."""
    if path.suffix == ".zip" and harm in ONLY_TAR:
        path = path.with_suffix(".tar")
    name, content = HARM[harm]
    archive = make(path, [*GOOD, (name, content)])
    with pytest.raises(DataError, match="unsafe archive: entry") as caught:
        archive.extract(["three.txt"], tmp_path / "out")  # though the entry was not asked for
    assert str(path) in str(caught.value) and repr(name) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()


def test_fault_51_a_bomb_is_refused_at_the_cap(path, tmp_path, monkeypatch):
    """An archive that unpacks to more bytes or entries than the cap is refused before anything of it is written."""
    archive = make(path, [("zeros", bytes(3_000_000)), *GOOD])
    monkeypatch.setattr(archives, "MAX_BYTES", 2_999_999)
    with pytest.raises(DataError, match=r"unpacks to more than 2,999,999 bytes"):
        archive.extract(["three.txt"], tmp_path / "out")
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    with pytest.raises(DataError, match=r"more than 3 entries|more than 2,999,999 bytes"):
        make(path, [(name, b"") for name in "abcd"]).read("a")
    monkeypatch.setattr(archives, "MAX_ENTRIES", 4)
    assert make(path, [(name, b"") for name in "abcd"]).read("a") == b""
    assert not (tmp_path / "out").exists()


def test_a_huge_header_is_not_read(tmp_path):
    header = tarfile.TarInfo("long name")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(DataError, match=r"damaged archive \(a header of"):
        Archive(tmp_path / "a.tar").names()


@pytest.mark.parametrize("twin", ["D/one.txt", "d/ONE.txt", "D", "d/one.txt"])
def test_fault_52_names_that_differ_only_in_case_are_refused(path, twin):
    """Two entries whose names differ only in case, or not at all, make the archive refused, with both names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the second "d/one.txt"
        archive = make(path, [*GOOD, (twin, b"x")])
    with pytest.raises(DataError, match=f"entry '{twin}' (differs only in case from '[dD].*'|is stored twice)"):
        archive.names()


@pytest.mark.parametrize("cut", [10, 60, 150])
def test_a_damaged_archive_is_named(path, cut):
    make(path, [("noise", os.urandom(5000)), *GOOD])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * cut // 200])
    # A tar that ends between two entries looks whole.
    with pytest.raises(DataError, match=r"a\.\w+: (damaged archive|contains no three\.txt)"):
        Archive(path).extract([name for name, _ in GOOD], path.parent / "out")


def test_an_encrypted_zip_is_named(tmp_path):
    path = tmp_path / "a.zip"
    make(path, GOOD)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory at the end
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"'d/one\.txt' is encrypted"):
        Archive(path).names()


def test_an_archive_of_any_bytes_is_read_or_refused_in_one_line(path, tmp_path):
    make(path, [("noise", random.Random(1).randbytes(300)), *GOOD])
    whole, rng = path.read_bytes(), random.Random(2)
    refused = 0
    for number in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 2, 6])):
            place = rng.randrange(len(content))
            content[place : place + rng.randrange(3)] = rng.choice([b"", b"\xff\xff", b"\0\0", b"\x63", b"\n"])
        path.write_bytes(content)
        try:
            archive = Archive(path)
            archive.extract(archive.names(), tmp_path / str(number))
        except DataError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert refused > 30
