"""Do edges of features lie where people draw boundaries? Scores in the manner of BSDS500 (Arbelaez et al., 2011)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.core.errors import InputError
from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.bootstrap import Scores
from featup_cli.evaluation.boundary.task import TASK, BoundaryOptions
from featup_cli.evaluation.cache import Arrays
from featup_cli.evaluation.data import Pair, check_pairs, find_pairs, read_array
from featup_cli.evaluation.run import Evaluation, Scorer
from featup_cli.evaluation.source import FeatureSource, Request

TOLERANCE = 0.0075  # of the picture's diagonal
CHANNELS = 64  # that are differentiated at one time
THRESHOLDS = torch.logspace(math.log10(0.002), math.log10(1.0), 60)


def read_boundaries(path: Path) -> Tensor:
    """Boundary maps of all annotators, bool [n, H, W], from the array `boundaries` of a .npz.

    Raises:
        InputError: no such file, another form, or nobody drew anything.
    """
    boundaries = read_array(path, "boundaries", "[annotators, H, W]")
    if boundaries.ndim != 3 or not boundaries.any():
        raise InputError(f"{path}: `boundaries` must be [annotators, H, W] with some boundary, not {boundaries.shape}")
    return torch.from_numpy(boundaries > 0)


def feature_gradient(features: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Strength and direction of the features' change, per pixel.

    Strength is the root mean square, over channels of unit variance, of the gradient by Sobel's filter: standard
    deviations per pixel. Direction is that of largest change in all channels together (Di Zenzo, 1986).

    Args:
        features: [C, H, W].
        std: [C], by which channels are divided.
    Returns:
        strength [H, W] and unit directions (dy, dx) [2, H, W].
    """
    smooth, slope = features.new_tensor([1.0, 2.0, 1.0]) / 4, features.new_tensor([-1.0, 0.0, 1.0]) / 2
    kernels = torch.stack((slope[:, None] * smooth, smooth[:, None] * slope))[:, None]
    yy, xx, xy = (features.new_zeros(features.shape[1:]) for _ in range(3))
    for part, scale in zip(features.split(CHANNELS), std.clamp_min(1e-6).split(CHANNELS), strict=True):
        padded = F.pad((part / scale[:, None, None])[:, None], (1, 1, 1, 1), mode="replicate")
        dy, dx = F.conv2d(padded, kernels).unbind(1)
        yy += dy.square().sum(0)
        xx += dx.square().sum(0)
        xy += (dy * dx).sum(0)
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    return ((xx + yy) / len(features)).sqrt(), torch.stack((angle.sin(), angle.cos()))


def thin_edges(strength: Tensor, direction: Tensor) -> Tensor:
    """Non-maximum suppression: `strength` [H, W] where no neighbour along `direction` [2, H, W] is stronger, else 0."""
    height, width = strength.shape
    rows, cols = torch.meshgrid(
        torch.arange(height, device=strength.device), torch.arange(width, device=strength.device), indexing="ij"
    )
    kept = torch.ones_like(strength, dtype=torch.bool)
    for sign in (-1, 1):
        y = (rows + sign * direction[0]) / max(height - 1, 1) * 2 - 1
        x = (cols + sign * direction[1]) / max(width - 1, 1) * 2 - 1
        grid = torch.stack((x, y), -1)[None]
        ahead = F.grid_sample(strength[None, None], grid, padding_mode="border", align_corners=True)[0, 0]
        # Equal values count as a maximum on one side only, so that plateaus become one pixel wide. The margin is
        # above the rounding of the interpolation.
        kept &= strength >= ahead * (1 - 1e-5) if sign < 0 else strength > ahead * (1 + 1e-5)
    return strength * kept


def disk_maximum(maps: Tensor, radius: float) -> Tensor:
    """Largest value within `radius` pixels of each pixel of [..., H, W]; values are not negative."""
    reach = int(radius)
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (reach,) * 4)
    result = maps.clone()
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= radius * radius:
                shifted = padded[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]
                result = torch.maximum(result, shifted)
    return result


def count_matches(edges: Tensor, boundaries: Tensor, thresholds: Tensor) -> Arrays:
    """Matched and unmatched pixels at each threshold.

    A predicted pixel is right if any annotator has a boundary within the tolerance; a drawn pixel is found if an edge
    lies within the tolerance of it, and annotators are added up. Pixels are not matched one to one, as the official
    program does: that costs minutes a picture, and with edges one pixel wide changes little; scores are a bit higher.

    Args:
        edges: [H, W], thin, zero where there is none.
        boundaries: bool [n, H, W].
        thresholds: [T], above zero, rising.
    Returns:
        `right`, `predicted`, `found` [T] and `drawn` [].
    """
    radius = TOLERANCE * math.hypot(*edges.shape)
    near_drawn = disk_maximum(boundaries.any(0).float(), radius) > 0
    reached = disk_maximum(edges, radius)

    def at_least(values: Tensor) -> np.ndarray:
        below = torch.bucketize(thresholds.to(values), values.sort().values)
        return (len(values) - below).cpu().numpy()

    reached_of_drawn = reached.expand_as(boundaries)[boundaries]
    return {
        "right": at_least(edges[near_drawn & (edges > 0)]),
        "predicted": at_least(edges[edges > 0]),
        "found": at_least(reached_of_drawn),
        "drawn": np.array(int(boundaries.sum())),
    }


def f_measure(right: np.ndarray, predicted: np.ndarray, found: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall, zero where nothing is right."""
    precision, recall = right / np.maximum(predicted, 1), found / np.maximum(drawn, 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


class BoundaryScorer(Scorer):
    """Edges of upsampled features against boundaries that people drew, at the pictures' size."""

    name = TASK.name

    def __init__(self) -> None:
        self.settings = {"tolerance": TOLERANCE, "thresholds": THRESHOLDS.tolist()}

    def prepare(self, source: FeatureSource, look: Look, item: Pair) -> Tensor:
        """Boundaries of all annotators, bool [n, H, W]."""
        return read_boundaries(item.label).to(source.device)

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Tensor) -> Arrays:
        """Counts of `count_matches`."""
        features, seconds = source.features(method, look, (prepared.shape[1], prepared.shape[2]))
        edges = thin_edges(*feature_gradient(features, look.lr_feats[0].flatten(1).std(1)))
        return count_matches(edges, prepared, THRESHOLDS) | {"seconds": np.array(seconds)}

    def score(self, rows: Arrays, counts: np.ndarray, probe: int = 0) -> Scores:
        """In percent: F at the best threshold of all pictures (ODS), with its precision and recall, and F at each
        picture's own best threshold (OIS)."""
        names = ("right", "predicted", "found", "drawn")
        drawn = rows["drawn"][:, None] * np.ones_like(rows["right"])
        each = [rows["right"], rows["predicted"], rows["found"], drawn]
        total = dict(zip(names, (counts @ values for values in each), strict=True))
        f = f_measure(**total)
        best = int(f.argmax())
        own = f_measure(*each).argmax(1)[:, None]
        chosen = [counts @ np.take_along_axis(values, own, 1)[:, 0] for values in each]
        return {
            "ods": 100 * float(f[best]),
            "ois": 100 * float(f_measure(*(np.array(v) for v in chosen))),
            "precision": 100 * float(total["right"][best] / max(total["predicted"][best], 1)),
            "recall": 100 * float(total["found"][best] / max(total["drawn"][best], 1)),
        }

    def details(self, rows: Arrays) -> dict[str, Any]:
        """The threshold of ODS."""
        drawn = np.broadcast_to(rows["drawn"].sum(), THRESHOLDS.shape)
        f = f_measure(rows["right"].sum(0), rows["predicted"].sum(0), rows["found"].sum(0), drawn)
        return {"threshold": float(THRESHOLDS[int(f.argmax())])}


def run(options: BoundaryOptions, request: Request) -> dict[str, Any]:
    """Score edges on a folder of pictures; see `run.evaluate`."""
    pairs = find_pairs(options.data, options.split, options.limit, "boundaries", (".npz",))
    check_pairs(pairs, read_boundaries)
    return Evaluation(request).score(BoundaryScorer(), pairs, data=options.data.name, split=options.split)
