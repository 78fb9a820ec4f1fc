"""Using a network that was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onehead_cli.config.sections import Config
from onehead_cli.engine.several import in_several_processes, listed
from onehead_cli.events import SILENT, Reporter
from onehead_cli.runtime.collector import collector_off

if TYPE_CHECKING:
    from onehead_cli.evaluation.compare import EvaluateResult
    from onehead_cli.export.export import ExportResult
    from onehead_cli.export.measure import Weights
    from onehead_cli.prediction.predict import PredictRun
    from onehead_cli.profiling.profile import ProfileResult


#: Of the training split, for int8.
CALIBRATION_IMAGES = 120


@in_several_processes
def evaluate(
    config: Config,
    *,
    checkpoint: Path | str | None = None,
    tasks: Sequence[str] | None = None,
    splits: Sequence[str] = ("test",),
    relative: bool = False,
    against: str | Path | Sequence[str | Path] = (),
    report: bool = True,
    reporter: Reporter = SILENT,
) -> EvaluateResult:
    """Measure a network and what it is compared with on the pooled splits; see `evaluation.compare`.

    Args:
        checkpoint: None for the one that `checkpoint.networks.find_student` gives.
        against: checkpoints, exported files and folders of networks; none for the teachers.
        report: write report.html beside evaluate.json.

    Raises:
        OneheadError: a checkpoint or dataset cannot be used.
    """
    from onehead_cli.checkpoint.networks import find_student
    from onehead_cli.evaluation.compare import compare
    from onehead_cli.runtime.compute import threads_of_torch
    from onehead_cli.runtime.launch import is_main
    from onehead_cli.runtime.processes import from_first

    with threads_of_torch(config.threads):
        result = compare(
            config,
            checkpoint_path=_path(checkpoint) or from_first(lambda: find_student(config.output, reporter)),
            tasks=None if tasks is None else listed(tasks),
            splits=listed(splits),
            relative=relative,
            against=[Path(path) for path in listed(against)],
            reporter=reporter,
        )
        if is_main():
            from onehead_cli.report.write import write_files

            result.files[:] = write_files(result, config, page=report)
        return result


def profile(
    config: Config,
    *,
    checkpoint: Path | str | None = None,
    of_config: bool = False,
    image_size: int | None = None,
    batch_size: int = 1,
    runs: int = 20,
    reporter: Reporter = SILENT,
) -> ProfileResult:
    """Count and time a network and its teachers; see `profiling.profile.profile_network`.

    Args:
        checkpoint: None for the one that `checkpoint.networks.find_student` gives.
        of_config: not a checkpoint but a new network of `config.model`.

    Raises:
        OneheadError: the checkpoint, the backbone, its weights or the device cannot be used.
    """
    with collector_off():
        from onehead_cli.checkpoint.networks import find_student
        from onehead_cli.profiling.profile import profile_network

        return profile_network(
            config,
            checkpoint=None if of_config else _path(checkpoint) or find_student(config.output, reporter),
            image_size=image_size,
            batch_size=batch_size,
            runs=runs,
            reporter=reporter,
        )


def predict(
    config: Config,
    *,
    images: str | Path | Sequence[str | Path],
    checkpoint: Path | str | None = None,
    score_threshold: float | None = None,
    overlays: bool = True,
    masks: bool = True,
    coco: Path | str | None = None,
    coco_masks: bool = False,
    coco_ids: Path | str | None = None,
    reporter: Reporter = SILENT,
) -> PredictRun:
    """Class, mask and boxes of images, written to {output}/predictions as the result is iterated over.

    Args:
        images: files, folders and glob patterns; a Path is never a pattern.
        checkpoint: None for the one that `checkpoint.networks.find_student` gives.
        score_threshold: for boxes of every class, instead of the checkpoint's own.
        coco: a file to write the boxes to as a COCO dataset. coco_masks: the masks too, as RLE. coco_ids: a COCO file
            of labels; what is written are results with its ids.

    Raises:
        OneheadError: see `prediction.image_paths.find_images` and `prediction.predict.PredictRun`.
    """
    from onehead_cli.prediction.image_paths import FOLDER, find_images

    # A path that is mistyped is said before torch is waited for.
    found = find_images(listed(images), skip=config.output / FOLDER, reporter=reporter)

    from onehead_cli.checkpoint.networks import find_student
    from onehead_cli.prediction.predict import PredictRun

    return PredictRun(
        found.paths,
        config,
        checkpoint=_path(checkpoint) or find_student(config.output, reporter),
        score_threshold=score_threshold,
        overlays=overlays,
        masks=masks,
        coco=_path(coco),
        coco_masks=coco_masks,
        coco_ids=_path(coco_ids),
        passed_over=found.passed_over,
        reporter=reporter,
    )


def export(
    config: Config,
    *,
    checkpoint: Path | str | None = None,
    file: Path | str | None = None,
    weights: Weights = "float32",
    int8: bool = False,
    calibration_images: int = CALIBRATION_IMAGES,
    runner: bool = False,
    reporter: Reporter = SILENT,
) -> ExportResult:
    """Write a network as one ONNX file with all that reads its maps, measured against the checkpoint; see
    `export.export`.

    Args:
        checkpoint: None for the one that `checkpoint.networks.find_student` gives.
        file: None for {name}.onnx in the output folder, a student's name being "student".
        weights: how the file stores them.
        int8: compute in 8 bits, calibrated on images of the training split.
        runner: write the script that runs the file without torch beside it.

    Raises:
        LostError: the file would not say what the checkpoint says; it is not written.
        OneheadError: the checkpoint or the data cannot be used, a library is missing, or the file cannot be written.
    """
    from onehead_cli.checkpoint.exported import import_exporter
    from onehead_cli.checkpoint.networks import find_student

    import_exporter()

    from onehead_cli.export.export import export_network
    from onehead_cli.runtime.compute import threads_of_torch

    with threads_of_torch(config.threads):
        return export_network(
            config,
            checkpoint_path=_path(checkpoint) or find_student(config.output, reporter),
            file=_path(file),
            weights=weights,
            int8=int8,
            calibration_images=calibration_images,
            runner=runner,
            reporter=reporter,
        )


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)
