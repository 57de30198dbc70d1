"""The record of a file format; free of torch, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One format; functions are texts `module:function`, so that a record loads no code.

    Attributes:
        name: of `--to`.
        about: one line, for help and tables.
        suffix: of its files.
        write: takes a path and a `Source`, or a path and all sources if it joins them.
        joins: all sources go into one file.
        file_name: a name, or a function that derives it from the sources; by default the first stem with `suffix`.
        beside: suffix of a second file that is written with it.
        basis: name of a file for the basis of projected features, if the format can't hold it.
        write_basis: takes the path of that file and the basis.
        dtype: dtype of the features if none is requested; by default that of the file.
        bfloat16: whether the format supports it.
        check: raises UsageError if the format can't be written here, because a package is missing.
    """

    name: str
    about: str
    suffix: str
    write: str
    joins: bool = False
    file_name: str = ""
    beside: str = ""
    basis: str = ""
    write_basis: str = "featup_cli.exporting.arrays:write_basis"
    dtype: str = ""
    bfloat16: bool = False
    check: str = ""
