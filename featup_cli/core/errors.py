"""Errors that a user can act on, and the exit status of each."""

from __future__ import annotations


class FeatUpError(Exception):
    """Base of all errors that are reported as one line; the message gives the cause and the remedy.

    `exit_code` is the process status: 1 for an input that failed, 2 for wrong usage.
    """

    exit_code = 1


class InputError(FeatUpError):
    """An input file can't be read or has the wrong content."""


class OutputError(FeatUpError):
    """A result can't be written."""


class WeightsError(FeatUpError):
    """Weights are unavailable, or don't fit the model."""


class MemoryBudgetError(FeatUpError):
    """A result doesn't fit in the memory limit; the message gives the estimate."""


class PrecisionError(FeatUpError):
    """Features overflow the requested number format; `index` is the picture's place in its batch."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


class UsageError(FeatUpError):
    """An option or argument is invalid."""

    exit_code = 2


class ShapeError(FeatUpError, ValueError):
    """A tensor has the wrong shape; the message gives the expected and the actual shape."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the machine or the accelerator ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(s in str(error) for s in ("out of memory", "can't allocate memory"))
    )


def error_message(error: BaseException) -> str | None:
    """The line to show for an expected error; None for an unexpected one, which keeps its traceback."""
    if isinstance(error, FeatUpError):
        return one_line(error)
    if is_out_of_memory(error):
        return "out of memory: give a smaller --output-size or --resize, fewer images at once, or --device cpu"
    return None
