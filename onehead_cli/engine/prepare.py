"""Writing and looking at data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from onehead_cli.data.prepare.settings import (
    Check,
    Local,
    Official,
    Plan,
    PrepareSettings,
    Preview,
    Synthetic,
    Verify,
)
from onehead_cli.events import SILENT, Reporter

if TYPE_CHECKING:
    from onehead_cli.data.prepare.check import CheckResult
    from onehead_cli.data.prepare.fetched import DownloadPlan
    from onehead_cli.data.prepare.staging import PrepareResult


@overload
def prepare_data(settings: Synthetic | Local | Official, *, reporter: Reporter = SILENT) -> PrepareResult: ...


@overload
def prepare_data(settings: Plan, *, reporter: Reporter = SILENT) -> DownloadPlan: ...


@overload
def prepare_data(settings: Verify, *, reporter: Reporter = SILENT) -> list[str]: ...


@overload
def prepare_data(settings: Check, *, reporter: Reporter = SILENT) -> CheckResult: ...


@overload
def prepare_data(settings: Preview, *, reporter: Reporter = SILENT) -> dict[str, Any]: ...


def prepare_data(settings: PrepareSettings, *, reporter: Reporter = SILENT) -> Any:
    """Write the three datasets, or do what else the settings say; see `data.prepare.settings`.

    Returns:
        Of datasets that are written, what was written. Of a `Plan`, what would be fetched. Of `Verify`, a line for each
        file that is missing or differs from the manifest. Of `Check`, what was found. Of a `Preview`, its numbers.

    Raises:
        OneheadError: data cannot be had, read or written.
    """
    if isinstance(settings, Synthetic | Local | Official):
        return _write_data(settings, reporter)
    if isinstance(settings, Plan):
        from onehead_cli.data.prepare.fetched import plan_official

        return plan_official(settings, reporter=reporter)
    if isinstance(settings, Verify):
        from onehead_cli.data.manifest import verify_manifest

        return verify_manifest(settings.root)
    if isinstance(settings, Check):
        from onehead_cli.data.prepare.check import check_data

        return check_data(settings, reporter=reporter)
    return _preview_data(settings, reporter)


def _write_data(settings: Synthetic | Local | Official, reporter: Reporter) -> PrepareResult:
    from onehead_cli.data.prepare.fetched import prepare_official
    from onehead_cli.data.prepare.local import prepare_local
    from onehead_cli.data.prepare.synthetic import prepare_synthetic
    from onehead_cli.data.prepare.writing import one_bar

    with one_bar(settings, reporter) as progress:
        if isinstance(settings, Synthetic):
            return prepare_synthetic(settings, progress=progress)
        if isinstance(settings, Local):
            return prepare_local(settings, progress=progress)
        return prepare_official(settings, reporter=reporter, progress=progress)


def _preview_data(settings: Preview, reporter: Reporter) -> dict[str, Any]:
    from onehead_cli.config.load import load_config
    from onehead_cli.data.layout import SPLITS
    from onehead_cli.preview.preview import preview_data

    if settings.root.is_file():
        config = load_config(settings.root)
        place = config.output
        splits = tuple(dict.fromkeys((config.data.train_split, config.data.val_split, "test")))
    else:
        config, place, splits = load_config(None, {"data.root": settings.root}), settings.root, SPLITS
    folder = settings.folder or place / "preview"
    return preview_data(config, splits=splits, folder=folder, seed=settings.seed, reporter=reporter)
