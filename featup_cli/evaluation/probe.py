"""Linear segmentation probe: trained once on low-resolution features, frozen, applied to any upsampled features.

Source: FeatUp, section 4.2. The paper trains by a fixed schedule; ours is a convex problem solved to convergence, so
that differences between upsamplers can't come from a half-trained probe.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


@dataclass(frozen=True)
class LinearProbe:
    """A frozen linear classifier: `weight` [classes, C], `bias` [classes]."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """[C, H, W] to [classes, H, W]."""
        return torch.einsum("kc,chw->khw", self.weight, features.float()) + self.bias[:, None, None]

    def predict(self, features: Tensor) -> Tensor:
        """[C, H, W] to class ids [H, W]."""
        return self.logits(features).argmax(0)


def class_mixes(labels: Tensor, grid: tuple[int, int], classes: int) -> tuple[Tensor, Tensor]:
    """Share of each class in every cell of a low-resolution grid.

    Args:
        labels: int [H, W]; ids outside 0..classes-1 are void.
        grid: (h, w), any size; cells of a non-integer size share their border pixels.
    Returns:
        mixes [h, w, classes] that sum to one where any pixel is valid, and the valid share [h, w].
    """
    valid = (labels >= 0) & (labels < classes)
    one_hot = F.one_hot(labels.long().where(valid, 0), classes) * valid[..., None]
    shares = F.adaptive_avg_pool2d(one_hot.permute(2, 0, 1).float()[None], grid)[0].permute(1, 2, 0)
    weight = shares.sum(-1)
    return shares / weight[..., None].clamp_min(1e-6), weight


def fit_probe(tokens: Tensor, mixes: Tensor, weights: Tensor, *, l2: float = 1e-4, max_steps: int = 500) -> LinearProbe:
    """Multinomial logistic regression on class mixes by L-BFGS, until the gradient vanishes.

    Args:
        tokens: [N, C] features; standardised inside, the returned probe takes raw ones.
        mixes: [N, classes] class shares.
        weights: [N] valid share of each token.
        l2: weight decay on the standardised features; makes the optimum unique.
        max_steps: bound on the iterations; convergence comes first on all data tried.
    """
    mean, std = tokens.mean(0), tokens.std(0).clamp_min(1e-6)
    x = (tokens - mean) / std
    keep = weights > 0
    x, y, w = x[keep], mixes[keep], weights[keep] / weights[keep].sum()
    weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=max_steps, tolerance_grad=1e-5, tolerance_change=1e-9, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        loss = -(w * (y * F.log_softmax(x @ weight.T + bias, -1)).sum(-1)).sum() + 0.5 * l2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    scaled = weight.detach() / std
    return LinearProbe(scaled, bias.detach() - scaled @ mean)


def confusion_matrix(prediction: Tensor, labels: Tensor, classes: int, mask: Tensor | None = None) -> Tensor:
    """Counts [classes, classes] with true classes in rows; void labels (outside 0..classes-1) are left out."""
    valid = (labels >= 0) & (labels < classes)
    if mask is not None:
        valid &= mask
    index = labels[valid].long() * classes + prediction[valid].long()
    return torch.bincount(index, minlength=classes * classes).view(classes, classes)


def boundary_band(labels: Tensor, radius: int) -> Tensor:
    """True within `radius` pixels (square window) of a change of label: bool [H, W]."""
    x = labels.float()[None, None]
    edge = torch.zeros_like(x)
    edge[..., 1:, :] += (x[..., 1:, :] != x[..., :-1, :]).float()
    edge[..., :, 1:] += (x[..., :, 1:] != x[..., :, :-1]).float()
    return F.max_pool2d(edge, 2 * radius + 1, stride=1, padding=radius)[0, 0] > 0


def iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class [classes]; NaN for a class that neither occurs nor is predicted."""
    hits = confusion.diag().double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
    return torch.where(union > 0, hits / union.clamp_min(1), torch.nan)


def segmentation_scores(confusion: Tensor, thin: Iterable[int] = ()) -> dict[str, float]:
    """mIoU over the classes that occur, thin-class mIoU and pixel accuracy, in percent."""
    present = confusion.sum(1) > 0
    per_class = iou(confusion)
    chosen = [c for c in thin if bool(present[c])]
    scores = {
        "miou": 100 * float(per_class[present].mean()),
        "accuracy": 100 * float(confusion.diag().sum() / confusion.sum().clamp_min(1)),
    }
    if chosen:
        scores["thin_miou"] = 100 * float(per_class[chosen].mean())
    return scores
