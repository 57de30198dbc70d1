"""Pictures of feature files, comparable with each other: one basis and one colour scale for all of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featup_cli.core.checks import checked
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.text import counted
from featup_cli.core.values import parse_choice
from featup_cli.io.features import FeatureFile, load_features
from featup_cli.io.header import described, stored_parts
from featup_cli.io.mapped import open_features
from featup_cli.io.replace import refuse_replacing
from featup_cli.ops.pca import fit_pca, fix_signs
from featup_cli.pictures.basis import ColourBasis, check_basis_name, load_basis, stored_file, write_basis
from featup_cli.pictures.captions import BOTH, LOW, fitted, of_basis, picture_lines
from featup_cli.pictures.components import COMPONENTS
from featup_cli.pictures.layout import KERNELS, SALIENCY, UNCERTAINTY, Panel, feature_panels, heat_panel, panel_rows
from featup_cli.pictures.panels import (
    DEFAULT_COMPONENTS,
    MAP_TOKENS,
    Colours,
    Components,
    fit_colours,
    overlay,
    png_bytes,
    resize_rgb,
    sample_tokens,
    save_png,
)
from featup_cli.pictures.read import load_image

LAYOUTS = ("side-by-side", "overlay", "plain")
SHOWS = ("features", "uncertainty", "downsampler")
ALL_TOKENS = 60_000  # of all maps together: bounds the memory of a fit over a folder


def parse_components(text: str) -> Components:
    """`4-6` or `1,3,5` as three component numbers, counted from 1.

    Raises:
        UsageError: not three whole numbers, or one below 1.
    """
    try:
        if "-" in text.strip():
            first, last = (int(part) for part in text.split("-"))
            numbers = tuple(range(first, min(last, first + 3) + 1))
        else:
            numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"components {text!r}: give three numbers, such as 1-3 or 1,3,5") from None
    return _checked_components(numbers)


def _checked_components(numbers: Sequence[int], channels: int | None = None) -> Components:
    shown = ",".join(str(number) for number in numbers)
    if len(numbers) != 3:
        raise UsageError(f"components {shown!r}: give exactly three, for red, green and blue, such as 4-6")
    if min(numbers) < 1:
        raise UsageError(f"components {shown!r}: they are counted from 1")
    # Fewer than three channels still make a picture, as long as nobody asked for others than the first.
    if channels is not None and max(numbers) > max(channels, 3):
        raise UsageError(f"components {shown!r}: the features have {counted(channels, 'channel')}")
    return numbers[0], numbers[1], numbers[2]


def parse_show(text: str) -> tuple[str, ...]:
    """`uncertainty,downsampler` as a tuple of panel names.

    Raises:
        UsageError: a name that is not among `SHOWS`.
    """
    return tuple(parse_choice(part.strip(), SHOWS, "--show ") for part in text.split(","))


def _checked_choice(option: str, values: tuple[str, ...], choices: Sequence[str]) -> tuple[str, ...]:
    for value in values:
        if value not in choices:
            raise UsageError(f"{option} {value!r}: choose from {', '.join(choices)}")
    return values


Source = tuple[Path, dict[str, Any]]
"""A feature file and its provenance."""


@dataclass(frozen=True)
class _Fit:
    """Colours that fit files, the files, and a sentence about these colours."""

    colours: Colours
    sources: list[Source]
    about: str


def _fit_files(count: int, files: Iterable[FeatureFile], components: Components, basis: str) -> _Fit:
    """`fit_colours` on the low resolution of all files, or also on the high one, which are gone through once."""
    limit = min(max(ALL_TOKENS // (2 * count), 16), MAP_TOKENS)
    high: list[Tensor] = []
    low: list[Tensor] = []
    sources: list[Source] = []
    channels = 0
    for file in files:
        if sources and len(file.features) != channels:
            raise InputError(
                f"{file.path}: has {counted(len(file.features), 'channel')} but {sources[0][0]} has {channels}; "
                "files shown together must come from the same backbone"
            )
        channels = len(file.features)
        if basis == BOTH or file.lr_features is None:
            high.append(_tokens(file, file.features, limit))
        if file.lr_features is not None:
            low.append(_tokens(file, file.lr_features, limit))
        sources.append((file.path or Path(), file.provenance))
    _checked_components(components, channels)
    pca = fit_pca(torch.cat(high + low), max(components))
    if high and low:  # the same for all methods, so that their pictures agree
        like = fit_pca(torch.cat(low), max(COMPONENTS, *components)).basis
        pca = replace(pca, basis=fix_signs(pca.basis, like))
    return _Fit(fit_colours(high + low, components, pca), sources, fitted(basis, count, count - len(low)))


def _tokens(file: FeatureFile, maps: Tensor, limit: int) -> Tensor:
    tokens = sample_tokens(maps, limit)
    if not bool(tokens.square().sum().isfinite()):
        raise InputError(f"{file.path}: holds values too large to be shown; make the file again")
    return tokens


def make_basis(files: Sequence[Path | str], path: Path | str, basis: str = LOW) -> None:
    """Store colours that fit all of these feature files (`basis` as of `visualize`); of the features a grid is read.

    Raises:
        InputError, UsageError, OutputError: as `visualize`.
    """
    fit = _fit_files(len(files), map(_thinned, files), DEFAULT_COMPONENTS, basis)
    write_basis(path, fit.colours, fit.sources)


def _thinned(path: Path | str) -> FeatureFile:
    with open_features(path) as mapped:
        step = math.ceil((mapped.shape[1] * mapped.shape[2] / MAP_TOKENS) ** 0.5)
        return FeatureFile(
            mapped[:, ::step, ::step], mapped.lr_features, provenance=mapped.provenance, path=mapped.path
        )


def _stored_colours(basis: Path | str, components: Components, files: Sequence[Path]) -> ColourBasis:
    """The colours of a file, once it is known that they were made for all feature files and show these components."""
    stored = load_basis(basis)
    shown = stored.colours.components
    if components not in (DEFAULT_COMPONENTS, shown):
        asked, held = (",".join(map(str, numbers)) for numbers in (components, shown))
        raise UsageError(f"components {asked}: {basis} holds {held}; leave them out, or store a basis of them")
    for path in files:
        header, provenance = described(path)
        parts = stored_parts(path, header.tensors)
        stored.check(parts["features" if "features" in parts else "mean"][1].shape[0], provenance, str(path))
    return stored


def _source_image(file: FeatureFile) -> Path | None:
    """The picture that the features were made of, if it is still where it was."""
    source = file.provenance.get("input")
    path = source.get("path") if isinstance(source, dict) else None
    return Path(path) if isinstance(path, str) and os.path.isfile(path) else None


def _panels(file: FeatureFile, colours: Colours, image: np.ndarray | None, show: Sequence[str] | None) -> list[Panel]:
    """Titled pictures in reading order; `show` None means whatever the file has, short of the downsampler."""
    wanted = ("features", "uncertainty") if show is None else show
    panels = [] if image is None else [Panel("Image", image)]
    if "features" in wanted:
        size = (file.features.shape[1], file.features.shape[2])
        panels += feature_panels(colours, file.lr_features, file.features, size)
    if "uncertainty" in wanted:
        if file.uncertainty is not None:
            panels.append(heat_panel(UNCERTAINTY, file.uncertainty))
        elif show is not None:
            raise InputError(f"{file.path}: holds no uncertainty; only the implicit upsampler predicts it")
    if "downsampler" in wanted:
        if file.saliency is None and file.kernels is None:
            raise InputError(f"{file.path}: holds no downsampler; only the implicit upsampler learns one")
        if file.saliency is not None:
            panels.append(heat_panel(SALIENCY, file.saliency))
        if file.kernels is not None:
            titles = KERNELS[-len(file.kernels) :]
            panels += [heat_panel(title, each, framed=False) for title, each in zip(titles, file.kernels, strict=True)]
    return panels


@dataclass(frozen=True)
class _Look:
    """How files are shown, and what the picture says about their colours."""

    colours: Colours
    about: str
    layout: str
    show: Sequence[str] | None


def _render(file: FeatureFile, look: _Look, image: np.ndarray | None) -> np.ndarray:
    size, layout, show = (file.features.shape[1], file.features.shape[2]), look.layout, look.show
    _tokens(file, file.features, MAP_TOKENS)
    if layout == "side-by-side":
        coloured = show is None or "features" in show
        lines = picture_lines(file.provenance, *((look.colours.components, look.about) if coloured else ()))
        frame = size if image is None else (image.shape[0], image.shape[1])
        return panel_rows(_panels(file, look.colours, image, show), frame, lines)
    show = ("features",) if show is None else show
    if len(show) != 1:
        raise UsageError(f"layout {layout} shows one map; give one of {', '.join(SHOWS)}")
    panels = _panels(file, look.colours, None, show)
    rgb = panels[-1 if show[0] == "features" else 0].rgb  # of features the upsampled ones
    if layout == "plain":
        return resize_rgb(rgb, size)
    if image is None:
        raise InputError(f"{file.path}: its picture is not at hand for an overlay; give it with --image")
    return overlay(rgb, image)


def _suffix(components: Components, layout: str, show: Sequence[str] | None, basis: Path | str) -> str:
    """What a picture's name adds to the stem: pictures of other settings have other names."""
    parts = ["pca"]
    if components != DEFAULT_COMPONENTS:
        parts.append("-".join(map(str, components)))
    if layout != LAYOUTS[0]:
        parts.append(layout)
    if basis != LOW:
        parts.append(Path(basis).stem)
    return ".".join([*parts, *(show or ())]) + ".png"


def png_of_file(file: FeatureFile) -> bytes:
    """The picture of one file as the bytes of a PNG, as `visualize` writes it by default."""
    source = _source_image(file)
    fit = _fit_files(1, [file], DEFAULT_COMPONENTS, LOW)
    look = _Look(fit.colours, fit.about, LAYOUTS[0], None)
    return png_bytes(_render(file, look, None if source is None else load_image(source).pixels))


def _targets(files: Sequence[Path], output: Path | None, suffix: str) -> list[Path]:
    """Where each picture goes: STEM and suffix beside its file or in the folder `output`, or `output` itself."""
    if output is not None and output.suffix.lower() == ".png" and not output.is_dir():
        if len(files) > 1:
            raise UsageError(f"{output}: can't hold pictures of {len(files)} files; give a folder")
        return [output]
    targets = [(file.parent if output is None else output) / f"{file.stem}.{suffix}" for file in files]
    for number, target in enumerate(targets):
        if target in targets[:number]:
            raise UsageError(f"{target}: two files would be written there; give a folder for each of them")
    return targets


@checked
def visualize(  # noqa: PLR0913 (a public call: its keywords mirror the command's options)
    files: Sequence[Path | str] | Path | str,
    *,
    components: Components = DEFAULT_COMPONENTS,
    layout: str = "side-by-side",
    image: Path | str | None = None,
    output: Path | str | None = None,
    show: Sequence[str] | None = None,
    overwrite: bool = False,
    on_written: Callable[[Path], None] | None = None,
    basis: Path | str = LOW,
    save_basis: Path | str | None = None,
) -> list[Path]:
    """Write a picture of each feature file, all on one basis and one scale.

    These fit the files, so colours of separate calls can't be compared, unless the first stores them (`save_basis`)
    and the others take them (`basis`). Files are read one at a time, twice if there are several, so memory does not
    grow with their number.

    Args:
        files: one feature file or several, or other safetensors files with one feature map.
        components: which principal components are red, green and blue, counted from 1.
        layout: "side-by-side" panels, "overlay" of one map on the image, or "plain": one map, one pixel per feature.
        image: picture to show; by default the one that each file says it was made of, if it is still there.
        output: a folder, or a .png for a single file; by default the folder of each file. Names are STEM.pca.png, and
            of other settings `STEM.pca.4-5-6.overlay.png` and so on.
        show: of "features", "uncertainty", "downsampler"; by default features, and uncertainty where there is one.
        overwrite: replace pictures that exist, if featup made them.
        on_written: called with each path once it is written.
        basis: what colours are fitted to: "low", the low-resolution features (FeatUp, section 4.1), or "both", also the
            upsampled ones. Of a file without low resolution it is the features. Or a file with stored colours, which
            are taken as they are; its components need not be given again.
        save_basis: a file to store the colours in, that ends in .safetensors.
    Returns:
        The paths of the pictures.
    Raises:
        InputError: an unreadable file or picture, files with different channel counts, one without what `show` asks, or
            a basis that was made for another backbone.
        UsageError: a layout, map or component that does not exist, an output that exists, or both bases.
        OutputError: a picture can't be written.

    Example:
        >>> import featup_cli as featup, tempfile, torch
        >>> result = featup.upsample(torch.rand(3, 48, 64), method="bilinear", resize=48, output_size="image")
        >>> (path,) = featup.visualize([result.save(f"{tempfile.mkdtemp()}/photo.safetensors")], layout="plain")
        >>> path.name
        'photo.pca.plain.png'
    """
    _checked_choice("layout", (layout,), LAYOUTS)
    _checked_choice("show", tuple(show or ()), SHOWS)
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    if not paths:
        raise UsageError("no feature files given")
    place = stored_file(basis)
    if place is not None and save_basis is not None:
        raise UsageError("basis and save_basis: give one of them; stored colours are taken as they are")
    if save_basis is not None:
        check_basis_name(save_basis)
    targets = _targets(paths, None if output is None else Path(output), _suffix(components, layout, show, basis))
    for target in (*targets, *(() if save_basis is None else (save_basis,))):
        refuse_replacing(target, overwrite, inputs=(image, place, *paths))
    shared = None if image is None else load_image(image).pixels
    load = lru_cache(maxsize=1)(load_features)
    if place is not None:
        stored = _stored_colours(place, components, paths)
        look = _Look(stored.colours, of_basis(stored.path.name), layout, show)
    else:
        fit = _fit_files(len(paths), map(load, paths), components, str(basis))
        look = _Look(fit.colours, fit.about, layout, show)
        if save_basis is not None:
            write_basis(save_basis, fit.colours, fit.sources)
    for path, target in zip(paths, targets, strict=True):
        file = load(path)
        source = _source_image(file) if image is None else Path(image)
        refuse_replacing(target, overwrite, inputs=[source])
        pixels = load_image(source).pixels if shared is None and source is not None else shared
        save_png(target, _render(file, look, pixels))
        if on_written is not None:
            on_written(target)
    return targets
