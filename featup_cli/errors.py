"""Errors that a user can act on, and the exit status of each."""

from __future__ import annotations


class FeatUpError(Exception):
    """Base of all errors that are reported as one line; the message names the cause and the way out.

    `exit_code` is the process status: 1 for an input that failed, 2 for wrong usage.
    """

    exit_code = 1


class InputError(FeatUpError):
    """A file that was given can't be read or does not hold what it should."""


class OutputError(FeatUpError):
    """A result can't be written."""


class WeightsError(FeatUpError):
    """Weights can't be had, or don't fit the model."""


class UsageError(FeatUpError):
    """An option or argument that can't be obeyed."""

    exit_code = 2


class ShapeError(FeatUpError, ValueError):
    """A tensor of the wrong shape; the message says what was expected and what came."""

    exit_code = 2
