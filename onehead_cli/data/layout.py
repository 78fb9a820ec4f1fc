"""The names of the folders and files that the three datasets lie in, and of their classes.

mini_coco_det/{split}/*.jpg                 mini_coco_det/annotations/instances_{split}.json
mini_voc_seg/{split}/JPEGImages/*.jpg       mini_voc_seg/{split}/SegmentationClass/*.png
imagenette-160/{split}/{class folder}/*     manifest.json
"""

from __future__ import annotations

SPLITS = ("train", "val", "test")

#: By task.
DATASET_FOLDERS = {"cls": "imagenette-160", "seg": "mini_voc_seg", "det": "mini_coco_det"}

ANNOTATION_FOLDER = "annotations"
IMAGE_FOLDER = "JPEGImages"
MASK_FOLDER = "SegmentationClass"

#: Beside the splits of a segmentation dataset: a YAML list of class names, background first.
CLASSES_FILE = "classes.yaml"
MANIFEST_FILE = "manifest.json"

#: Compared in lower case.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp"})

#: The name at position i belongs to mask value i.
VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def instances_file(split: str) -> str:
    """Name of the COCO JSON of a split."""
    return f"instances_{split}.json"


def voc_palette() -> list[int]:
    """The VOC colour map as Pillow takes it: 256 x (red, green, blue), each 0..255.

    The bits of the index are dealt to red, green and blue in turn, from the highest bit of the colour downwards.
    """
    palette = []
    for index in range(256):
        for channel in range(3):
            palette.append(sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)))
    return palette
