"""The main job by stage: backbone, decoding, features, every upsampler, picture, file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.benchmarking.measure import time_and_weigh
from featup_cli.benchmarking.settings import Settings
from featup_cli.benchmarking.upsamplers import kernels_backend
from featup_cli.core.errors import FeatUpError
from featup_cli.core.progress import Announce
from featup_cli.core.shapes import resolve_network_size
from featup_cli.engine.pipeline import Pipeline
from featup_cli.engine.settings import Upsampling
from featup_cli.pictures.panels import save_png
from featup_cli.pictures.read import load_image
from featup_cli.upsamplers.registry import METHODS, make_upsampler

PHOTO_SIZE = (480, 640)


def write_photo(path: Path, seed: int) -> None:
    """A smooth, coloured JPEG of `PHOTO_SIZE`, the same for the same seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(PHOTO_SIZE[::-1], Image.Resampling.BICUBIC).save(path, quality=95)


def measure(settings: Settings, device: torch.device, note: Announce) -> dict[str, Any]:
    """`rows`, one for each stage of `featup upsample` with `tiny`; a method that can't run is skipped."""
    rows: list[dict[str, Any]] = []

    def stage(name: str, work: Callable[[], Any], about: str) -> None:
        note(name)
        row: dict[str, Any] = {"stage": name, "about": about}
        try:
            timing, peak = time_and_weigh(lambda i: work(), device, repeat=settings.repeat, budget_s=settings.budget_s)
            rows.append({**row, **timing.record(), **peak.record()})
        except FeatUpError as error:
            rows.append(row | {"skipped": str(error)})

    config = BackboneConfig("tiny")
    with tempfile.TemporaryDirectory() as folder, kernels_backend(settings.backend):
        path = Path(folder) / "photo.jpg"
        write_photo(path, settings.seed)
        stage("load backbone", lambda: load_backbone(config, device), "tiny, from the package")
        stage("decode", lambda: load_image(path), f"JPEG, {PHOTO_SIZE[0]}x{PHOTO_SIZE[1]}")
        backbone = load_backbone(config, device)
        picture = load_image(path)
        network = resolve_network_size(
            picture.size, None, backbone.native_size, backbone.patch_multiple, backbone.fixed_size, "photo.jpg"
        )
        stage(
            "extract",
            lambda: backbone(picture.resized(network)[None]),
            f"resize to {network[0]}x{network[1]}, features",
        )
        lr_feats, image = backbone(picture.resized(network)[None]), picture.tensor()[None].to(device)
        shape = "x".join(str(n) for n in lr_feats.shape[1:])
        for method in METHODS:

            def work(method: str = method) -> Any:
                upsampler = make_upsampler(method, backbone=backbone, network_size=network, seed=settings.seed)
                with torch.no_grad():
                    return upsampler(image, lr_feats, network)

            stage(f"upsample: {method}", work, f"{shape} to {network[0]}x{network[1]}")
        result = Pipeline(Upsampling(config, "bilinear", device=str(device)), backbone).run(path)
        stage("PCA picture", result.render_picture, "three panels")
        rendered = result.render_picture()
        stage("write features", lambda: result.save(Path(folder) / "photo.safetensors"), "safetensors, float16")
        stage("write picture", lambda: save_png(Path(folder) / "photo.png", rendered), "PNG")
    return {"rows": rows}
