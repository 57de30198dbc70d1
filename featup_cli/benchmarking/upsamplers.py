"""Figures 16 and 17 of FeatUp: time, peak memory and GFLOPs of every upsampler but the implicit one.

Weights that the package lacks are random, of a seed: time and memory don't depend on them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from featup_kernels.cases import cases_of
from featup_kernels.registry import OPERATIONS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.benchmarking.check import WrongResultError, relative_error
from featup_cli.benchmarking.kernels import first_line
from featup_cli.benchmarking.measure import copies_for, time_and_weigh
from featup_cli.benchmarking.settings import Settings
from featup_cli.core.errors import FeatUpError, UsageError, WeightsError
from featup_cli.core.memory import why_it_does_not_fit
from featup_cli.core.progress import Announce
from featup_cli.upsamplers.api import Upsampler
from featup_cli.upsamplers.attached import PretrainedUpsampler
from featup_cli.upsamplers.method import Method, Needs
from featup_cli.upsamplers.registry import METHODS, make_upsampler
from featup_cli.upsamplers.weights.file import build_upsampler

# (factor, channels, grid). Figure 17: features of a ViT on a picture of 224 pixels. Figure 16 holds two at (2, 256, 8)
# and varies the third; its axes are not printed, so the values here are ours.
FIGURE_17 = [(factor, 384, 14) for factor in (2, 4, 8, 16)]
FIGURE_16 = [
    *((factor, 256, 8) for factor in (2, 4, 8, 16)),
    *((2, channels, 8) for channels in (128, 512, 1024, 2048)),
    *((2, 256, grid) for grid in (16, 32, 64)),
]
MEASURED = tuple(name for name, method in METHODS.items() if not method.fits_model)
"""Methods that are measured; those that fit the picture or run a backbone, in figure 17 only."""
BACKBONES = ("vit_small_patch16_224", "resnet50")
"""What such a method runs, with random weights: the first that it takes."""
# An upsampler may hold a few outputs at once; one that needs more fails by itself.
OUTPUT_BUFFERS = 4
TOLERANCE = 1e-3  # of float32 results through different kernels


@contextmanager
def kernels_backend(name: str) -> Iterator[None]:
    """Let the kernels inside upsamplers use this backend; `auto` leaves the environment's choice."""
    before = os.environ.get("FEATUP_KERNELS")
    if name != "auto":
        os.environ["FEATUP_KERNELS"] = name
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("FEATUP_KERNELS", None)
        else:
            os.environ["FEATUP_KERNELS"] = before


class FlopCount(TorchDispatchMode):
    """Adds up floating-point operations in this context; `flops` is None until an operation was counted.

    PyTorch's own counter differs between versions: in what it decomposes first, and in whether it keeps zeros. So only
    its formulas (matrix products, convolutions, attention) are used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: int | None = None
        self._formulas = flop_registry | flop_formulas()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = self._formulas.get(func.overloadpacket)
        if formula is not None:
            self.flops = (self.flops or 0) + int(formula(*args, **kwargs, out_val=out))
        return out


def _per_output(flops: int) -> Callable[..., int]:
    """A formula: this many operations for each value of the output."""
    return lambda *args, out_val, **options: flops * out_val.numel()


def flop_formulas() -> dict[Any, Callable[..., int]]:
    """Operations, of tensors and their result, that PyTorch has no formulas for: interpolation and our kernels.

    A multiplication and an addition count as two, as in PyTorch.
    """
    ours = {name: cases_of(name) for name, operation in OPERATIONS.items() if operation.kernels}
    return {
        torch.ops.aten._upsample_nearest_exact2d: _per_output(0),
        torch.ops.aten.upsample_bilinear2d: _per_output(2 * 4),
        torch.ops.aten.upsample_bicubic2d: _per_output(2 * 16),
        torch.ops.aten.grid_sampler_2d: _per_output(2 * 4),
        **{getattr(torch.ops.featup, name): cases.flops for name, cases in ours.items()},
    }


def count_flops(call: Callable[[], Any]) -> int | None:
    """Floating-point operations of a call: products, convolutions, attention, interpolation and our kernels.

    None if it runs none of these.
    """
    with FlopCount() as count, torch.no_grad():
        call()
    return count.flops


def measure(settings: Settings, device: torch.device, note: Announce) -> dict[str, Any]:
    """`rows` of JSON values, one for each method and setting of the two figures.

    Raises:
        WrongResultError: a method's result depends on the backend of its kernels.
    """
    return {"rows": [row for method in MEASURED for row in measure_method(method, settings, device, note)]}


def measure_method(method: str, settings: Settings, device: torch.device, note: Announce) -> Iterator[dict[str, Any]]:
    """The rows of one method, each as soon as it is measured; then those of the form that its paper prints."""
    yield from _measure_form(method, {}, settings, device, note)
    if METHODS[method].printed:
        yield from _measure_form(method, METHODS[method].printed, settings, device, note)


def _measure_form(
    method: str, form: Mapping[str, Any], settings: Settings, device: torch.device, note: Announce
) -> Iterator[dict[str, Any]]:
    record = METHODS[method]
    about: dict[str, Any] = {"method": method, **({"settings": dict(form)} if form else {})}
    try:
        if not record.per_picture:  # others fit or run a network twice to no end: they have no kernels of ours
            note(f"{method}: checking")
            about["check"] = check_upsampler(method, settings, device, form)
        backbone = load_random(record, device) if record.needs is Needs.BACKBONE else None
    except WrongResultError:
        raise
    except FeatUpError as error:
        yield about | {"skipped": str(error)}
        return
    for figure, sweep in ((17, FIGURE_17), (16, () if record.per_picture else FIGURE_16)):
        for factor, width, grid in sweep:
            channels = backbone.channels if backbone else width
            note(f"{method}: figure {figure}, {channels}x{grid}x{grid} by {factor}")
            row = {"figure": figure, "factor": factor, "channels": channels, "grid": grid}
            inputs = make_inputs(factor, channels, grid, settings, device)
            made = partial(build, method, device, channels, settings.seed, form, backbone, grid)
            yield about | row | {"output_size": [grid * factor] * 2} | _measure(made, inputs, settings, device)


def load_random(record: Method, device: torch.device) -> Backbone:
    """The first of `BACKBONES`, with random weights, that a method which runs a backbone takes."""
    for name in BACKBONES:
        backbone = load_backbone(BackboneConfig(name, random_weights=True), device)
        try:
            make_upsampler(record.name, backbone=backbone, network_size=backbone.native_size)
        except UsageError as error:
            refusal = error
        else:
            return backbone
    raise refusal


def build(
    method: str,
    device: torch.device,
    channels: int,
    seed: int = 0,
    form: Mapping[str, Any] | None = None,
    backbone: Backbone | None = None,
    grid: int = 0,
) -> Upsampler:
    """The upsampler by name, on the device, for features of `channels`.

    Args:
        method: its name.
        device: where it will run.
        channels: of the features.
        seed: of random weights, which it has where the package has none.
        form: settings of its network; with any, weights are random.
        backbone: that a method runs, on a picture of `grid` x `grid` tokens.
    """
    if not form:
        side = grid * backbone.stride if backbone else 0
        try:
            made = make_upsampler(method, backbone=backbone, network_size=(side, side) if backbone else None)
            return made.to(device).eval() if isinstance(made, torch.nn.Module) else made
        except WeightsError:
            pass
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_upsampler(method, {"channels": channels, **(form or {})}).eval().to(device)
    return PretrainedUpsampler(module, {"config": {"channels": channels}}, [])


def make_inputs(
    factor: int, channels: int, grid: int, settings: Settings, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A picture of the output's size and features, both noise."""
    generator = torch.Generator(device).manual_seed(settings.seed)
    side = factor * grid
    dtype = getattr(torch, settings.dtype)
    image = torch.rand(1, 3, side, side, generator=generator, device=device)
    lr_feats = torch.randn(1, channels, grid, grid, generator=generator, device=device)
    return image.to(dtype), lr_feats.to(dtype)


def check_upsampler(
    method: str, settings: Settings, device: torch.device, form: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Compare the first setting of figure 17 in float32 with the same method on the reference kernels.

    Raises:
        WrongResultError: they differ.
    """
    factor, channels, grid = FIGURE_17[0]
    image, lr_feats = (x.float() for x in make_inputs(factor, channels, grid, settings, device))
    results = []
    for backend in (settings.backend, "reference"):
        with kernels_backend(backend), torch.no_grad():
            upsampler = build(method, device, channels, settings.seed, form)
            results.append(upsampler(image, lr_feats, (factor * grid, factor * grid)))
    error = relative_error(results[0], results[1], 0)
    if not error <= TOLERANCE:
        raise WrongResultError(
            f"{method} is wrong: its kernels differ from the reference by {error:.2g} of the largest value"
        )
    return {
        "against": "the same method on reference kernels", "parts": [f"{channels}x{grid}x{grid} by {factor}, float32"],
        "tolerance": TOLERANCE, "largest_errors": {"output": error},
    }  # fmt: skip


def _measure(
    made: Callable[[], Upsampler], inputs: tuple[Tensor, Tensor], settings: Settings, device: torch.device
) -> dict[str, Any]:
    """Time, memory and operations of an upsampler, of a picture that has the size of the result, and features."""
    height, width = inputs[0].shape[2:]
    size = (height, width)
    needed = OUTPUT_BUFFERS * inputs[1].shape[1] * height * width * inputs[1].element_size()
    reason = why_it_does_not_fit(needed, device)
    if reason is not None:
        return {"skipped": reason}
    try:
        with kernels_backend(settings.backend), torch.no_grad():
            upsampler = made()
            flops = count_flops(lambda: upsampler(*inputs, size))
            nbytes = sum(x.nbytes for x in inputs)
            copies = copies_for(nbytes, nbytes, device)
            sets = [inputs] + [(inputs[0].clone(), inputs[1].clone()) for _ in range(copies - 1)]
            timing, peak = time_and_weigh(
                lambda i: upsampler(*sets[i % copies], size), device, repeat=settings.repeat, budget_s=settings.budget_s
            )
    except (FeatUpError, torch.cuda.OutOfMemoryError, MemoryError) as error:
        return {"skipped": first_line(error)}
    row: dict[str, Any] = {**timing.record(), "copies": copies, **peak.record()}
    if flops is None:
        return row | {"gflop": None, "gflop_skipped": "none of its operations is counted (see docs/benchmarks.md)"}
    return row | {"gflop": flops / 1e9}
