"""Linear segmentation probe: trained once on low-resolution features, frozen, applied to any upsampled features.

Source: FeatUp, section 4.2. The paper trains by a fixed schedule; ours is a convex problem solved to convergence, so
that differences between upsamplers can't come from a half-trained probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.shapes import Size

GRADIENT_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Convergence:
    """How a fit ended.

    Attributes:
        iterations: of L-BFGS.
        gradient: largest absolute entry of the final gradient, on standardised features.
        loss: final objective, penalty included.
    """

    iterations: int
    gradient: float
    loss: float

    @property
    def reached(self) -> bool:
        """Whether the gradient has vanished, up to ten times the tolerance: float32 sums have noise of their own."""
        return self.gradient <= 10 * GRADIENT_TOLERANCE


@dataclass(frozen=True)
class LinearProbe:
    """A frozen linear map: `weight` [classes, C], `bias` [classes], and how its fit ended."""

    weight: Tensor
    bias: Tensor
    convergence: Convergence


def class_mixes(labels: Tensor, grid: Size, classes: int) -> tuple[Tensor, Tensor]:
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


def minimise(parameters: list[Tensor], loss: Callable[[], Tensor], max_steps: int) -> Convergence:
    """Minimise a smooth function of `parameters`, in place, by L-BFGS until the gradient vanishes."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    solver = torch.optim.LBFGS(
        parameters, max_iter=max_steps, max_eval=2 * max_steps, tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=0.0, history_size=50, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(closure)
        final = closure()
    gradient = max(float(p.grad.abs().max()) for p in parameters if p.grad is not None)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return Convergence(solver.state[parameters[0]]["n_iter"], gradient, float(final.detach()))


def fit_probe(
    tokens: Tensor, mixes: Tensor, weights: Tensor, *, l2: float = 1e-4, max_steps: int = 1000
) -> LinearProbe:
    """Multinomial logistic regression on class mixes by L-BFGS, until the gradient vanishes.

    The problem is convex with one optimum, so neither start nor order of the data matters.

    Args:
        tokens: [N, C] features; standardised inside, the returned probe takes raw ones.
        mixes: [N, classes] class shares.
        weights: [N] valid share of each token.
        l2: weight decay on the standardised features; makes the optimum unique.
        max_steps: bound on the iterations; `convergence` of the result says whether it was enough.
    """
    mean, std = tokens.mean(0), tokens.std(0).clamp_min(1e-6)
    keep = weights > 0
    x, y, w = (tokens[keep] - mean) / std, mixes[keep], weights[keep] / weights[keep].sum()
    weight, bias = x.new_zeros(y.shape[1], x.shape[1]), x.new_zeros(y.shape[1])

    def loss() -> Tensor:
        entropy = -(w * (y * F.log_softmax(x @ weight.T + bias, -1)).sum(-1)).sum()
        return entropy + 0.5 * l2 * weight.square().sum()

    convergence = minimise([weight, bias], loss, max_steps)
    scaled = weight / std
    return LinearProbe(scaled, bias - scaled @ mean, convergence)


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
