"""prepare-data --source local: a draw of the official datasets on disk."""

from __future__ import annotations

from pathlib import Path

from onehead_cli.data.manifest import Origins
from onehead_cli.data.prepare.addresses import COCO, IMAGENETTE, VOC
from onehead_cli.data.prepare.official import Copier, copy_draw
from onehead_cli.data.prepare.official_files import FolderFiles, OfficialFiles
from onehead_cli.data.prepare.settings import Local
from onehead_cli.data.prepare.staging import PrepareResult, write_datasets
from onehead_cli.data.prepare.writing import Progress


def prepare_local(settings: Local, *, progress: Progress | None = None) -> PrepareResult:
    """Copy a draw of the official datasets on disk.

    Args:
        settings: coco holds annotations/instances_{train,val}2017.json, train2017/ and val2017/; only images with a
            box of the categories that is not a crowd are drawn. voc may be a folder that holds VOCdevkit/VOC2012.
            imagenette holds train/ and val/, each of class folders, from which equally many images are drawn.

    Raises:
        DataError: a folder, file or image that is missing or cannot be read, too few images, datasets that stand
            there already, or a folder that cannot be written.
        ConfigError: an unknown category.
    """

    def write(staging: Path) -> Origins:
        nested = settings.voc / VOC.inner
        files: dict[str, OfficialFiles] = {
            COCO.name: FolderFiles(COCO.name, settings.coco),
            VOC.name: FolderFiles(VOC.name, nested if nested.is_dir() else settings.voc),
            IMAGENETTE.name: FolderFiles(IMAGENETTE.name, settings.imagenette),
        }
        return copy_draw(files.__getitem__, settings, Copier(staging, progress))

    return write_datasets(settings, source="local", repeatable=False, write=write)
