"""Implicit FeatUp behind the call that all upsamplers share."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from featup_cli.core.errors import ShapeError
from featup_cli.core.progress import Progress, no_progress
from featup_cli.core.shapes import Size
from featup_cli.multiview.downsample import AttentionDownsampler
from featup_cli.multiview.lookup import sample_grid
from featup_cli.multiview.views import resize_picture
from featup_cli.multiview.windows import cell_centres
from featup_cli.ops.capture import EXPECTED
from featup_cli.pictures.read import Picture, as_picture
from featup_cli.upsamplers.api import FLOAT, Details, Extract, Rows, RowUpsampler, check_inputs
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.fit import Fit, fit_implicit
from featup_cli.upsamplers.implicit.observe import PCA_VIEWS, Observations, observe
from featup_cli.upsamplers.implicit.saved import FittedModel, rendering_bytes, round_to_half
from featup_cli.upsamplers.method import Making

SALIENCY_SCALE = 4  # cells of the saliency map per token along a side


class ImplicitUpsampler(RowUpsampler):
    """Fits a network to one picture's jittered views and queries it at every pixel (FeatUp, sections 3 to 3.3).

    Args:
        backbone: images [B, 3, H, W] in [0, 1] to features.
        network_size: (height, width) at which the backbone sees the picture.
        config: settings.
        seed: the same seed on the same device gives the same result.
        progress: called as the work goes on.

    Attributes:
        details: scores, maps and notes of the last call.
        model: the network that the last call fitted.
    """

    def __init__(
        self,
        backbone: Extract,
        network_size: Size,
        config: ImplicitConfig,
        seed: int = 0,
        progress: Progress = no_progress,
    ) -> None:
        super().__init__()
        self.backbone, self.network_size, self.config = backbone, network_size, config
        self.seed, self.progress = seed, progress
        self.model: FittedModel | None = None
        self._fitted_to: tuple[weakref.ref[Tensor], ...] = ()

    def whole(self, image: Tensor, lr_feats: Tensor, size: Size) -> Tensor:
        """Fit and render, on the device of `lr_feats`; one picture at a time, as each has its own network."""
        model = self._fit(image, lr_feats, size)
        return model.render(image[0].to(lr_feats.device), size, self.progress)[None]

    def prepare(self, image: Tensor, lr_feats: Tensor, size: Size) -> Rows:
        """The network; one that was fitted to the very same tensors is taken again, so that going on costs no fit."""
        model, seen = self.model, [known() for known in self._fitted_to]
        if model is None or not (len(seen) == 2 and seen[0] is image and seen[1] is lr_feats):
            model = self._fit(image, lr_feats, size)
        picture = image[0].to(lr_feats.device)
        return lambda top, bottom: model.rows(picture, size, top, bottom)[None]

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """The more of the fit and of a band."""
        channels, tokens = lr_shape[1], lr_shape[2] * lr_shape[3]
        components = min(self.config.components, channels)
        views = self.config.views + self.config.heldout_views
        zoomed = self.network_size[0] * self.network_size[1] * self.config.max_zoom**2
        # Tokens of the views and a copy; features of those for the PCA, twice; the picture, being resized; gradients.
        fit = 2 * views * components * tokens + 3 * PCA_VIEWS * channels * tokens + 9 * int(zoomed)
        if self.config.pooling == "dense":  # all pixels, and each view of them
            evaluated, warped = self.network_size[0] * self.network_size[1], 2 * self.config.jitters * components
        else:
            evaluated = self.config.tokens * self.config.positions * (2 if self.config.pooling == "unbiased" else 1)
            warped = 0
        fit += evaluated * (12 * self.config.hidden + 24 * components + warped)
        return max(FLOAT * fit, rendering_bytes(channels, components, self.config, output_size[1], rows))

    def _fit(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> FittedModel:
        """Fit `model` to a picture at its own size and fill `details`; raises ShapeError for more than one picture."""
        check_inputs(image, lr_feats, output_size)
        if len(image) != 1:
            raise ShapeError(f"implicit fits one picture at a time, not {len(image)}")
        picture = image[0].to(lr_feats.device)
        generator = torch.Generator().manual_seed(self.seed)
        seen = observe(picture, self.network_size, self.backbone, self.config, generator, self.progress)
        network_picture = resize_picture(picture, self.network_size)
        stride = self.network_size[0] // lr_feats.shape[2]
        fit, baseline = fit_implicit(seen, network_picture, stride, self.config, self.seed, self.progress)
        self.model = keep_model(fit, seen, as_picture(picture), self.network_size, self.config)
        self.details = describe_fit(seen, fit, baseline, network_picture)
        self._fitted_to = (weakref.ref(image), weakref.ref(lr_feats))
        return self.model


def keep_model(
    fit: Fit, seen: Observations, picture: Picture, network_size: Size, config: ImplicitConfig
) -> FittedModel:
    """What renders features of the fit to `picture` at any size, rounded as it is stored."""
    grid = (seen.tokens.shape[2], seen.tokens.shape[3])
    # The basis is stored in half precision too; its rounding is far below that of the features.
    pca = replace(seen.pca, basis=seen.pca.basis.half().float().cpu(), mean=seen.pca.mean.cpu())
    return FittedModel(round_to_half(fit.field), pca, seen.scale, picture, network_size, grid, config)


@torch.no_grad()
def describe_fit(seen: Observations, fit: Fit, baseline: Fit, picture: Tensor) -> Details:
    """Scores and maps of a fit, for the record and for `featup visualize`."""
    details = Details(
        scores={
            "explained_variance": fit.explained,
            "bilinear_explained_variance": baseline.explained,
            "pca_explained_variance": float(seen.pca.explained_ratio.sum()),
            "steps": float(fit.steps),
        },
        facts={"captured": fit.captured, "uncaptured_reason": fit.uncaptured_reason},
    )
    if fit.uncertainty is not None:
        details.maps["uncertainty"] = fit.uncertainty(seen.tokens[0].permute(1, 2, 0)).exp().cpu()
    h, w = seen.tokens.shape[2:]
    position = cell_centres(h * SALIENCY_SCALE, w * SALIENCY_SCALE, picture.device)
    kernels = [fit.downsampler.bias]
    if isinstance(fit.downsampler, AttentionDownsampler):
        flat = position.flatten(0, 1)
        features = fit.field(flat, sample_grid(picture, flat))
        details.maps["saliency"] = fit.downsampler.saliency(features).view(position.shape[:2]).cpu()
        kernels.insert(0, fit.downsampler.weight)
    details.maps["kernels"] = torch.stack([k.detach() for k in kernels]).cpu()
    if fit.explained < baseline.explained:
        details.notes.append(
            f"the fit explains less of unseen views ({fit.explained:.1%}) than bilinear ({baseline.explained:.1%}): "
            "raise --max-steps or --views, or use --method bilinear"
        )
    if fit.uncaptured_reason not in EXPECTED:
        details.notes.append(
            f"the fit took longer, as no CUDA graph could hold its steps ({fit.uncaptured_reason}); "
            "--set cuda_graph=false does not try"
        )
    return details


def build(making: Making) -> ImplicitUpsampler:
    """A fit to one picture."""
    assert making.backbone is not None
    assert making.network_size is not None
    config = making.config or ImplicitConfig()
    return ImplicitUpsampler(making.backbone, making.network_size, config, making.seed, making.progress)
