"""The errors a user can cause or meet; `app.py` turns each into one line on stderr and an exit code."""


class OneheadError(Exception):
    """What went wrong and what to do about it, in one line."""

    exit_code = 1


class ConfigError(OneheadError):
    """A config file, key or option that cannot be used."""

    exit_code = 2


class DataError(OneheadError):
    """A dataset, image, mask or annotation that cannot be used."""


class DownloadError(OneheadError):
    """A file that no address gave, or that there is no room for."""


class CheckpointError(OneheadError):
    """A checkpoint or backbone file that cannot be used."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose bytes are not those that were written."""


class LostError(OneheadError):
    """An exported file that does not say what its checkpoint says, and is not written."""

    exit_code = 10


class NonFiniteLossError(OneheadError):
    """A loss that is NaN or infinite; raised before the optimizer step."""


class DistributedError(OneheadError):
    """The processes of a run have lost one another."""


class Interrupted(OneheadError):
    """A signal ended the run after its state was saved; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
