"""The errors of this project: each message says what was expected, what came, and what to do."""

from collections.abc import Sequence


class VolumeError(Exception):
    """Base of every error that a user can cause or mend."""


class OptionError(VolumeError):
    """An option, or a combination of options, that cannot work; nothing has been written."""


class GeometryError(VolumeError, ValueError):
    """Coordinates, sizes or a resolution that no box can be made of, or a box that has no whole voxels."""


class SourceError(VolumeError):
    """The source cannot be read, or holds something other than it says."""


class DestinationError(VolumeError):
    """The destination cannot be written, or holds the work of another run."""


class CorruptDataError(VolumeError):
    """Stored bytes are not what was stored: truncated, altered, or in another format."""


class ServerError(VolumeError):
    """The proofreading server did not answer, or answered wrongly."""


class AuthorizationError(ServerError):
    """The proofreading server wants a token, or does not accept the one it was given."""


class WorkerDiedError(VolumeError):
    """A worker process ended (killed, out of memory) before it had finished its element."""


class ConservationError(VolumeError):
    """What was planned, processed and written does not agree: something was lost."""


class FunctionError(VolumeError):
    """What a function of the user has returned does not fit where it goes."""


def fault_report(faults: Sequence[str], what: str = "the spec") -> str:
    """Return one message of all the faults of `what`: one alone as it is, several numbered, each on a line."""
    if len(faults) == 1:
        return faults[0]
    return f"{what} has {len(faults)} faults:" + "".join(f"\n{i}. {fault}" for i, fault in enumerate(faults, 1))
