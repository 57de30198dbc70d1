"""The depth probe: FeatUp, section 4.2, with the scale- and shift-invariant loss of MiDaS (Ranftl et al., 2020)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.errors import InputError
from featup_cli.core.shapes import Size
from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.bootstrap import Scores
from featup_cli.evaluation.cache import Arrays
from featup_cli.evaluation.data import find_pairs, read_array
from featup_cli.evaluation.probe.linear import LinearProbe, minimise
from featup_cli.evaluation.probe.task import DEPTH, DepthOptions
from featup_cli.evaluation.probe.training import ProbeScorer, Training, TrainingTokens, run_probe
from featup_cli.evaluation.source import FeatureSource, Request
from featup_cli.pictures.labels import read_numbers

DEPTH_SUFFIXES = (".npy", ".npz", ".png", ".tif", ".tiff")
DELTA = 1.25
NOISE = 1e-4


def read_depth(path: Path, scale: float = 1.0) -> Tensor:
    """Depth float64 [H, W], above zero; NaN where it is not known (0, NaN or infinite in the file).

    Args:
        path: a .npy, a .npz (its array `depth`, or its only one), or a picture of one channel with 16 bits.
        scale: whole numbers are divided by this; real numbers are taken as they are.
    Raises:
        InputError: negative values, no known pixel, the same depth everywhere, or a file that can't be read.
    """
    archive = path.suffix.lower() == ".npz"
    numbers = read_array(path, "depth", "[H, W]", any_name=True) if archive else read_numbers(path)
    if numbers.dtype.kind not in "iuf" or numbers.ndim != 2:
        raise InputError(f"{path}: expected one number for each pixel, not {numbers.dtype} {list(numbers.shape)}")
    depth = torch.from_numpy(numbers.astype(np.float64) / (scale if numbers.dtype.kind in "iu" else 1.0))
    depth = depth.masked_fill((depth == 0) | ~depth.isfinite(), torch.nan)
    known = depth[~depth.isnan()]
    if len(known) == 0:
        raise InputError(f"{path}: has no valid pixel, all are 0 or not finite; leave it out of the list")
    if bool((known < 0).any()):
        raise InputError(f"{path}: holds negative depth; unknown pixels must be 0 or NaN")
    if bool((known == known[0]).all()):
        raise InputError(f"{path}: has the same depth everywhere, which tells nothing; leave it out of the list")
    return depth


def cell_depth(depth: Tensor, grid: Size) -> tuple[Tensor, Tensor]:
    """Mean depth in every cell of a low-resolution grid, and the share of its pixels that are known.

    Args:
        depth: [H, W], NaN where unknown.
        grid: (h, w), any size; cells of a non-integer size share their border pixels.
    Returns:
        [h, w], zero where nothing is known; and [h, w].
    """
    depth = depth.float()
    known = (~depth.isnan()).to(depth)
    total, share = (F.adaptive_avg_pool2d(x[None], grid)[0] for x in (depth.nan_to_num(0.0), known))
    return total / share.clamp_min(1e-6), share


def fit_depth(tokens: TrainingTokens, *, noise: float = NOISE, max_steps: int = 1000) -> LinearProbe:
    """A linear probe that minimises the scale- and shift-invariant mean squared error, until the gradient vanishes.

    For each picture the prediction is scaled and shifted as fits the truth best; with the truth at unit variance what
    remains is half of 1 - r^2, r being their correlation over the picture's tokens. Minimised is the mean over tokens
    of pictures, with `noise` added to the variance of the prediction, as if every standardised feature carried noise
    of that variance.

    With one picture, or pictures of equal scale, least squares give the optimum in closed form. That is the start of
    L-BFGS here, so that nothing is drawn at random. The loss does not depend on the length of the weights; they are
    returned such that predictions have unit variance within pictures.

    Args:
        tokens: features [N, C]; targets [N], depth. The probe is on the CPU.
        noise: above zero, which makes the optimum for one scale unique.
        max_steps: bound on the iterations; `convergence` of the result says whether it was enough.
    """
    # In float64, which not every accelerator has; the problem is small.
    keep = tokens.weights > 0
    w, features, y = (x[keep].cpu().double() for x in (tokens.weights, tokens.features, tokens.targets))
    _, picture = tokens.picture[keep].cpu().unique(return_inverse=True)
    pictures = int(picture.max()) + 1
    w = w / w.sum()
    share = w.new_zeros(pictures).index_add(0, picture, w)

    def mean(values: Tensor) -> Tensor:
        """Of each picture: [N, ...] to [pictures, ...]."""
        weighted = (w if values.ndim == 1 else w[:, None]) * values
        total = values.new_zeros(pictures, *values.shape[1:]).index_add(0, picture, weighted)
        return total / (share if values.ndim == 1 else share[:, None])

    centre, std = features.mean(0), features.std(0).clamp_min(1e-6)
    x = (features - centre) / std
    x = x - mean(x)[picture]
    y = y - mean(y)[picture]
    y = y / mean(y.square()).sqrt().clamp_min(1e-12)[picture]

    ridge = x.T @ (w[:, None] * x) + noise * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(ridge, x.T @ (w * y))
    weight /= (ridge @ weight @ weight).sqrt().clamp_min(1e-12)

    def loss() -> Tensor:
        z = x @ weight
        variance = mean(z.square()) + noise * weight.square().sum()
        return 0.5 * (share * (1 - mean(y * z).square() / variance)).sum()

    convergence = minimise([weight], loss, max_steps)
    scaled = (weight / (ridge @ weight @ weight).sqrt().clamp_min(1e-12) / std).float()
    return LinearProbe(scaled[None], -(scaled @ centre.float())[None], convergence)


def aligned(prediction: Tensor, depth: Tensor) -> Tensor:
    """`prediction` [N], scaled and shifted by the least squares fit to `depth` [N]."""
    centred = prediction - prediction.mean()
    variance = centred.square().mean()
    scale = (centred * depth).mean() / variance if float(variance) > 0 else variance
    return scale * centred + depth.mean()


def depth_errors(prediction: Tensor, depth: Tensor) -> tuple[float, float]:
    """Root mean square error, and the share of pixels with max(y / y*, y* / y) < 1.25, after alignment (section 4.2).

    The paper prints the share as "> 1.25" with an arrow upwards; its values are those of "< 1.25".

    Args:
        prediction: [H, W], of any scale and shift.
        depth: [H, W], NaN where unknown.
    """
    known = ~depth.isnan()
    truth = depth[known]
    fitted = aligned(prediction[known].to(truth), truth)
    # Depth at or below zero is wrong by any factor.
    ratio = torch.where(fitted > 0, torch.maximum(fitted / truth, truth / fitted), torch.inf)
    return float((fitted - truth).square().mean().sqrt()), float((ratio < DELTA).double().mean())


class DepthScorer(ProbeScorer):
    """Frozen linear probes of depth; `scale` is that of whole numbers in the files."""

    name = DEPTH.name

    def __init__(self, scale: float) -> None:
        settings = {"depth_scale": scale}
        training = Training(partial(read_depth, scale=scale), cell_depth, fit_depth, settings | {"noise": NOISE})
        super().__init__(training, settings | {"delta": DELTA})

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Tensor) -> Arrays:
        """`rmse` and `delta` [probes] of `depth_errors`, and `seconds` of the method."""
        predictions, seconds = self.predict(source, look, method, prepared)
        errors = np.array([depth_errors(prediction, prepared) for prediction in predictions.cpu()])
        return {"rmse": errors[:, 0], "delta": errors[:, 1], "seconds": np.array(seconds)}

    def score(self, rows: Arrays, counts: np.ndarray, probe: int = 0) -> Scores:
        """Means over pictures: RMSE in the unit of the files, delta in percent."""
        rmse, delta = (float(np.average(rows[key][:, probe], weights=counts)) for key in ("rmse", "delta"))
        return {"rmse": rmse, "delta": 100 * delta}


def run(options: DepthOptions, request: Request) -> dict[str, Any]:
    """Score depth; see `run.evaluate`."""
    find = partial(find_pairs, label_folder="depth", suffixes=DEPTH_SUFFIXES)
    return run_probe(DepthScorer(options.depth_scale or 1.0), options, request, find)
