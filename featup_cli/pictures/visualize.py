"""Pictures of feature files, comparable with each other: one basis and one colour scale for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from featup_cli.core.errors import InputError, UsageError
from featup_cli.io.tensors import FeatureFile, load_features
from featup_cli.pictures.panels import (
    Colours,
    Components,
    fit_colours,
    heatmap,
    overlay,
    panel_size,
    resize_rgb,
    sample_tokens,
    save_png,
    side_by_side,
)
from featup_cli.pictures.read import load_image

LAYOUTS = ("side-by-side", "overlay", "plain")
SHOWS = ("features", "uncertainty", "downsampler")
DEFAULT_COMPONENTS = (1, 2, 3)
MAP_TOKENS = 20_000  # of one map, for the fit
ALL_TOKENS = 60_000  # of all maps together: bounds the memory of a fit over a folder


def parse_components(text: str, channels: int | None = None) -> Components:
    """`4-6` or `1,3,5` as three component numbers, counted from 1.

    Raises:
        UsageError: not three whole numbers, one below 1, or one above `channels` where that is known.
    """
    try:
        if "-" in text.strip():
            first, last = (int(part) for part in text.split("-"))
            numbers = tuple(range(first, min(last, first + 3) + 1))
        else:
            numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"components {text!r}: give three numbers, such as 1-3 or 1,3,5") from None
    return _checked_components(numbers, channels)


def _checked_components(numbers: Sequence[int], channels: int | None) -> Components:
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


def _maps(file: FeatureFile) -> list[Tensor]:
    return [file.features] if file.lr_features is None else [file.lr_features, file.features]


def _fit_files(count: int, files: Iterable[tuple[str, FeatureFile]], components: Components) -> Colours:
    """`fit_colours` on low and high resolution of all files, which are gone through once."""
    limit = min(max(ALL_TOKENS // (2 * count), 16), MAP_TOKENS)
    samples: list[Tensor] = []
    first = ""
    for name, file in files:
        first = first or name
        channels = len(file.features)
        if samples and channels != samples[0].shape[1]:
            raise InputError(
                f"{name}: has {channels} channels but {first} has {samples[0].shape[1]}; "
                "files shown together must come from the same backbone"
            )
        drawn = [sample_tokens(features, limit) for features in _maps(file)]
        if not all(bool(tokens.square().sum().isfinite()) for tokens in drawn):
            raise InputError(f"{name}: holds values too large to be shown; make the file again")
        samples += drawn
    _checked_components(components, samples[0].shape[1])
    return fit_colours(samples, components)


def _source_image(file: FeatureFile) -> Path | None:
    """The picture that the features were made of, if it is still where it was."""
    source = file.provenance.get("input")
    path = source.get("path") if isinstance(source, dict) else None
    return Path(path) if isinstance(path, str) and os.path.isfile(path) else None


def feature_panels(
    colours: Colours, lr_features: Tensor | None, features: Tensor, size: tuple[int, int]
) -> list[tuple[str, np.ndarray]]:
    """Titled pictures of low-resolution features, if there are any, and of upsampled ones of `size`.

    `features` may be a reduced copy.
    """
    panels = []
    if lr_features is not None:
        h, w = lr_features.shape[1:]
        panels.append((f"Low-resolution features, {h} x {w}", colours.picture(lr_features)))
    return [*panels, (f"Upsampled features, {size[0]} x {size[1]}", colours.picture(features))]


def _panels(
    file: FeatureFile, name: str, colours: Colours, image: np.ndarray | None, show: Sequence[str] | None
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
            raise InputError(f"{name}: holds no uncertainty; only the implicit upsampler predicts it")
    if "downsampler" in wanted:
        if file.saliency is None and file.kernels is None:
            raise InputError(f"{name}: holds no downsampler; only the implicit upsampler learns one")
        if file.saliency is not None:
            panels.append(("Saliency", heatmap(file.saliency)))
        if file.kernels is not None:
            titles = ("Weight kernel", "Bias kernel")[-len(file.kernels) :]
            panels += [(title, heatmap(kernel)) for title, kernel in zip(titles, file.kernels, strict=True)]
    return panels


def panel_row(panels: list[tuple[str, np.ndarray]], frame: tuple[int, int]) -> np.ndarray:
    """Panels side by side, all maps of the picture at exactly the same size so that they can be compared by eye."""
    height, width = panel_size(frame)
    fitted = [(title, rgb if title.endswith("kernel") else resize_rgb(rgb, (height, width))) for title, rgb in panels]
    return side_by_side(fitted, height)


def _render(
    file: FeatureFile, name: str, colours: Colours, image: np.ndarray | None, layout: str, show: Sequence[str] | None
) -> np.ndarray:
    size = (file.features.shape[1], file.features.shape[2])
    if layout == "side-by-side":
        return panel_row(_panels(file, name, colours, image, show), size if image is None else image.shape[:2])
    # One map alone: the upsampled features, or what was asked for instead.
    show = ("features",) if show is None else show
    if len(show) != 1:
        raise UsageError(f"layout {layout} shows one map; give one of {', '.join(SHOWS)}")
    panels = _panels(file, name, colours, None, show)
    rgb = panels[-1 if show[0] == "features" else 0][1]
    if layout == "plain":
        return resize_rgb(rgb, size)
    if image is None:
        raise InputError(f"{name}: its picture is not at hand for an overlay; give it with --image")
    return overlay(rgb, image)


def render_pictures(
    feature_files: Sequence[FeatureFile],
    *,
    components: Components = DEFAULT_COMPONENTS,
    layout: str = "side-by-side",
    images: Sequence[np.ndarray | None] | None = None,
    show: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Pictures of features that are in memory, all on one basis and one scale.

    Args:
        components: which principal components are red, green and blue, counted from 1.
        layout: "side-by-side" panels, "overlay" of one map on the image, or "plain": one map, one pixel per feature.
        images: uint8 [H, W, 3] of each, or None.
        show: of "features", "uncertainty", "downsampler"; by default features, and uncertainty where there is one.
    Returns:
        uint8 [H', W', 3] for each file.
    Raises:
        InputError: files of different channel counts, or a file lacks what is to be shown.
        UsageError: a layout, map or component that does not exist.
    """
    _checked_choice("layout", (layout,), LAYOUTS)
    _checked_choice("show", tuple(show or ()), SHOWS)
    images = [None] * len(feature_files) if images is None else images
    names = [str(file.path or f"features {number}") for number, file in enumerate(feature_files, 1)]
    if not names:
        return []
    colours = _fit_files(len(names), zip(names, feature_files, strict=True), components)
    return [
        _render(file, name, colours, image, layout, show)
        for name, file, image in zip(names, feature_files, images, strict=True)
    ]


def feature_picture(
    image: np.ndarray | None,
    lr_features: Tensor | None,
    hr_features: Tensor,
    uncertainty: Tensor | None = None,
    layout: str = "side-by-side",
) -> np.ndarray:
    """The picture of one result: image, low-resolution features [C, h, w], upsampled features [C, H, W].

    Panels are left out for what is None.

    Returns:
        uint8 [H', W', 3]
    """
    file = FeatureFile(hr_features, lr_features, uncertainty)
    return render_pictures([file], layout=layout, images=[image])[0]


def _targets(files: Sequence[Path], output: Path | None) -> list[Path]:
    """Where each picture goes: STEM.png beside its file, in the folder `output`, or `output` itself."""
    if output is not None and output.suffix.lower() == ".png" and not output.is_dir():
        if len(files) > 1:
            raise UsageError(f"{output}: can't hold pictures of {len(files)} files; give a folder")
        return [output]
    targets = [(file.parent if output is None else output) / f"{file.stem}.png" for file in files]
    for number, target in enumerate(targets):
        if target in targets[:number]:
            raise UsageError(f"{target}: two files would be written there; give a folder for each of them")
    return targets


def _refuse_overwriting(target: Path, sources: Iterable[Path | None]) -> None:
    if any(source is not None and target.exists() and target.samefile(source) for source in sources):
        raise UsageError(f"{target}: would be overwritten, but it is an input; choose another place with --output")


def visualize(
    files: Sequence[Path | str],
    *,
    components: Components = DEFAULT_COMPONENTS,
    layout: str = "side-by-side",
    image: Path | str | None = None,
    output: Path | str | None = None,
    show: Sequence[str] | None = None,
    on_written: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write a picture of each feature file, all on one basis and one scale.

    Files are read one at a time, twice if there are several, so memory does not grow with their number.

    Args:
        files: written by `save_features`, or others with one feature map.
        image: picture to show; by default the one that each file says it was made of, if it is still there.
        output: a folder, or a .png for a single file; by default STEM.png beside each file.
        on_written: called with each path once it is written.
        components, layout, show: as `render_pictures`.
    Returns:
        The paths written.
    Raises:
        InputError, UsageError: as `load_features`, `load_image` and `render_pictures`.
        OutputError: a picture can't be written.
    """
    _checked_choice("layout", (layout,), LAYOUTS)
    _checked_choice("show", tuple(show or ()), SHOWS)
    paths = [Path(file) for file in files]
    if not paths:
        raise UsageError("no feature files given")
    targets = _targets(paths, None if output is None else Path(output))
    shared = None if image is None else load_image(image).pixels
    load = lru_cache(maxsize=1)(load_features)
    colours = _fit_files(len(paths), ((str(path), load(path)) for path in paths), components)
    for path, target in zip(paths, targets, strict=True):
        file = load(path)
        source = _source_image(file) if image is None else Path(image)
        _refuse_overwriting(target, (source, *paths))
        pixels = load_image(source).pixels if shared is None and source is not None else shared
        save_png(target, _render(file, str(path), colours, pixels, layout, show))
        if on_written is not None:
            on_written(target)
    return targets
