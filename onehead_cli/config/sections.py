"""The sections of the config: an option is a field with its type, default, unit and sentence.

The defaults are a plain recipe that any data can be trained with, at a size for two CPU cores;
`configs/lite-long.yaml` has what our three datasets teach one another as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from onehead_cli.config.fields import Section, field
from onehead_cli.config.training import DistillConfig, StudentConfig, TeacherConfig
from onehead_cli.registry import OWN_TASKS, TASKS, TaskName

Precision = Literal["auto", "fp32", "bf16"]
#: How the class map's cells become one answer; see `tasks.classification.pooling`.
Pooling = Literal["gate", "soft"]
#: What the sizes of boxes are counted in: the sides of the input, or cells of the map.
SizeUnit = Literal["input", "cells"]
#: The label of a mask pixel that belongs to no class ("void" in VOC).
IGNORE_INDEX = 255


class DataConfig(Section):
    """Where the images are and how they enter the network."""

    tasks: tuple[TaskName, ...] = field(OWN_TASKS, "The tasks that you have data for.", min_length=1)
    root: Path = field(
        Path("data"), "Folder that holds mini_coco_det, mini_voc_seg and imagenette-160.", unit="path", metavar="ROOT"
    )
    det_images: Path | None = field(
        None, "Detection images, with {split} in the path or one folder per split inside.", unit="path"
    )
    det_annotations: Path | None = field(
        None, "COCO JSON, with {split} in the path, or a folder of instances_{split}.json.", unit="path"
    )
    seg_root: Path | None = field(
        None, "Folder of JPEGImages and SegmentationClass; {split} as in cls_root.", unit="path"
    )
    seg_images: Path | None = field(
        None, "Segmentation images, instead of those in seg_root; {split} as in cls_root.", unit="path"
    )
    seg_masks: Path | None = field(
        None, "Masks {name of the image}.png, instead of those in seg_root; {split} as in cls_root.", unit="path"
    )
    seg_classes: Path | None = field(
        None, "YAML list of the mask classes; unset: classes.yaml in seg_root.", unit="path"
    )
    ignore_index: int = field(
        IGNORE_INDEX, "Value of the mask pixels that belong to no class.", unit="label", ge=0, le=255
    )
    cls_root: Path | None = field(
        None, "Class folders of images, with {split} in the path or one folder per split inside.", unit="path"
    )
    skip_bad: bool = field(False, "Skip and list images that cannot be used, instead of stopping.")
    train_split: str = field("train", "Split to train on.", unit="name", min_length=1)
    val_split: str = field("val", "Split on which checkpoints and thresholds are chosen.", unit="name", min_length=1)
    image_size: int = field(256, "Side of the square input, a multiple of 32.", unit="px", ge=64, le=2048)
    fit: Literal["resize", "letterbox"] = field(
        "resize", "How an image is made square: stretched (resize), or scaled and padded (letterbox)."
    )
    sizes: tuple[int, ...] = field(
        (),
        "Sides of the input in training, one per optimizer step; evaluation uses image_size. Unset: image_size.",
        unit="px",
    )
    cache_mb: int = field(2048, "Memory for decoded images; the rest are read from disk.", unit="MB", ge=0)
    cache_scale: float = field(
        1.0,
        "Largest side of a cached image, relative to the input's and never above its own: 2 keeps zoomed views sharp.",
        unit="factor",
        ge=1,
        le=4,
    )
    workers: int = field(
        0, "Threads that load the next mini-batches while the network trains.", unit="threads", ge=0, le=64
    )
    scale_min: float = field(0.5, "Smallest zoom of the scale jitter.", unit="factor", gt=0, le=1)
    scale_max: float = field(2.0, "Largest zoom of the scale jitter.", unit="factor", ge=1, le=8)
    aspect: float = field(1.0, "Largest change of an image's aspect ratio.", unit="factor", ge=1, le=4)
    flip: float = field(0.5, "Probability of flipping an image left to right.", unit="probability", ge=0, le=1)
    colour: float = field(0.4, "Largest change of brightness, contrast and saturation.", unit="fraction", ge=0, lt=1)

    @field_validator("tasks")
    @classmethod
    def _in_canonical_order(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tasks)) != len(tasks):
            raise ValueError("each task may be named only once")
        return tuple(task for task in TASKS if task in tasks)

    @model_validator(mode="after")
    def _multiple_of_32(self) -> DataConfig:
        for key, side in (("image_size", self.image_size), *(("sizes", side) for side in self.sizes)):
            if side % 32 or not 64 <= side <= 2048:
                raise ValueError(f"data.{key} must be a multiple of 32 from 64 to 2048, not {side}")
        return self


class ModelConfig(Section):
    """The network; its widths follow from the class counts."""

    backbone: str = field("tf_efficientnet_lite0", "Any timm backbone of stride 32.", unit="name", min_length=1)
    pretrained: bool = field(True, "Start the backbone from ImageNet weights.")
    backbone_weights: Path | None = field(
        None, "Weights file of the backbone (.pth or .safetensors).", unit="path", metavar="FILE"
    )
    start_from: Literal["shipped"] | Path | None = field(
        None,
        "Checkpoint to start training from, or onehead's own (shipped); its classes and tasks may differ, and layers "
        "that do not fit start afresh.",
        unit="path",
        metavar="FILE",
    )
    skip: Literal["auto", "none", "stride16"] = field(
        "auto",
        "Add the backbone's last map of stride 16 to the upsampled features (not in the described network); auto: if "
        "the backbone has one of at most 320 channels.",
    )
    boxes_per_cell: int = field(2, "Boxes that each cell of the detection map predicts.", unit="boxes", ge=1, le=8)
    batch_norm: Literal["train", "slow", "frozen"] = field(
        "frozen",
        "Batch-norm of the backbone: updated by each batch (train), with a tenth of the momentum (slow), "
        "or kept at its pretrained statistics (frozen).",
    )
    frozen_stages: int = field(
        0,
        "Freeze the stem and this many first stages of the backbone, which saves time: a student computes them once "
        "for its teachers too. 0: train all layers. EfficientNets only.",
        unit="stages",
        ge=0,
    )
    sync_batch_norm: bool = field(False, "Synchronise the backbone's batch-norm across all processes; on GPUs only.")
    cell_threshold: float = field(
        0.3,
        "Cells less confident than this are left out when training pools the class map.",
        unit="probability",
        ge=0,
        lt=1,
    )
    pooling: Pooling = field(
        "gate", "Cells below the threshold are left out (gate), or count less in proportion (soft)."
    )
    imagenet_classes: bool = field(
        False,
        "Initialise classification as the backbone's own ImageNet classifier; class folders must be named by WordNet "
        "ids or ImageNet's class names, at most 128.",
    )
    icnr: bool = field(False, "Initialise the four maps that the pixel shuffle interleaves as equal.")
    class_evidence: bool = field(
        False, "Initialise the upsampling with the ImageNet classifier's rows for the classes of other tasks."
    )
    neck_dropout: float = field(0.0, "Dropout of the necks' channels in training.", unit="probability", ge=0, lt=1)
    detection_loss: Literal["quality", "yolov1"] = field("quality", "How the detection map is trained.")
    precision: Precision = field(
        "auto", "Number format of the forward pass; auto is bf16 where the processor supports it."
    )

    @model_validator(mode="after")
    def _classifier_needs_its_backbone(self) -> ModelConfig:
        for key in ("imagenet_classes", "class_evidence"):
            if getattr(self, key) and not self.pretrained:
                raise ValueError(f"model.{key} needs the backbone's ImageNet weights, so model.pretrained must be true")
        return self


class DetectionConfig(Section):
    """How the detection map is taught (model.detection_loss=quality)."""

    confidence: Literal["quality", "varifocal"] = field(
        "varifocal", "Loss by which the confidence learns the overlap: quality focal or varifocal."
    )
    confidence_cost: float = field(
        0.5, "Weight of a box's confidence (its negative logarithm) when boxes are assigned.", ge=0
    )
    ignore_iou: float = field(
        0.5,
        "An unassigned box that overlaps a true one by more than this is not a negative; 1: all are.",
        unit="IoU",
        gt=0,
        le=1,
    )
    every_box: bool = field(
        False, "Give every true box a predicted one, where a place is free, even if several claim the same."
    )
    smallest: float = field(0.0, "True boxes with a side shorter than this are ignored regions.", unit="cells", ge=0)
    priors: Literal["spread", "kmeans"] = field(
        "spread", "Initial sizes of a cell's boxes: spread evenly, or from k-means over the training boxes."
    )
    size_unit: SizeUnit = field("input", "Unit of the box sizes.")
    mask_box_weight: float = field(
        1.0, "Weight of an image with boxes from its mask, relative to one with true boxes.", ge=0
    )


class SegmentationConfig(Section):
    """How the segmentation map is taught."""

    lovasz: float = field(0.0, "Share of the Lovasz-softmax loss; the rest is cross-entropy.", ge=0, le=1)
    repeat_factor: float = field(
        0.0,
        "Repeat images with a class that fewer than this share of the images have; 0: none.",
        unit="fraction",
        ge=0,
        le=1,
    )
    copy_paste: float = field(
        0.0, "Probability of pasting an object from another image.", unit="probability", ge=0, le=1
    )
    imagenet_cells: float = field(
        0.0, "Weight of distilling the backbone's frozen ImageNet classifier, cell by cell, on all images.", ge=0
    )


class EvaluationConfig(Section):
    """How the maps are read and the drop is judged."""

    batch_size: int = field(8, "Images in one forward pass.", unit="images", ge=1)
    score_min: float = field(0.01, "Detections below this score are dropped.", unit="score", ge=0, lt=1)
    best_class: bool | None = field(
        None, "Only the most likely class of a cell gives a box. Unset: as in the checkpoint, or true for a new one."
    )
    nms_iou: float | None = field(
        None,
        "IoU above which the lower-scoring of two boxes of a class is dropped. Unset: as in the checkpoint, or 0.45 "
        "for a new one.",
        unit="IoU",
        gt=0,
        le=1,
    )
    predict_nms_iou: float | None = field(
        None,
        "The same for boxes that are drawn, as in predict. Unset: as in the checkpoint, or 0.3 for a new one.",
        unit="IoU",
        gt=0,
        le=1,
    )
    vote_iou: float | None = field(
        None,
        "After NMS, replace a box by the score-weighted mean of the boxes of its class that overlap it by this; 1: "
        "leave it as it is. Unset: as in the checkpoint, or 0.5 for a new one.",
        unit="IoU",
        gt=0,
        le=1,
    )
    shared_below: int = field(
        0,
        "Classes with fewer boxes on val than this share one drawing threshold, chosen in training.",
        unit="boxes",
        ge=0,
    )
    max_detections: int = field(100, "Boxes kept per image.", unit="boxes", ge=1)
    drop_limit: float = field(0.05, "Largest drop against the baseline that passes.", unit="score", gt=0, lt=1)
    resamples: int = field(1000, "Resamples of the bootstrap interval.", unit="resamples", ge=10)


class Config(Section):
    """Everything a run depends on."""

    seed: int = field(
        0, "Seed of everything random: new weights, image order and augmentation, resampling.", ge=0, lt=2**32
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = field("auto", "Where the network runs.")
    threads: int | None = field(
        None, "CPU threads for inference, not for training. Unset: the library's choice.", ge=1, le=1024
    )
    deterministic: bool = field(
        False, "Train only with operations that give the same bits every time; fail on any other."
    )
    distributed_timeout: int = field(
        300, "Longest time that the processes of a run wait for one another before they stop.", unit="s", ge=1
    )
    output: Path = field(
        Path("output"), "Folder for checkpoints, logs, reports and predictions.", unit="path", metavar="DIR"
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    detection: DetectionConfig = DetectionConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    distill: DistillConfig = Field(default_factory=lambda: DistillConfig.model_validate({}))
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _not_all_zero(self) -> Config:
        if not any(getattr(self.student.fixed_weights, task) for task in self.data.tasks):
            raise ValueError("student.fixed_weights must not all be 0")
        return self

    @property
    def teachers_folder(self) -> Path:
        return self.distill.teachers or self.output
