"""prepare-data --check: bad files of a prepared folder, or of the data that a YAML config names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onehead_cli.config.load import load_config
from onehead_cli.data.prepare.settings import Check
from onehead_cli.data.scan.bad_files import scan_for_check, settle
from onehead_cli.data.scan.scan import Scan
from onehead_cli.events import Reporter


@dataclass(frozen=True)
class CheckResult:
    """What was found. skip_bad: whether images may be left out; folder: where that is written down."""

    scan: Scan
    skip_bad: bool
    folder: Path

    def settle(self, reporter: Reporter) -> None:
        """Say what was found, and write down what is left out.

        Raises:
            DataError: something is wrong, and it cannot or may not be left out.
        """
        settle(self.scan, skip_bad=self.skip_bad, folder=self.folder, reporter=reporter)


def check_data(settings: Check, *, reporter: Reporter) -> CheckResult:
    """Look at every file of the data, whichever of its tasks and splits are there.

    Raises:
        ConfigError: the path is neither a folder nor a config.
        DataError: the folder holds none of the datasets.
    """
    folder = settings.path if settings.path.is_dir() else None
    config = load_config(None if folder else settings.path, {"data.skip_bad": True} if settings.skip_bad else None)
    scan = scan_for_check(config, folder=folder, deep=settings.deep, reporter=reporter)
    return CheckResult(scan, config.data.skip_bad, folder or config.output)
