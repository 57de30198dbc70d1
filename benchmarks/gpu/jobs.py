"""Steps about whole jobs: upsamplers, the implicit fit, half types, memory, training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import make_pictures
from benchmarks.gpu.fit_stages import time_fit_stages
from benchmarks.gpu.session import Session
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.benchmarking import upsamplers as suite
from featup_cli.benchmarking.measure import time_and_weigh
from featup_cli.benchmarking.settings import Settings
from featup_cli.core.errors import FeatUpError
from featup_cli.engine.pipeline import Pipeline
from featup_cli.engine.settings import Output, Upsampling
from featup_cli.training.config import TrainConfig
from featup_cli.training.run import Training, train
from featup_cli.upsamplers.implicit.config import PRESETS, ImplicitConfig
from featup_cli.upsamplers.registry import FEED_FORWARD

SIZES = ((384, 14, 16, "float32"), (384, 28, 16, "float32"), (1024, 64, 16, "float16"))  # channels, grid, factor
DRY_SIZES = ((8, 4, 4, "float32"),)
PEERS = ("nearest", "bilinear", "bicubic")


def _inputs(session: Session, channels: int, grid: int, factor: int, dtype: str) -> tuple[Tensor, Tensor]:
    return suite.make_inputs(factor, channels, grid, Settings(dtype=dtype), session.device)


@torch.no_grad()
def upsample(session: Session) -> None:
    """jbu and resfu beside plain interpolation: from 14x14x384 to 224, 28x28x384 to 448, 64x64x1024 to 1024."""
    for channels, grid, factor, dtype in DRY_SIZES if session.dry else SIZES:
        inputs = _inputs(session, channels, grid, factor, dtype)
        size = (grid * factor, grid * factor)
        for method in ("jbu", "resfu", *PEERS):
            upsampler = suite.build(method, session.device, channels)
            timing, peak = time_and_weigh(
                lambda i, made=upsampler, x=inputs, hw=size: made(*x, hw), session.device,
                repeat=2 if session.dry else 30, budget_s=2,
            )  # fmt: skip
            session.row(
                method=method, channels=channels, grid=grid, output_size=list(size), dtype=dtype,
                output_mib=channels * size[0] * size[1] * inputs[1].element_size() / 2**20,
                **timing.record(), **peak.record(),
            )  # fmt: skip
            torch.cuda.empty_cache()


def upsamplers(session: Session) -> None:
    """The suite of `featup bench`, method by method."""
    settings = Settings(device=str(session.device), repeat=2 if session.dry else 10, budget_s=0.1 if session.dry else 1)
    methods = ["bilinear"] if session.dry else FEED_FORWARD
    for method in methods:
        for row in suite.measure_method(method, settings, session.device, lambda text: None):
            session.row(**row)


def implicit(session: Session) -> None:
    """One picture with `tiny`, by stage; the first call loads what libraries need, the next ones are as in use."""
    backbone = load_backbone(BackboneConfig("tiny"), session.device)
    with tempfile.TemporaryDirectory() as folder:
        picture = make_pictures(Path(folder, "in"), 1) / "00000.jpg"
        for side in (32,) if session.dry else (224, 448):
            for name, config in _fits(session.dry):
                if session.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                timed = time_fit_stages(picture, backbone, config, resize=side)
                session.row(
                    preset=name, side=side, seconds=sum(timed["seconds"].values()), stages=timed["seconds"],
                    scores=timed["scores"], facts=timed["facts"],
                    peak_bytes=torch.cuda.max_memory_allocated() if session.device.type == "cuda" else None,
                )  # fmt: skip


def _fits(dry: bool) -> list[tuple[str, ImplicitConfig]]:
    default, paper = PRESETS["default"], PRESETS["paper"]
    fits = [
        ("first call", default), ("default", default), ("default, no graph", replace(default, cuda_graph=False)),
        ("default, tf32", replace(default, precision="tf32")), ("paper", paper),
    ]  # fmt: skip
    if not dry:
        return fits
    return [(name, replace(config, max_steps=3, views=3)) for name, config in (fits[1], fits[-1])]


@torch.no_grad()
def precision(session: Session) -> None:
    """Results in half types against float32 on the same, rounded, inputs; then a ViT."""
    channels, grid, factor = (8, 4, 4) if session.dry else (384, 14, 16)
    for method in FEED_FORWARD:
        upsampler = suite.build(method, session.device, channels)
        for dtype in ("float16", "bfloat16"):
            image, lr_feats = _inputs(session, channels, grid, factor, dtype)
            size = (grid * factor, grid * factor)
            exact = upsampler(image.float(), lr_feats.float(), size)
            session.row(method=method, dtype=dtype, **_difference(upsampler(image, lr_feats, size), exact))
    for name in ("vit_tiny_patch16_224",) if session.dry else ("vit_small_patch16_224", "vit_small_patch16_dinov3"):
        for row in _vit(session, name):
            session.row(backbone=name, **row)


def _difference(found: Tensor, exact: Tensor) -> dict[str, Any]:
    error = found.float() - exact
    return {
        "finite": bool(found.isfinite().all()), "rms_error": float(error.square().mean().sqrt()),
        "largest_error": float(error.abs().max()), "rms": float(exact.square().mean().sqrt()),
    }  # fmt: skip


def _vit(session: Session, name: str) -> Iterator[dict[str, Any]]:
    """Features of a smooth picture in each format, against float32; weights are random. Last what `auto` takes."""
    side = 64 if session.dry else 224
    coarse = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1).to(session.device)
    exact = load_backbone(BackboneConfig(name, random_weights=True, precision="float32"), session.device)(images)
    for precision in ("float16", "bfloat16"):
        backbone = load_backbone(BackboneConfig(name, random_weights=True, precision=precision), session.device)
        try:
            yield {"dtype": precision, **_difference(backbone(images), exact)}
        except FeatUpError as error:  # what is not finite is refused
            yield {"dtype": precision, "finite": False, "error": str(error)}
    backbone = load_backbone(BackboneConfig(name, random_weights=True), session.device)
    yield {"dtype": "auto", **_difference(backbone(images), exact), "choice": backbone.describe()["precision_choice"]}


def memory(session: Session) -> None:
    """Files within a budget, and the same file although the first bands run out of memory."""
    side, budget = ("64x64", None) if session.dry else ("1024x1024", 400_000_000)  # the result has 1.6 GB
    name = "tiny" if session.dry else "vit_small_patch16_224"
    with tempfile.TemporaryDirectory() as folder:
        picture = make_pictures(Path(folder, "in"), 1) / "00000.jpg"
        for method in ("bilinear",) if session.dry else ("bilinear", "jbu", "resfu"):
            _write_one(session, Path(folder), picture, method, name, side, budget)
        if session.device.type == "cuda":
            _run_out(session, Path(folder), picture, name)


def _write_one(
    session: Session, folder: Path, picture: Path, method: str, name: str, size: str, budget: int | None
) -> None:
    config = BackboneConfig(name, random_weights=name != "tiny")
    settings = Upsampling(config, method, output_size=size, device=str(session.device), memory=budget)
    pipeline = Pipeline(settings)
    if session.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    target = folder / f"{method}.safetensors"
    written = pipeline.write(pipeline.look(picture), target, Output(picture=False))
    session.row(
        method=method, shape=list(written.shape), budget_bytes=budget, seconds=time.perf_counter() - start,
        file_bytes=target.stat().st_size,
        peak_bytes=torch.cuda.max_memory_allocated() if session.device.type == "cuda" else None,
    )  # fmt: skip
    target.unlink()


def _run_out(session: Session, folder: Path, picture: Path, name: str) -> None:
    """Promise more memory than there is: bands must be halved until they fit, and the file be the same."""
    from safetensors.torch import load_file

    files = []
    device_bytes = torch.cuda.get_device_properties(session.device).total_memory
    for share in (1.0, 0.8e9 / device_bytes):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share)
        config = BackboneConfig(name, random_weights=True)
        pipeline = Pipeline(Upsampling(config, "jbu", output_size="1024x1024", device="cuda", memory=4_000_000_000))
        target = folder / f"share{len(files)}.safetensors"
        pipeline.write(pipeline.look(picture), target, Output(picture=False))
        files.append(load_file(target)["features"].float())
    torch.cuda.set_per_process_memory_fraction(1.0)
    session.row(method="jbu", ran_out=True, largest_difference=float((files[0] - files[1]).abs().max()))


def training(session: Session) -> None:
    """Steps a second of multi-view training and of distillation, with `tiny`, features cached before."""
    steps = 3 if session.dry else 120
    small: dict[str, Any] = {"crop_size": 32, "views": 2, "batch": 1, "tokens": 4} if session.dry else {}
    for target in ("views", "jbu"):
        config = TrainConfig(target=target, steps=steps, check_interval=steps, warmup=2, **small)
        with tempfile.TemporaryDirectory() as folder:
            pictures = make_pictures(Path(folder, "in"), 5 if session.dry else 16)
            clock = StepClock(skip=0 if session.dry else steps // 4)
            job = Training([pictures], Path(folder, "out.safetensors"), config=config, device=str(session.device))
            train(job if target == "views" else replace(job, upsampler=_resfu()), progress=clock)
        session.row(target=target, steps=steps, batch=config.batch, steps_per_s=clock.rate())


def _resfu() -> Any:
    from featup_cli.upsamplers.resfu.config import ReSFUConfig

    return ReSFUConfig()


class StepClock:
    """Rate of the steps that a progress callback tells of, without the first ones."""

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.seen: list[tuple[int, float]] = []

    def __call__(self, stage: str, done: int, total: int, score: str) -> None:
        if stage == "steps" and done > self.skip:
            self.seen.append((done, time.perf_counter()))

    def rate(self) -> float | None:
        """Steps a second."""
        if len(self.seen) < 2:
            return None
        (first, begin), (last, end) = self.seen[0], self.seen[-1]
        return (last - first) / (end - begin)
