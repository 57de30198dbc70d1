"""Export: plan the files, fit one basis for all, check everything before any work, then write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from featup_cli.core.checks import checked
from featup_cli.core.errors import FeatUpError, InputError, UsageError
from featup_cli.core.progress import Progress, no_progress
from featup_cli.core.references import resolve
from featup_cli.core.text import counted
from featup_cli.exporting.format import Format
from featup_cli.exporting.registry import FORMATS
from featup_cli.exporting.source import Source
from featup_cli.io.atomic import check_writable, parent_folder
from featup_cli.io.header import WRITTEN
from featup_cli.io.mapped import MappedFeatures, open_features
from featup_cli.io.replace import refuse_replacing
from featup_cli.io.stream import check_room
from featup_cli.ops.pca import PCA, fit_pca

FIT_TOKENS = 20_000  # of all files together, for the basis
FIT_ROWS = 32  # rows of a file in which they lie


class Job(NamedTuple):
    """A file to write, and its sources."""

    target: Path
    sources: list[Source]


@checked
def export(  # noqa: PLR0913 (a public call: its keywords mirror the command's options)
    files: Sequence[Path | str] | Path | str,
    to: str,
    *,
    output: Path | str | None = None,
    components: int | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    on_written: Callable[[Path], None] | None = None,
    on_failed: Callable[[Path, FeatUpError], None] | None = None,
    progress: Progress = no_progress,
) -> list[Path]:
    """Write feature files in the format of another program, piece by piece: no whole map is held in memory.

    Args:
        files: one or several, written by featup, or other safetensors files with one feature map. `lerf` and `f3rm`
            join them in this order, the others give one file each.
        to: a key of `FORMATS`.
        output: a folder, or a file name if one file is written; by default the folder of each file, or of the first
            if they are joined.
        components: K, to reduce the channels to K principal components; one basis for all files, fitted on a sample
            of their pixels. The basis is stored in the files, or beside them if the format can't hold it.
        dtype: float16, bfloat16 or float32; by default that of each file, or the one that the format needs.
        overwrite: replace existing outputs.
        on_written: called with each path once it is written.
        on_failed: called with a file that failed and its error; the others continue. By default the error is raised.
            Joined files fail together, and so do all files if the basis can't be fitted.
        progress: called after each file.
    Returns:
        The paths written.
    Raises:
        UsageError: an option is invalid, two files share a name, an output exists or is an input, or h5py is
            missing.
        InputError, OutputError: a file can't be read, lacks what the format needs, or can't be written.

    Example:
        >>> import tempfile, numpy, torch, featup_cli as featup
        >>> folder = tempfile.mkdtemp()
        >>> picture = torch.rand(3, 64, 96)
        >>> file = featup.upsample(picture, method="bilinear", resize=64).save(f"{folder}/photo.safetensors")
        >>> (written,) = featup.export([file], to="npy", components=8)
        >>> numpy.load(written).shape
        (8, 64, 96)
    """
    chosen = _checked_format(to, dtype, components)
    if not files:
        raise UsageError("no feature files given")
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    sources: list[Source] = []
    for path in paths:
        with _failures(path, None if chosen.joins else on_failed):
            sources.append(_read_header(path, chosen, dtype))
    jobs = _prepare(sources, chosen, paths, Path(output) if output else None, components, overwrite) if sources else []
    write, written = resolve(chosen.write), []
    with_basis = set()
    for number, job in enumerate(jobs, 1):
        with _failures(job.sources[0].path, on_failed), parent_folder(job.target):
            write(job.target, job.sources if chosen.joins else job.sources[0])
            written.append(job.target)
            basis_file = job.target.parent / chosen.basis
            if components and chosen.basis and basis_file not in with_basis:
                resolve(chosen.write_basis)(basis_file, job.sources[0].pca)
                with_basis.add(basis_file)
            if on_written is not None:
                on_written(job.target)
        progress("export", number, len(jobs), "")
    return written


export_features = export
"""Former name of `export`."""


def _checked_format(to: str, dtype: str | None, components: int | None) -> Format:
    if to not in FORMATS:
        raise UsageError(f"--to {to}: choose from {', '.join(FORMATS)}")
    chosen = FORMATS[to]
    if dtype is not None and dtype not in WRITTEN:
        raise UsageError(f"--dtype {dtype}: choose float16, bfloat16 or float32")
    if dtype == "bfloat16" and not chosen.bfloat16:
        raise UsageError(f"--to {to} can't hold bfloat16; choose --dtype float16 or float32")
    if components is not None and components < 1:
        raise UsageError(f"--components {components}: give a whole number of 1 or more")
    if chosen.check:
        resolve(chosen.check)()
    return chosen


@contextmanager
def _failures(path: Path, on_failed: Callable[[Path, FeatUpError], None] | None) -> Iterator[None]:
    try:
        yield
    except FeatUpError as error:
        if on_failed is None:
            raise
        on_failed(path, error)


def _read_header(path: Path, chosen: Format, dtype: str | None) -> Source:
    wanted = dtype or chosen.dtype
    with open_features(path) as features:
        kind: torch.dtype = getattr(torch, wanted) if wanted else features.stored_dtype
        if kind == torch.bfloat16 and not chosen.bfloat16:
            kind = torch.float32
        channels, height, width = features.shape
        return Source(path, channels, (height, width), kind, features.provenance, features.storage == "full")


def _prepare(
    sources: list[Source],
    chosen: Format,
    inputs: Sequence[Path],
    output: Path | None,
    components: int | None,
    overwrite: bool,
) -> list[Job]:
    """Plan each file and its sources, and check all options."""
    jobs = _jobs(sources, chosen, output)
    folders = {job.target.parent for job in jobs} if components and chosen.basis else set()
    basis_files = [folder / chosen.basis for folder in sorted(folders)]
    beside = [job.target.with_suffix(chosen.beside) for job in jobs if chosen.beside]
    _check_targets([*(job.target for job in jobs), *beside, *basis_files], inputs, overwrite)
    if components:
        pca = _fit(sources, components)
        jobs = [Job(target, [replace(source, pca=pca) for source in group]) for target, group in jobs]
    every = [source for job in jobs for source in job.sources]
    spools = [source.bytes for source in every if source.spooled]
    check_room(jobs[0].target, sum(source.bytes for source in every) + max(spools, default=0))
    return jobs


def _jobs(sources: list[Source], chosen: Format, output: Path | None) -> list[Job]:
    groups = [sources] if chosen.joins else [[source] for source in sources]
    given = {source.dtype_name for source in sources}
    if chosen.joins and len(given) > 1:
        raise InputError(f"the files to join hold {', '.join(sorted(given))}; give --dtype")
    if output is not None and output.suffix.lower() == chosen.suffix and not output.is_dir():
        if len(groups) > 1:
            raise UsageError(f"{output}: is one file name for {len(groups)} files; give a folder")
        return [Job(output, groups[0])]
    jobs: list[Job] = []
    for group in groups:
        path = group[0].path
        name = resolve(chosen.file_name)(group) if ":" in chosen.file_name else chosen.file_name
        jobs.append(Job((output or path.parent) / (name or f"{path.stem}{chosen.suffix}"), group))
    return jobs


def _check_targets(targets: Sequence[Path], inputs: Sequence[Path], overwrite: bool) -> None:
    """Check the outputs before any work."""
    seen: set[Path] = set()
    for target in targets:
        if target in seen:
            raise UsageError(f"{target}: two outputs would have this name; export them to different folders")
        seen.add(target)
        refuse_replacing(target, overwrite, inputs)
    for target in {target.parent: target for target in seen}.values():
        check_writable(target)


def _fit(sources: Sequence[Source], components: int) -> PCA:
    """The basis of all files, from a sample of their pixels.

    Raises:
        InputError: channels differ, or there are too few pixels; UsageError: more components than channels.
    """
    first = sources[0]
    if components > first.channels:
        raise UsageError(f"--components {components}: the features have {counted(first.channels, 'channel')}")
    generator = torch.Generator().manual_seed(0)
    count = max(FIT_TOKENS // len(sources), 1)
    samples: list[Tensor] = []
    for source in sources:
        if source.channels != first.channels:
            raise InputError(
                f"{source.path}: has {counted(source.channels, 'channel')} but {first.path} has {first.channels}; "
                "files that share a basis must come from the same backbone"
            )
        with open_features(source.path) as features:
            samples.append(_sample(features, count, generator))
    pca = fit_pca(torch.cat(samples), components)
    if len(pca.basis) < components:
        raise InputError(
            f"{first.path}: too few pixels for {counted(components, 'component')}; at most {len(pca.basis)}"
        )
    return pca


def _sample(features: MappedFeatures, count: int, generator: torch.Generator) -> Tensor:
    """Features [at most `count`, C] of random pixels. They come from a few rows, so that little of the file is read."""
    _, height, width = features.shape
    rows = torch.randperm(height, generator=generator)[: max(FIT_ROWS, -(-count // width))]
    each = -(-count // len(rows))
    tokens: list[Tensor] = []
    for y in rows.sort().values.tolist():
        columns = torch.randperm(width, generator=generator)[:each]
        tokens.append(features[:, y][:, columns].T)
    return torch.cat(tokens)[:count]
