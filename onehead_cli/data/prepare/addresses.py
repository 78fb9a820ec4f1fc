"""Where the official datasets are on the network: addresses in the order they are tried, bytes and checksums."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OfficialSource:
    """One official dataset.

    bases: addresses that the paths below are appended to, each ending in a slash; the first is the one recorded.
    archive: path of its archive. bytes, sha256: of the archive. inner: the folder inside the archive, "" for its top.
    other: what else was seen at these addresses, for the error message.
    """

    name: str
    bases: tuple[str, ...]
    archive: str
    bytes: int
    sha256: str
    inner: str
    other: str = ""


#: The images of COCO have no official checksum, so the address that is protected by https comes first. (That of
#: images.cocodataset.org is plain http: its https certificate does not match.)
COCO = OfficialSource(
    name="coco",
    bases=("https://s3.amazonaws.com/images.cocodataset.org/", "http://images.cocodataset.org/"),
    archive="annotations/annotations_trainval2017.zip",
    bytes=252_907_541,
    sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    inner="",
)

VOC = OfficialSource(
    name="voc",
    bases=(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/",
        "https://d2l-data.s3-accelerate.amazonaws.com/",
    ),
    archive="VOCtrainval_11-May-2012.tar",
    bytes=1_999_639_040,
    sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    inner="VOCdevkit/VOC2012",
    other="its first server once sent other bytes",
)

IMAGENETTE = OfficialSource(
    name="imagenette",
    bases=("https://s3.amazonaws.com/fast-ai-imageclas/",),
    archive="imagenette2-160.tgz",
    bytes=99_003_388,
    sha256="64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
    inner="imagenette2-160",
    other="an older file of 98,948,031 bytes is not accepted",
)

OFFICIAL_SOURCES = {source.name: source for source in (IMAGENETTE, VOC, COCO)}

#: A COCO image lies at {base}{train2017,val2017}/{file name} and has about so many bytes.
COCO_PICTURE_BYTES = 160_000
