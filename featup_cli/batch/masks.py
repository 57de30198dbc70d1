"""Pair the pictures of a run with their masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from featup_cli.batch.inputs import Source
from featup_cli.batch.records import Item
from featup_cli.core.errors import UsageError
from featup_cli.pictures.find import find_files
from featup_cli.pictures.formats import LABEL_SUFFIXES


def with_masks(items: Sequence[Item], sources: Sequence[Source], mask: Path | str) -> list[Item]:
    """The items with their masks.

    Args:
        items: of `name_outputs`.
        sources: their pictures, in the same order.
        mask: a file for a single picture, or a folder: the mask of `b/x.jpg` is there `b/x.png`, or `b/x.jpg.png`. An
            item without such a file gets the path where it is expected.
    Raises:
        UsageError: one file for several pictures, or two masks for one.
    """
    if not os.path.isdir(mask):
        if len(items) > 1:
            raise UsageError(f"--mask {mask}: is one mask for {len(items)} pictures; give a folder of masks by name")
        return [item._replace(mask=str(mask)) for item in items]
    found: dict[str, str] = {}
    for name in find_files(mask, LABEL_SUFFIXES, recursive=True):
        stem = os.path.splitext(name)[0]
        if stem in found:
            raise UsageError(f"--mask {os.path.join(mask, name)}: {found[stem]} has the same name; rename one")
        found[stem] = name

    def of(source: Source) -> str:
        stem = os.path.splitext(source.name)[0]
        return os.path.join(mask, found.get(source.name) or found.get(stem) or stem + LABEL_SUFFIXES[0])

    return [item._replace(mask=of(source)) for item, source in zip(items, sources, strict=True)]
