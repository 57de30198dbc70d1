"""Feature fields and splats: the feature files that feature-3dgs, LERF and F3RM read.

Layouts and names follow the code of these programs; each function gives its source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from featup_cli.core.errors import InputError
from featup_cli.core.shapes import describe_size
from featup_cli.exporting.arrays import write_array
from featup_cli.exporting.source import Source
from featup_cli.exporting.torch_file import PiecewiseTensor, save_piecewise
from featup_cli.io.atomic import atomic_path
from featup_cli.ops.pca import PCA

F3RM_NAME = "f3rm_{}_features.pt"
F3RM_SCALES = 1.5e-3  # F3RM stops if the scales of height and width differ by more
# What F3RM would extract with. It takes a cache for its own only if these are equal.
F3RM_ARGS: dict[str, dict[str, Any]] = {
    "dino": {"model_type": "dino_vits8", "load_size": 224, "stride": 4, "facet": "key", "layer": 11, "bin": False},
    "clip": {"model_name": "ViT-L/14@336px", "skip_center_crop": True},
}


def feature_3dgs_name(sources: Sequence[Source]) -> str:
    """`<image name>_fmap_CxHxW.pt`; the image name ends at its first dot, as in feature-3dgs' `readColmapCameras`."""
    picture = PurePath(sources[0].picture_path or sources[0].path).name
    return f"{picture.split('.')[0]}_fmap_CxHxW.pt"


def write_feature_3dgs(target: Path, source: Source) -> None:
    """One tensor [C, H, W] of one view, as feature-3dgs' `encoders` save it and `scene/dataset_readers.py` loads it."""
    save_piecewise(target, PiecewiseTensor(source.shape, source.dtype, source.planes(target.parent)))


def write_pca_dict(target: Path, pca: PCA) -> None:
    """The basis under the names of feature-3dgs' `pca_dict.pt`: `feature_pca_mean` [C], `feature_pca_components`."""
    parts = {"feature_pca_mean": pca.mean, "feature_pca_components": pca.basis}
    save_piecewise(target, {name: PiecewiseTensor.of(tensor) for name, tensor in parts.items()})


def write_lerf(target: Path, sources: Sequence[Source]) -> None:
    """One array [N, H, W, C] of all views, and beside it `.info`, the config that LERF compares (`FeatureDataloader`).

    LERF's DINO loader expects `{"image_shape": [H, W]}` of the pictures; otherwise it computes the features itself.
    Views are in the order given, which must be the order of LERF's training pictures.
    """
    height, width = _common(sources, "pictures", [source.picture_size() for source in sources])
    with atomic_path(target.with_suffix(".info")) as info, atomic_path(target) as temporary:
        info.write_text(json.dumps({"image_shape": [height, width]}), encoding="utf-8")
        with temporary.open("wb") as stream:
            write_array(stream, _joined_shape(sources), sources[0].dtype_name, _pixels(sources))


def f3rm_name(sources: Sequence[Source]) -> str:
    """`f3rm_<type>_features.pt`: type `clip` for features of CLIP, else `dino`."""
    backbone = json.dumps(sources[0].provenance.get("backbone", ""), default=str).lower()
    return F3RM_NAME.format("clip" if "clip" in backbone else "dino")


def write_f3rm(target: Path, sources: Sequence[Source]) -> None:
    """The cache of F3RM's `f3rm/feature_datamanager.py`: a dict with `args`, `image_fnames` and `features`.

    `features` is [N, H, W, C]. `args` are F3RM's own for the type in the file's name, and `image_fnames` the pictures'
    paths as they were given to `featup upsample`: if they differ, F3RM computes the features itself. Order: training
    pictures, then those for evaluation. The true origin of the features is under `provenance`, one for each view; the
    basis is under `pca_basis` and `pca_mean`.

    Raises:
        InputError: sizes differ, or the features' aspect ratio is not that of the pictures.
    """
    height, width = _common(sources, "pictures", [source.picture_size() for source in sources])
    rows, columns = sources[0].size
    if abs(rows / height - columns / width) > F3RM_SCALES:
        raise InputError(
            f"{sources[0].path}: {rows}x{columns} features don't have the aspect ratio of a picture of "
            f"{describe_size((height, width))}, "
            "which F3RM needs; create them with --output-size image, or with a smaller size of that aspect ratio"
        )
    kind = re.fullmatch(F3RM_NAME.format("(.+)"), target.name)
    pca = sources[0].pca
    cache = {
        "args": F3RM_ARGS["clip" if kind and kind[1] == "clip" else "dino"],
        "image_fnames": [Path(source.picture()) for source in sources],
        "features": PiecewiseTensor(_joined_shape(sources), sources[0].dtype, _pixels(sources)),
        "provenance": [source.provenance for source in sources],
    }
    if pca is not None:
        cache |= {"pca_basis": PiecewiseTensor.of(pca.basis), "pca_mean": PiecewiseTensor.of(pca.mean)}
    save_piecewise(target, cache)


def _joined_shape(sources: Sequence[Source]) -> tuple[int, int, int, int]:
    """(N, H, W, C).

    Raises:
        InputError: the maps differ in size or channels.
    """
    channels, height, width = _common(sources, "features", [source.shape for source in sources])
    return len(sources), height, width, channels


def _common(sources: Sequence[Source], what: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that all share."""
    for source, shape in zip(sources, shapes, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"{source.path}: its {what} are {'x'.join(map(str, shape))} but those of {sources[0].path} are "
                f"{'x'.join(map(str, shapes[0]))}; files of one cache must agree"
            )
    return shapes[0]


def _pixels(sources: Sequence[Source]) -> Iterator[memoryview]:
    for source in sources:
        yield from source.pixels()
