"""Cache of the backbone's features of every crop and its views: computed once, stored in files, used by every run.

A file belongs to one crop of one picture. Its name is a hash of the picture's bytes, the backbone and the settings of
crop and views. So files are never out of date, and runs can share a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.precision import naming
from featup_cli.core.distributed import Workers
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.progress import Progress
from featup_cli.core.shapes import describe_size
from featup_cli.io.atomic import atomic_path
from featup_cli.io.digest import file_sha256
from featup_cli.multiview.views import Views, draw_views, view_source
from featup_cli.pictures.read import Picture, load_image
from featup_cli.training.config import TrainConfig
from featup_cli.training.pictures import PictureFile

FORMAT = "featup-views-1"
HALF_LIMIT = 65504.0  # largest float16
FACTS = ("resolved", "layer", "norm_applied", "mean", "std", "weights_sha256", "precision")  # of the backbone
BATCH_PIXELS = 500_000  # views are extracted in batches of about this many pixels


@dataclass(frozen=True)
class Sample:
    """A crop and its features.

    Attributes:
        image: uint8 [3, S, S], the crop at the network's input size.
        features: float16 [1 + V, C, h, w] of the crop and of its V views.
        views: parameters of all 1 + V.
    """

    image: Tensor
    features: Tensor
    views: Views


class FeatureCache:
    """Samples in a folder.

    Args:
        folder: created if missing.
        backbone: computes the features.
        config: settings of crops and views.
    Raises:
        UsageError: the backbone does not take square pictures.
    """

    def __init__(self, folder: Path, backbone: Backbone, config: TrainConfig) -> None:
        self.folder = folder
        self.backbone = backbone
        self.config = config
        self.size = crop_size(config, backbone)
        facts = backbone.identity()
        views = ("min_scale", "views", "max_pad", "max_zoom", "zoom_share", "flips")
        self.identity = {
            "format": FORMAT,
            "size": self.size,
            **{name: getattr(config, name) for name in views},
            **{name: facts[name] for name in FACTS},
            "model_args": facts.get("model_args", {}),
        }

    def path(self, key: str) -> Path:
        """File of a sample."""
        return self.folder / f"{key}.safetensors"

    def add(self, file: Path) -> list[str]:
        """Make sure that the samples of a picture exist, and return their keys.

        Raises:
            InputError: the file can't be read as a picture; OutputError: the folder can't be written.
        """
        try:
            digest = file_sha256(file)
        except OSError as error:
            raise InputError(f"{file}: can't be read ({error.strerror or error})") from None
        keys = [self._key(digest, crop) for crop in range(self.config.crops)]
        missing = [key for key in keys if not self.path(key).exists()]
        if missing:
            picture = load_image(file)
            for key in missing:
                self._make(picture, key)
        return keys

    def load(self, key: str) -> Sample:
        """Read a sample.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            tensors = load_file(self.path(key))
            height, width = tensors["source_size"].tolist()
            views = Views((height, width), (self.size, self.size), tensors["boxes"], tensors["flips"])
            return Sample(tensors["image"], tensors["features"], views)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{self.path(key)}: is missing or damaged ({error}); delete it and run again") from None

    def _key(self, digest: str, crop: int) -> str:
        text = json.dumps({**self.identity, "picture": digest, "crop": crop}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _make(self, picture: Picture, key: str) -> None:
        # Drawn from the key, so the same crop and views come out in every process and run.
        generator = torch.Generator().manual_seed(int(key[:15], 16))
        config, size = self.config, (self.size, self.size)
        crop = random_crop(picture.tensor(), config.min_scale, generator)
        source = view_source(crop, size, config.max_zoom)
        views = draw_views(
            1 + config.views, (source.shape[1], source.shape[2]), size,
            max_pad=config.max_pad * self.size / 224, max_zoom=config.max_zoom, zoom_share=config.zoom_share,
            flips=config.flips, generator=generator,
        )  # fmt: skip
        rendered = torch.stack([views.render(source, i) for i in range(len(views))])
        batch = max(1, BATCH_PIXELS // self.size**2)
        with naming([picture.source or "image"]):
            features = torch.cat([self.backbone(part).cpu() for part in rendered.split(batch)])
        tensors = {
            "image": (rendered[0] * 255).round().byte(),
            "features": features.clamp(-HALF_LIMIT, HALF_LIMIT).half(),
            "boxes": views.boxes,
            "flips": views.flips,
            "source_size": torch.tensor(source.shape[1:]),
        }
        with atomic_path(self.path(key)) as temporary:
            save_file(tensors, temporary)


def crop_size(config: TrainConfig, backbone: Backbone) -> int:
    """Side of the square crops in pixels.

    Raises:
        UsageError: the backbone takes one size only, and it is not square.
    """
    if backbone.fixed_size is not None:
        height, width = backbone.fixed_size
        if height != width:
            raise UsageError(
                f"{backbone.name} takes {describe_size((height, width), 'pixels')} only, but crops are square"
            )
        return height
    multiple = backbone.patch_multiple
    return max(1, round(config.crop_size / multiple)) * multiple


def random_crop(picture: Tensor, min_scale: float, generator: torch.Generator) -> Tensor:
    """A square of [3, H, W], its side between `min_scale` and 1 of the short side (log-uniform): [3, S, S]."""
    height, width = picture.shape[1:]
    scale = min_scale ** float(torch.rand((), generator=generator))
    side = max(1, round(min(height, width) * scale))
    top = int(torch.randint(height - side + 1, (), generator=generator))
    left = int(torch.randint(width - side + 1, (), generator=generator))
    return picture[:, top : top + side, left : left + side]


def fill_cache(
    cache: FeatureCache, files: Sequence[PictureFile], workers: Workers, progress: Progress
) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Create the samples of all pictures; each process handles its share.

    Returns:
        the name and the keys of each readable picture, and an error message for each of the others.
    Raises:
        OutputError: the cache can't be written.
    """
    own: list[tuple[int, list[str], str]] = []
    numbers = workers.share(range(len(files)))
    for done, number in enumerate(numbers, 1):
        try:
            own.append((number, cache.add(files[number].path), ""))
        except InputError as error:
            own.append((number, [], str(error)))
        progress("pictures", done, len(numbers), "")
    results = sorted(result for part in workers.gather(own) for result in part)
    for number, keys, _ in results:
        if not all(cache.path(key).exists() for key in keys):  # made by a process that writes to another disk
            cache.add(files[number].path)
    readable = [(files[number].name, keys) for number, keys, broken in results if not broken]
    return readable, [broken for _, _, broken in results if broken]
