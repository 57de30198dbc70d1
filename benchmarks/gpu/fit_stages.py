"""How long each stage of implicit FeatUp takes for one picture."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from featup_cli.backbones.api import Backbone
from featup_cli.benchmarking.measure import synchronize
from featup_cli.core.progress import no_progress
from featup_cli.core.shapes import resolve_network_size
from featup_cli.multiview.views import resize_picture, view_source
from featup_cli.pictures.read import load_image
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.fit import fit_implicit
from featup_cli.upsamplers.implicit.observe import compress, plan_views, render_batches
from featup_cli.upsamplers.implicit.upsampler import describe_fit, keep_model


@torch.no_grad()
def time_fit_stages(
    path: Path | str,
    backbone: Backbone,
    config: ImplicitConfig | None = None,
    *,
    seed: int = 0,
    resize: int | None = None,
) -> dict[str, Any]:
    """Do what `implicit` does for a picture, stage by stage, with a device that is done before each clock reading.

    The first call in a process pays for what libraries load; call it twice. Features are made at the network's input
    size.

    Args:
        path: of the picture.
        backbone: whose features are made, on its device.
        config: settings of the fit; None for the defaults.
        seed: of views and fit.
        resize: short side of the network's input; None for the backbone's own.
    Returns:
        `seconds` by stage: load, views, backbone, pca, fit (with that of the bilinear baseline), describe, render and
        copy; `network_size`, and the fit's `scores` and `facts`.
    Raises:
        InputError: the picture can't be read; UsageError: a size can't be obeyed.
    """
    config, device = config or ImplicitConfig(), backbone.device
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        synchronize(device)
        start = time.perf_counter()
        yield
        synchronize(device)
        seconds[name] = time.perf_counter() - start

    with stage("load"):
        picture = load_image(path)
        image = picture.tensor().to(device)
    size = resolve_network_size(
        picture.size, resize, backbone.native_size, backbone.patch_multiple, backbone.fixed_size, str(path)
    )
    with stage("views"):
        source = view_source(image, size, config.max_zoom)
        views = plan_views(source, size, config, torch.Generator().manual_seed(seed))
        batches = list(render_batches(views, source))
    with stage("backbone"):
        features = [backbone(batch) for batch in batches]
    with stage("pca"):
        seen = compress(features, views, config)
    with stage("fit"):
        small = resize_picture(image, size)
        fit, baseline = fit_implicit(seen, small, backbone.stride, config, seed, no_progress)
    with stage("describe"):
        details = describe_fit(seen, fit, baseline, small)
        model = keep_model(fit, seen, picture, size, config)
    with stage("render"):
        rendered = model.render(image, size)
    with stage("copy"):
        rendered.cpu()
    return {"seconds": seconds, "network_size": size, "scores": details.scores, "facts": details.facts}
