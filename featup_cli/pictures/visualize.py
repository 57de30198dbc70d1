"""Pictures of feature files, comparable with each other: one basis and one colour scale for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from featup_cli.core.checks import checked
from featup_cli.core.errors import InputError, UsageError
from featup_cli.io.features import FeatureFile, load_features
from featup_cli.io.replace import refuse_replacing
from featup_cli.pictures.panels import (
    DEFAULT_COMPONENTS,
    MAP_TOKENS,
    Colours,
    Components,
    feature_panels,
    fit_colours,
    heatmap,
    overlay,
    panel_row,
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
        raise UsageError(f"components {shown!r}: the features have {channels} channels")
    return numbers[0], numbers[1], numbers[2]


def parse_show(text: str) -> tuple[str, ...]:
    """`uncertainty,downsampler` as a tuple of panel names.

    Raises:
        UsageError: a name that is not among `SHOWS`.
    """
    return _checked_choice("show", tuple(part.strip() for part in text.split(",")), SHOWS)


def _checked_choice(option: str, values: tuple[str, ...], choices: Sequence[str]) -> tuple[str, ...]:
    for value in values:
        if value not in choices:
            raise UsageError(f"{option} {value!r}: choose from {', '.join(choices)}")
    return values


def _fit_files(count: int, files: Iterable[FeatureFile], components: Components) -> Colours:
    """`fit_colours` on low and high resolution of all files, which are gone through once."""
    limit = min(max(ALL_TOKENS // (2 * count), 16), MAP_TOKENS)
    samples: list[Tensor] = []
    first: Path | None = None
    for file in files:
        first = first or file.path
        channels = len(file.features)
        if samples and channels != samples[0].shape[1]:
            raise InputError(
                f"{file.path}: has {channels} channels but {first} has {samples[0].shape[1]}; "
                "files shown together must come from the same backbone"
            )
        drawn = [sample_tokens(maps, limit) for maps in (file.lr_features, file.features) if maps is not None]
        if not all(bool(tokens.square().sum().isfinite()) for tokens in drawn):
            raise InputError(f"{file.path}: holds values too large to be shown; make the file again")
        samples += drawn
    _checked_components(components, samples[0].shape[1])
    return fit_colours(samples, components)


def _source_image(file: FeatureFile) -> Path | None:
    """The picture that the features were made of, if it is still where it was."""
    source = file.provenance.get("input")
    path = source.get("path") if isinstance(source, dict) else None
    return Path(path) if isinstance(path, str) and os.path.isfile(path) else None


def _panels(
    file: FeatureFile, colours: Colours, image: np.ndarray | None, show: Sequence[str] | None
) -> list[tuple[str, np.ndarray]]:
    """Titled pictures in reading order; `show` None means whatever the file has, short of the downsampler."""
    wanted = ("features", "uncertainty") if show is None else show
    panels = [] if image is None else [("Image", image)]
    if "features" in wanted:
        size = (file.features.shape[1], file.features.shape[2])
        panels += feature_panels(colours, file.lr_features, file.features, size)
    if "uncertainty" in wanted:
        if file.uncertainty is not None:
            panels.append(("Uncertainty", heatmap(file.uncertainty)))
        elif show is not None:
            raise InputError(f"{file.path}: holds no uncertainty; only the implicit upsampler predicts it")
    if "downsampler" in wanted:
        if file.saliency is None and file.kernels is None:
            raise InputError(f"{file.path}: holds no downsampler; only the implicit upsampler learns one")
        if file.saliency is not None:
            panels.append(("Saliency", heatmap(file.saliency)))
        if file.kernels is not None:
            titles = ("Weight kernel", "Bias kernel")[-len(file.kernels) :]
            panels += [(title, heatmap(kernel)) for title, kernel in zip(titles, file.kernels, strict=True)]
    return panels


def _render(
    file: FeatureFile, colours: Colours, image: np.ndarray | None, layout: str, show: Sequence[str] | None
) -> np.ndarray:
    size = (file.features.shape[1], file.features.shape[2])
    if layout == "side-by-side":
        return panel_row(_panels(file, colours, image, show), size if image is None else image.shape[:2])
    show = ("features",) if show is None else show
    if len(show) != 1:
        raise UsageError(f"layout {layout} shows one map; give one of {', '.join(SHOWS)}")
    panels = _panels(file, colours, None, show)
    rgb = panels[-1 if show[0] == "features" else 0][1]  # of features the upsampled ones
    if layout == "plain":
        return resize_rgb(rgb, size)
    if image is None:
        raise InputError(f"{file.path}: its picture is not at hand for an overlay; give it with --image")
    return overlay(rgb, image)


def _suffix(components: Components, layout: str, show: Sequence[str] | None) -> str:
    """What a picture's name adds to the stem: pictures of other settings have other names."""
    parts = ["pca"]
    if components != DEFAULT_COMPONENTS:
        parts.append("-".join(map(str, components)))
    if layout != LAYOUTS[0]:
        parts.append(layout)
    return ".".join([*parts, *(show or ())]) + ".png"


def png_of_file(file: FeatureFile) -> bytes:
    """The picture of one file as the bytes of a PNG, as `visualize` writes it by default."""
    source = _source_image(file)
    colours = _fit_files(1, [file], DEFAULT_COMPONENTS)
    return png_bytes(_render(file, colours, None if source is None else load_image(source).pixels, LAYOUTS[0], None))


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
def visualize(
    files: Sequence[Path | str] | Path | str,
    *,
    components: Components = DEFAULT_COMPONENTS,
    layout: str = "side-by-side",
    image: Path | str | None = None,
    output: Path | str | None = None,
    show: Sequence[str] | None = None,
    overwrite: bool = False,
    on_written: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write a picture of each feature file, all on one basis and one scale.

    Files are read one at a time, twice if there are several, so memory does not grow with their number.

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
    Returns:
        The paths written.
    Raises:
        InputError: an unreadable file or picture, files with different channel counts, or one without what `show` asks.
        UsageError: a layout, map or component that does not exist, or an output that does.
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
    targets = _targets(paths, None if output is None else Path(output), _suffix(components, layout, show))
    for target in targets:
        refuse_replacing(target, overwrite, inputs=(image, *paths))
    shared = None if image is None else load_image(image).pixels
    load = lru_cache(maxsize=1)(load_features)
    colours = _fit_files(len(paths), map(load, paths), components)
    for path, target in zip(paths, targets, strict=True):
        file = load(path)
        source = _source_image(file) if image is None else Path(image)
        refuse_replacing(target, overwrite, inputs=[source])
        pixels = load_image(source).pixels if shared is None and source is not None else shared
        save_png(target, _render(file, colours, pixels, layout, show))
        if on_written is not None:
            on_written(target)
    return targets
