"""The PCA picture of features that arrive in bands and are never whole in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.shapes import Size
from featup_cli.ops.pca import PCA, fit_pca, fix_signs
from featup_cli.ops.taps import averaging_rows, interpolating_rows
from featup_cli.pictures.basis import ColourBasis
from featup_cli.pictures.captions import BOTH, LOW, fitted, of_basis, picture_lines
from featup_cli.pictures.layout import UNCERTAINTY, Panel, feature_panels, heat_panel, panel_rows
from featup_cli.pictures.panels import DEFAULT_COMPONENTS, MAP_TOKENS, Colours, fit_colours, panel_size, sample_tokens

COMPONENTS = 8  # kept of the features; the three that are shown are found among them once all bands are seen


class Preview:
    """Keeps a small copy of the features, at the size of a panel and in few components.

    Args:
        size: (height, width) of the features.
        lr_features: [C, h, w], whose components are kept; None if `pca` is given.
        image: uint8 [H, W, 3] to show beside them.
        pca: a basis for features without low resolution.
        basis: what the colours are fitted to, `LOW` or `BOTH`, or stored ones. Without low resolution they are fitted
            to the features.
    """

    def __init__(
        self,
        size: Size,
        lr_features: Tensor | None,
        image: np.ndarray | None = None,
        pca: PCA | None = None,
        basis: str | ColourBasis = LOW,
    ) -> None:
        self.size, self.image, self.lr_features = size, image, lr_features
        self.about = fitted(basis, without=lr_features is None) if isinstance(basis, str) else of_basis(basis.path.name)
        self.colours = known_colours(basis, lr_features)
        if self.colours is not None:
            pca = self.colours.pca
        elif lr_features is not None:
            pca = fit_pca(sample_tokens(lr_features, MAP_TOKENS), COMPONENTS)
        assert pca is not None
        kept = COMPONENTS if self.colours is None else len(pca.basis)
        self.pca = replace(pca, mean=pca.mean.cpu(), basis=pca.basis[:kept].cpu())
        self.frame: Size = size if image is None else (image.shape[0], image.shape[1])
        panel = panel_size(self.frame)
        # Tokens stay visible squares when enlarged, which is done at the end.
        self.kept = size if size[0] <= panel[0] and size[1] <= panel[1] else panel
        self.map = torch.empty(1, len(self.pca.basis), *self.kept).zero_()  # written to, so that it counts as held
        if self.kept[0] <= size[0]:
            self.rows = averaging_rows(self.kept[0], size[0], self.map)
        else:
            self.rows = interpolating_rows("bilinear", self.kept[0], size[0], self.map)
        self.seen = 0

    def add(self, band: Tensor) -> None:
        """Take the next rows [C, n, W]."""
        basis = self.pca.basis.to(band)
        reduced = torch.tensordot(basis, band, 1) - (basis @ self.pca.mean.to(band))[:, None, None]
        reduced = reduced[None].float().cpu()
        count, width = band.shape[1], self.kept[1]
        if width < self.size[1]:
            reduced = F.adaptive_avg_pool2d(reduced, (count, width))
        elif width > self.size[1]:
            reduced = F.interpolate(reduced, size=(count, width), mode="bilinear", align_corners=False)
        here = (self.rows.cells >= self.seen) & (self.rows.cells < self.seen + count)
        rows, taps = here.nonzero(as_tuple=True)
        mixed = reduced.index_select(2, self.rows.cells[rows, taps] - self.seen)
        self.map.index_add_(2, rows, mixed.mul_(self.rows.weights[rows, taps, None]))
        self.seen += count

    def render(self, uncertainty: Tensor | None = None, provenance: Mapping[str, Any] | None = None) -> np.ndarray:
        """The picture, uint8 [H', W', 3], once all bands are taken; `provenance` is named below it."""
        lr_features = None if self.lr_features is None else self.pca.project(self.lr_features.cpu())
        colours = self._colours(lr_features)
        panels = [] if self.image is None else [Panel("Image", self.image)]
        panels += feature_panels(colours, lr_features, self.map[0], self.size)
        if uncertainty is not None:
            panels.append(heat_panel(UNCERTAINTY, uncertainty))
        return panel_rows(panels, self.frame, picture_lines(provenance or {}, colours.components, self.about))

    def _colours(self, lr_features: Tensor | None) -> Colours:
        """Colours of the kept components."""
        if self.colours is not None:  # the basis in its own coordinates
            count = len(self.pca.basis)
            own = replace(self.pca, mean=torch.zeros(count), basis=torch.eye(count))
            return replace(self.colours, pca=own)
        maps = [self.map[0]] if lr_features is None else [lr_features, self.map[0]]
        samples = [sample_tokens(features, MAP_TOKENS) for features in maps]
        shown = fit_pca(torch.cat(samples), max(DEFAULT_COMPONENTS))
        # Loadings on the components of the low resolution give the signs, so that all methods' pictures agree.
        return fit_colours(samples, DEFAULT_COMPONENTS, replace(shown, basis=fix_signs(shown.basis)))


def known_colours(basis: str | ColourBasis, lr_features: Tensor | None) -> Colours | None:
    """Colours that don't depend on the features: stored ones, or those of the low resolution alone; else None."""
    if isinstance(basis, ColourBasis):
        return basis.colours
    if basis == BOTH or lr_features is None:
        return None
    return fit_colours([sample_tokens(lr_features, MAP_TOKENS)], DEFAULT_COMPONENTS)
