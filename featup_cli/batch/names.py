"""Name the feature file of each picture."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from featup_cli.batch.inputs import Inputs, Source
from featup_cli.batch.records import Item
from featup_cli.core.errors import UsageError
from featup_cli.engine.settings import SUFFIX, Output


def name_outputs(inputs: Inputs, folder: Path | str, *, picture: bool = True, model: bool = False) -> list[Item]:
    """Pair each picture with its feature file: its path below what was searched, with the suffix replaced.

    `FOLDER/b/x.jpg` goes to `OUT/b/x.safetensors`. If two pictures differ in the suffix alone, as `x.jpg` and
    `x.png`, each keeps it: `x.jpg.safetensors`.

    Args:
        inputs: of `find_inputs`.
        folder: OUT.
        picture, model: whether STEM.png and STEM.model.safetensors are written too.
    Raises:
        UsageError: two results would share a file, or a result would replace a picture.
    """
    names = _unique_names(inputs.sources, model)
    folder = str(folder)
    items = [
        Item(source.path, os.path.join(folder, name + SUFFIX))
        for source, name in zip(inputs.sources, names, strict=True)
    ]
    if picture:
        _refuse_replacing(items, inputs, folder)
    return items


def _unique_names(sources: Sequence[Source], model: bool) -> list[str]:
    names = [os.path.splitext(source.name)[0] for source in sources]
    for indices in _clashes(names, model):
        given = [i for i in indices if sources[i].named]
        if len(given) > 1:
            _refuse(sources, given, names)
    # Twice, as a longer name may meet another one: `x.jpg` does that of `x.jpg.png`.
    for _ in range(2):
        for indices in _clashes(names, model):
            for i in indices:
                names[i] = sources[i].name
    for indices in _clashes(names, model):
        _refuse(sources, indices, names)
    return names


def _clashes(names: Sequence[str], model: bool) -> list[list[int]]:
    """Groups of pictures that would write one file."""
    keys = [os.path.normcase(name) for name in names]
    counts = Counter(keys)
    # STEM.model.safetensors of one picture may be the feature file of another.
    models = {key: f"{key}.model" for key in counts if model and f"{key}.model" in counts}
    shared = {key for key, count in counts.items() if count > 1} | models.keys() | set(models.values())
    groups: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        if key in shared:
            groups[models.get(key, key)].append(i)
    return list(groups.values())


def _refuse(sources: Sequence[Source], indices: Sequence[int], names: Sequence[str]) -> None:
    first, second = (sources[i].path for i in indices[:2])
    raise UsageError(
        f"{first} and {second} would both be written to {names[indices[0]]}{SUFFIX}; rename one, "
        "give their common folder with --recursive, or use separate runs with different --output"
    )


def _refuse_replacing(items: Sequence[Item], inputs: Inputs, folder: str) -> None:
    """Refuse to write STEM.png over a picture of this run, or into a folder that is searched for pictures."""
    out = os.path.realpath(folder)
    if any(os.path.realpath(searched) == out for searched in inputs.folders):
        raise UsageError(
            f"{folder}: is searched for pictures, so the next run would read STEM.png as an input; "
            "choose another --output, or --no-picture"
        )
    real_folder = cache(os.path.realpath)

    def real(path: str) -> str:
        head, tail = os.path.split(path)
        return os.path.join(real_folder(head), tail)

    taken = {real(item.picture) for item in items}
    taken |= {os.path.realpath(source.path) for source in inputs.sources if source.named}
    for item in items:
        result = Output().files(item.target)["picture"]
        if real(result) in taken:
            raise UsageError(f"{result}: would be overwritten, but it is an input; choose another --output")
