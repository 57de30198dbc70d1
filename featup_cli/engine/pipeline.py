"""The main job: picture, backbone, upsampler, result. The one place that joins the parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from featup_cli.backbones.api import Backbone, Extracted
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.footprint import estimate_bytes
from featup_cli.backbones.precision import naming
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.checks import checked
from featup_cli.core.describe import choose_device, describe_device
from featup_cli.core.errors import InputError
from featup_cli.core.memory import default_memory, held_bytes, over_budget, trim_heap
from featup_cli.core.progress import Announce, Progress, no_progress
from featup_cli.core.shapes import Size, describe_size
from featup_cli.core.versions import versions
from featup_cli.engine.bands import Task, unloaded_bytes
from featup_cli.engine.plan import Plan, plan_sizes
from featup_cli.engine.request import Loaded, make_request
from featup_cli.engine.result import Result
from featup_cli.engine.settings import Output, Upsampling
from featup_cli.engine.write import Written, make_features, write_files
from featup_cli.pictures.masks import Mask, load_mask
from featup_cli.pictures.read import Picture, as_picture, load_image
from featup_cli.upsamplers.api import Upsampler
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.registry import DEFAULT_METHOD, check_method, make_upsampler

PIXEL_CONVENTION = "cell centres at half units (align_corners=False); [C, H, W]; first row is the top"


@dataclass(frozen=True)
class Look:
    """What the backbone sees in a picture.

    Attributes:
        picture: as read.
        plan: its sizes.
        lr_feats: [1, C, h, w], the backbone's features, on its device.
        seconds: wall time of the backbone.
        class_token: [1, C], its token for the whole picture; None if it has none.
        mask: regions of the picture, at the size of the result; None for none.
    """

    picture: Picture
    plan: Plan
    lr_feats: Tensor
    seconds: float = 0.0
    class_token: Tensor | None = None
    mask: Mask | None = None


class Pipeline:
    """A backbone and an upsampler, loaded once, and what to do with each picture.

    Args:
        settings: what to do.
        backbone: one that is loaded already.
        announce: told of downloads; None for silence.
    Raises:
        UsageError, WeightsError: the settings are invalid, or weights are unavailable.
    """

    def __init__(
        self, settings: Upsampling, backbone: Backbone | None = None, announce: Announce | None = None
    ) -> None:
        method = check_method(settings.method, settings.upsampler)
        self.settings = settings
        self.device = backbone.device if backbone is not None else choose_device(settings.device)
        self.device_name = describe_device(self.device)
        self.backbone = backbone or load_backbone(settings.backbone, self.device)
        self._identity = self.backbone.identity()
        # Made here in any case, so that missing weights are an error before the first picture.
        made = make_upsampler(
            settings.method, backbone=self.backbone, network_size=self.backbone.native_size,
            upsampler=settings.upsampler, allow_other_backbone=settings.allow_other_backbone,
            offline=settings.backbone.offline, announce=announce,
        )  # fmt: skip
        self._upsampler: Upsampler | None = None if method.per_picture else made

    def run(self, image: Any, progress: Progress = no_progress) -> Result:
        """Upsample the features of one picture.

        Args:
            image: path, Pillow image, array or tensor (see `as_picture`).
            progress: called as the work goes on.
        Raises:
            InputError: the picture can't be read; UsageError: a size is invalid.
            MemoryBudgetError: the backbone's pass would not fit the memory that may be used.
        """
        look = self.look(image)
        start = time.perf_counter()
        task = self._task(look, progress)
        with naming([look.picture.source or "image"]):
            features = make_features(task, progress)
        provenance = self._provenance(look, task, look.seconds + time.perf_counter() - start)
        return Result(
            features, look.lr_feats[0].cpu(), look.picture, task.upsampler.details, provenance, task.model,
            self.request(Output()), None if task.class_token is None else task.class_token.cpu(),
        )  # fmt: skip

    def look(self, image: Any) -> Look:
        """The backbone's features of one picture; arguments and errors as `run`."""
        picture = self.read(image) if isinstance(image, (str, Path)) else as_picture(image)
        plan = self.plan(picture)
        start = time.perf_counter()
        self.check_extraction(self.extraction_bytes(1, plan), plan)
        extracted = self.extract([picture], plan)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return Look(picture, plan, extracted.lr_feats, time.perf_counter() - start, extracted.class_token)

    def read(self, path: Path | str) -> Picture:
        """Read a picture; safe in another thread.

        Raises:
            InputError: the picture can't be read.
        """
        return load_image(path, self.settings.max_pixels)

    def read_mask(self, path: Path | str, picture: Picture, plan: Plan) -> Mask:
        """Read the mask of a picture, at the size of the result; safe in another thread.

        Raises:
            InputError: it can't be read, or is not of this picture.
        """
        return load_mask(path, self.settings.max_pixels).fitted(plan.output, picture.size)

    def plan(self, picture: Picture) -> Plan:
        """Sizes for a picture.

        Raises:
            UsageError: a size is invalid.
        """
        return plan_sizes(self.settings, self._identity, picture.size, picture.source or "image")

    def extraction_bytes(self, count: int, plan: Plan) -> int:
        """Estimated peak of the memory that `extract` takes for `count` pictures."""
        room = self._memory() - held_bytes(self.device)
        return estimate_bytes(self.backbone.network, (count, 3, *plan.network), room)

    def check_extraction(self, needed: int, plan: Plan) -> None:
        """Raise MemoryBudgetError unless there are `needed` bytes for `extract`, with an estimate for the message."""
        trim_heap()
        total = held_bytes(self.device) + unloaded_bytes(self.settings.method, self.device) + needed
        if total > self._memory():
            what = f"{self.backbone.name} at {describe_size(plan.network, 'pixels')} needs"
            raise over_budget(what, total, self._memory(), "or a smaller --resize")

    def _memory(self) -> int:
        return self.settings.memory or default_memory(self.device)

    def extract(self, pictures: Sequence[Picture], plan: Plan) -> Extracted:
        """What the backbone gives for pictures whose plans have the same network size.

        Raises:
            PrecisionError: the asked precision can't hold those of a picture, which the message names.
        """
        with naming([picture.source or "image" for picture in pictures]):
            return self.backbone.extract(torch.stack([picture.resized(plan.network) for picture in pictures]))

    def request(self, output: Output) -> dict[str, Any]:
        """All that was asked for and fixes what the files hold, as JSON values; of the picture nothing."""
        return make_request(self.settings, output, self.loaded)

    @property
    def loaded(self) -> Loaded:
        """What requests say of the backbone and the upsampler."""
        provenance = getattr(self._upsampler, "provenance", None) or {}
        return Loaded(self._identity, provenance.get("sha256"))

    def write(self, look: Look, target: Path, output: Output, progress: Progress = no_progress) -> Written:
        """As `run`, streamed to files; arguments and errors as `write_files`."""
        task = self._task(look, progress)
        request = self.request(output)
        if look.mask is not None:
            request["mask"] = look.mask.sha256

        def describe(seconds: float) -> dict[str, Any]:
            return self._provenance(look, task, seconds) | {"request": request}

        return write_files(task, target, output, describe, progress)

    def _task(self, look: Look, progress: Progress) -> Task:
        """What is to be done with a picture, by the one upsampler, or a new one for methods that fit each picture."""
        settings = self.settings
        upsampler = self._upsampler or make_upsampler(
            settings.method, backbone=self.backbone, network_size=look.plan.network, config=settings.method_config,
            seed=settings.seed, progress=progress,
        )  # fmt: skip
        task = Task(upsampler, settings.method, look.picture, look.lr_feats, look.plan.output, settings.memory)
        return replace(task, class_token=None if look.class_token is None else look.class_token[0], mask=look.mask)

    def _provenance(self, look: Look, task: Task, seconds: float) -> dict[str, Any]:
        settings, backbone, picture, plan = self.settings, self.backbone, look.picture, look.plan
        return {
            "input": {"path": picture.source, "sha256": picture.sha256, "size": list(picture.size)},
            **({"mask": {"path": look.mask.source, "sha256": look.mask.sha256}} if look.mask else {}),
            "backbone": backbone.describe(),
            "method": settings.method,
            "settings": settings.method_settings,
            "upsampler": getattr(task.upsampler, "provenance", None),
            "seed": settings.seed,
            "network_size": list(plan.network), "output_size": list(plan.output), "grid": list(plan.grid),
            "patch_size": backbone.stride, "pixel_convention": PIXEL_CONVENTION,
            "versions": versions(), "device": self.device_name,
            "seconds": round(seconds, 3), "scores": task.upsampler.details.scores,
            "facts": task.upsampler.details.facts,
        }  # fmt: skip


@overload
def upsample(image: list[Any] | tuple[Any, ...], **options: Any) -> list[Result]: ...


@overload
def upsample(image: Any, **options: Any) -> Result: ...


@checked  # type: ignore[misc]  # mypy wants the overloads' options to be those below, all written out again
def upsample(  # noqa: PLR0913 (a public call: its keywords mirror the command's options)
    image: Any,
    *,
    backbone: str | BackboneConfig | Backbone = "tiny",
    method: str = DEFAULT_METHOD,
    resize: str | int | Size | None = None,
    output_size: str | int | Size | None = None,
    implicit: ImplicitConfig | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = no_progress,
    upsampler: Path | str = "auto",
    allow_other_backbone: bool = False,
    memory: int | None = None,
) -> Result | list[Result]:
    """Features per pixel: what `featup upsample` does, in memory and silent.

    Args:
        image: one path, Pillow image, array, tensor, or the bytes of a file; see `as_picture`. A list of them, or a
            batch [B, ...], gives a list of results in the same order. `upsample_many` takes many files.
        backbone: name, settings, or a loaded backbone to use again.
        method: a key of `featup.METHODS`.
        resize: network input, a short side, `HxW` or (H, W); None for the backbone's own.
        output_size: `image`, `HxW`, (H, W), 512 for a square, a factor such as `8x`, or None for the network input's
            size.
        implicit: settings of that method.
        device: auto, cpu, cuda, ...
        seed: the same seed on the same device gives the same result.
        progress: called with (stage, done, total, score).
        upsampler: weights of a trained method: `auto`, a released name or a file, as for `make_upsampler`.
        allow_other_backbone: accept weights for another backbone with as many channels.
        memory: bytes that this process (on an accelerator: its tensors) may take; None for a share of what is free.
    Raises:
        FeatUpError: one of its subclasses; the message says what to do.

    Example:
        >>> import featup_cli as featup, torch
        >>> result = featup.upsample(torch.rand(3, 48, 64), method="bilinear", resize=48, output_size="image")
        >>> result.features.shape, result.lr_features.shape
        (torch.Size([96, 48, 64]), torch.Size([96, 3, 4]))
        >>> [made.features.shape[1] for made in featup.upsample(torch.rand(2, 3, 48, 64), method="bilinear", resize=32)]
        [32, 32]
    """
    loaded = backbone if isinstance(backbone, Backbone) else None
    name = getattr(backbone, "name", backbone)
    settings = Upsampling(
        backbone if isinstance(backbone, BackboneConfig) else BackboneConfig(name=str(name)), method,
        implicit or ImplicitConfig(), resize, output_size, device, seed, upsampler=str(upsampler),
        allow_other_backbone=allow_other_backbone, memory=memory,
    )  # fmt: skip
    several = isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4
    if several and len(image) == 0:
        raise InputError("image: give at least one picture, not an empty list")
    pipeline = Pipeline(settings, loaded)
    return [pipeline.run(each, progress) for each in image] if several else pipeline.run(image, progress)
