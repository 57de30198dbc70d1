"""`featup export`: which files are written where, one basis for all of them, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from featup_cli.core.errors import FeatUpError, InputError, UsageError
from featup_cli.core.progress import Progress, no_progress
from featup_cli.export import fields
from featup_cli.export.arrays import write_basis, write_npy, write_npz
from featup_cli.export.hdf5 import load_h5py, write_hdf5
from featup_cli.export.source import NAMES, Source
from featup_cli.export.torch_file import write_pt
from featup_cli.io.atomic import check_writable
from featup_cli.io.mapped import MappedFeatures, open_features
from featup_cli.io.stream import check_room
from featup_cli.ops.pca import PCA, fit_pca

FIT_TOKENS = 20_000  # of all files together, for the basis
FIT_ROWS = 32  # rows of a file in which they lie

WriteOne = Callable[[Path, Source], None]
WriteAll = Callable[[Path, Sequence[Source]], None]


@dataclass(frozen=True)
class Format:
    """A format and its file names.

    Attributes:
        suffix: of its files.
        write: writes one file for each source.
        join: writes one file for all sources instead.
        name: name of the file of a source; by default its stem and `suffix`.
        joined_name: name of the file for all sources.
        beside: a second file that is written with it, from its path.
        basis: name of the file for the basis where the format has no place for it, and what writes it.
        dtype: of the features if none is asked for; None for that of the file.
        bfloat16: whether the format knows it.
    """

    suffix: str
    write: WriteOne | None = None
    join: WriteAll | None = None
    name: Callable[[Source], str] | None = None
    joined_name: Callable[[Sequence[Source]], str] | None = None
    beside: Callable[[Path], Path] | None = None
    basis: tuple[str, Callable[[Path, PCA], None]] | None = None
    dtype: torch.dtype | None = None
    bfloat16: bool = False


_BASIS_FILE = ("pca.npz", write_basis)
FORMATS = {
    "npy": Format(".npy", write_npy, basis=_BASIS_FILE),
    "npz": Format(".npz", write_npz),
    "pt": Format(".pt", write_pt, bfloat16=True),
    "hdf5": Format(".h5", write_hdf5),
    "feature-3dgs": Format(
        ".pt", fields.write_feature_3dgs, name=fields.feature_3dgs_name, basis=("pca_dict.pt", fields.write_pca_dict),
        dtype=torch.float16, bfloat16=True,
    ),
    "lerf": Format(
        ".npy", join=fields.write_lerf, joined_name=lambda _: fields.LERF_NAME,
        beside=lambda path: path.with_suffix(".info"), basis=_BASIS_FILE,
    ),
    "f3rm": Format(".pt", join=fields.write_f3rm, joined_name=fields.f3rm_name, bfloat16=True),
}  # fmt: skip


def export_features(
    files: Sequence[Path | str],
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
    """Write feature files in the format of another program, piece by piece: a map is never whole in memory.

    Args:
        files: written by featup, or other safetensors files with one feature map. `lerf` and `f3rm` join them in this
            order, the others give one file each.
        to: a key of `FORMATS`.
        output: a folder, or a file name where one file is written; by default the folder of each file, or of the first
            if they are joined.
        components: K, to reduce the channels to K principal components; one basis for all files, fitted on a sample
            of their pixels. The basis is stored in the files, or beside them where the format has no place for it.
        dtype: float16, bfloat16 or float32; by default that of each file, or what the format asks for.
        overwrite: replace outputs that exist.
        on_written: called with each path once it is written.
        on_failed: called with a file that failed, and why; the others go on. By default the error is raised. Files to
            be joined fail together, and so do all if the basis can't be fitted.
        progress: told of files done.
    Returns:
        The paths written.
    Raises:
        UsageError: an option that can't be obeyed, two files of one name, an output that exists or is an input, or
            h5py is missing.
        InputError, OutputError: a file can't be read, lacks what the format needs, or can't be written.
    """
    chosen = _checked_format(to, dtype, components)
    if not files:
        raise UsageError("no feature files given")
    report = on_failed or _raise
    sources = _read_headers([Path(file) for file in files], chosen, dtype, report if chosen.join is None else _raise)
    if not sources:
        return []
    jobs = _jobs(sources, chosen, None if output is None else Path(output))
    basis_files = _basis_targets(chosen, jobs) if components else []
    _check_targets([target for target, _ in jobs], basis_files, chosen, [Path(file) for file in files], overwrite)
    pca = _fit(sources, components) if components else None
    if pca is not None:
        jobs = [(target, [replace(source, pca=pca) for source in group]) for target, group in jobs]
    spools = [source.bytes for _, group in jobs for source in group if source.spooled]
    check_room(jobs[0][0], sum(source.bytes for _, group in jobs for source in group) + max(spools, default=0))
    if chosen.basis is not None and pca is not None:
        for target in basis_files:
            chosen.basis[1](target, pca)
    written: list[Path] = []
    for number, (target, group) in enumerate(jobs, 1):
        try:
            if chosen.join is not None:
                chosen.join(target, group)
            elif chosen.write is not None:
                chosen.write(target, group[0])
        except FeatUpError as error:
            report(group[0].path, error)
        else:
            written.append(target)
            if on_written is not None:
                on_written(target)
        progress("export", number, len(jobs), "")
    return written


def _raise(path: Path, error: FeatUpError) -> None:
    raise error


def _checked_format(to: str, dtype: str | None, components: int | None) -> Format:
    if to not in FORMATS:
        raise UsageError(f"--to {to}: choose from {', '.join(FORMATS)}")
    if dtype is not None and dtype not in ("float16", "bfloat16", "float32"):
        raise UsageError(f"--dtype {dtype}: choose float16, bfloat16 or float32")
    if dtype == "bfloat16" and not FORMATS[to].bfloat16:
        raise UsageError(f"--to {to} can't hold bfloat16; choose --dtype float16 or float32")
    if components is not None and components < 1:
        raise UsageError(f"--components {components}: give a whole number of 1 or more")
    if to == "hdf5":
        load_h5py()
    return FORMATS[to]


def _read_headers(
    files: Sequence[Path], chosen: Format, dtype: str | None, report: Callable[[Path, FeatUpError], None]
) -> list[Source]:
    sources: list[Source] = []
    for path in files:
        try:
            with open_features(path) as features:
                sources.append(_source(features, chosen, dtype))
        except InputError as error:
            report(path, error)
    return sources


def _source(features: MappedFeatures, chosen: Format, dtype: str | None) -> Source:
    wanted: torch.dtype = getattr(torch, dtype) if dtype else chosen.dtype or features.stored_dtype
    if wanted == torch.bfloat16 and not chosen.bfloat16:
        wanted = torch.float32
    channels, height, width = features.shape
    direct = features.storage == "full"
    return Source(features.path, channels, (height, width), wanted, features.provenance, direct)


def _jobs(sources: Sequence[Source], chosen: Format, output: Path | None) -> list[tuple[Path, list[Source]]]:
    """Each file to be written, and what goes into it."""
    groups = [[source] for source in sources] if chosen.join is None else [list(sources)]
    if chosen.join is not None and len({source.dtype for source in sources}) > 1:
        given = ", ".join(sorted({NAMES[source.dtype] for source in sources}))
        raise InputError(f"the files are of {given}; give --dtype, since they are joined")
    if output is not None and output.suffix.lower() == chosen.suffix and not output.is_dir():
        if len(groups) > 1:
            raise UsageError(f"{output}: can't hold {len(groups)} files; give a folder")
        return [(output, groups[0])]
    jobs: list[tuple[Path, list[Source]]] = []
    for group in groups:
        folder = group[0].path.parent if output is None else output
        if chosen.joined_name is not None:
            name = chosen.joined_name(group)
        else:
            name = chosen.name(group[0]) if chosen.name else f"{group[0].path.stem}{chosen.suffix}"
        jobs.append((folder / name, group))
    return jobs


def _basis_targets(chosen: Format, jobs: Sequence[tuple[Path, list[Source]]]) -> list[Path]:
    if chosen.basis is None:
        return []
    return sorted({target.parent / chosen.basis[0] for target, _ in jobs})


def _check_targets(
    targets: Sequence[Path], basis_files: Sequence[Path], chosen: Format, inputs: Sequence[Path], overwrite: bool
) -> None:
    """Refuse what can't be written, before any work."""
    beside = [] if chosen.beside is None else [chosen.beside(target) for target in targets]
    seen: set[Path] = set()
    for target in [*targets, *beside, *basis_files]:
        if target in seen:
            raise UsageError(f"{target}: two files would be written there; give a folder for each of them")
        seen.add(target)
        if target.is_file():
            if any(path.exists() and target.samefile(path) for path in inputs):
                raise UsageError(f"{target}: would be overwritten, but it is an input; choose another --output")
            if not overwrite:
                raise UsageError(f"{target}: exists; give --overwrite to replace it, or another --output")
    for target in {target.parent: target for target in seen}.values():
        check_writable(target)


def _fit(sources: Sequence[Source], components: int) -> PCA:
    """The basis of all files, from a sample of their pixels.

    Raises:
        InputError: files of different channels, or too few pixels; UsageError: more components than channels.
    """
    first = sources[0]
    if components > first.channels:
        raise UsageError(f"--components {components}: the features have {first.channels} channels")
    generator = torch.Generator().manual_seed(0)
    count = max(FIT_TOKENS // len(sources), 1)
    samples: list[Tensor] = []
    for source in sources:
        if source.channels != first.channels:
            raise InputError(
                f"{source.path}: has {source.channels} channels but {first.path} has {first.channels}; files that "
                "share a basis must come from the same backbone"
            )
        with open_features(source.path) as features:
            samples.append(_sample(features, count, generator))
    pca = fit_pca(torch.cat(samples), components)
    if len(pca.basis) < components:
        raise InputError(f"{first.path}: too few pixels for {components} components; at most {len(pca.basis)}")
    return pca


def _sample(features: MappedFeatures, count: int, generator: torch.Generator) -> Tensor:
    """Features [at most `count`, C] of random pixels. They lie in a few rows, so that little of the file is read."""
    _, height, width = features.shape
    rows = torch.randperm(height, generator=generator)[: max(FIT_ROWS, -(-count // width))]
    each = -(-count // len(rows))
    tokens: list[Tensor] = []
    for y in rows.sort().values.tolist():
        columns = torch.randperm(width, generator=generator)[:each]
        tokens.append(features[:, y][:, columns].T)
    return torch.cat(tokens)[:count]
