"""Errors that a user can fix: each names the value, the rule and the way out.

The commands print them in one line and exit with code 2; any other exception is a defect of ours and keeps its
traceback.
"""

import io
import sys


class InputError(ValueError):
    """A file, folder or setting that was handed in cannot be used as it is."""


class DatasetLayoutError(InputError):
    """A data-set folder or archive does not look as its layout demands."""


class ArtifactError(InputError):
    """A folder that should be a finished artifact is missing, unfinished, corrupt or of another stage."""


class ArtifactBusyError(ArtifactError):
    """Another process is making the same artifact right now."""


class WeightsError(InputError):
    """Model weights are missing, of another architecture, truncated, or not in a safe format."""


class DivergedError(InputError):
    """A training's loss is not finite any more; another learning rate or precision is the way out.

    Like every `InputError` it is reported in one line and ends the command with exit code 2: the same settings would
    diverge again.
    """


def printable(name: str) -> str:
    """A file name as valid UTF-8 without control characters: undecodable bytes as escapes."""
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def escape_in_output() -> None:
    """Escape on standard output what its encoding lacks, as Python does on standard error: an arrow ends no command."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
