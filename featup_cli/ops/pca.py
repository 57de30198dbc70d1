"""Principal components: fitted once, then shared by everything that must be comparable."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from featup_cli.core.errors import InputError, ShapeError

EXACT_CHANNELS = 1024  # up to here the covariance is quick to form and to diagonalise
SAMPLE_TOKENS = 20_000  # above, the randomised decomposition sees this many tokens
OVERSAMPLING = 8
BLOCK = 16_384  # tokens that are in float32 at one time
_LEAST_VARIANCE = 1e-9  # of the largest; below it, axes found by way of the tokens lose their right angles


@dataclass(frozen=True)
class PCA:
    """A linear basis of feature space, largest variance first.

    Attributes:
        mean: [C].
        basis: [K, C], orthonormal rows.
        std: [K], standard deviation of the tokens along each row.
        explained_ratio: [K], share of the total variance; zeros if the tokens do not vary.
        total_variance: sum of the variances of all channels.
    """

    mean: Tensor
    basis: Tensor
    std: Tensor
    explained_ratio: Tensor
    total_variance: float

    def project(self, features: Tensor) -> Tensor:
        """Coordinates in the basis: [C, H, W] to [K, H, W], or [N, C] to [N, K]; float32 unless float64 came."""
        tokens = _tokens(features, len(self.mean))
        return _like(torch.cat([(_wide(block) - self.mean) @ self.basis.T for block in tokens.split(BLOCK)]), features)

    def reconstruct(self, coefficients: Tensor) -> Tensor:
        """Features of coordinates: [K, H, W] to [C, H, W], or [N, K] to [N, C]."""
        return _like(_wide(_tokens(coefficients, len(self.basis))) @ self.basis + self.mean, coefficients)


def _tokens(values: Tensor, channels: int) -> Tensor:
    if values.ndim not in (2, 3) or values.shape[0 if values.ndim == 3 else 1] != channels:
        raise ShapeError(f"expected [{channels}, H, W] or [N, {channels}], not {list(values.shape)}")
    return values.flatten(1).T if values.ndim == 3 else values


def _like(tokens: Tensor, template: Tensor) -> Tensor:
    return tokens.T.reshape(-1, *template.shape[1:]) if template.ndim == 3 else tokens


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def fix_signs(basis: Tensor, like: Tensor | None = None) -> Tensor:
    """Turn each row [C] so that its squared loadings, each with the sign of its loading, have a positive sum.

    Depends on the axis alone, not on the order of the data. Unlike the sign of the largest loading it does not jump
    when two loadings of opposite sign swap places: on Gaussian loadings it flips 2-3 times less often under noise.

    No rule is free of axes at which it jumps. This one's are far from the axes of one set of features for rounding to
    reach them, but not for a second fit, which turns axes by degrees. Then `like` gives the rows of the first fit, and
    loadings on these decide: all but one of them are small, so that each row points as the one that it came from.
    """
    loadings = basis if like is None else basis @ like.T
    balance = (loadings * loadings.abs()).sum(1, keepdim=True)
    return torch.where(balance < 0, -basis, basis)


def _moments(tokens: Tensor, mean: Tensor, cross: bool) -> Tensor:
    """Covariance [C, C], or only its diagonal [C], in float64."""
    channels = len(mean)
    total = torch.zeros((channels, channels) if cross else (channels,), dtype=torch.float64, device=mean.device)
    for block in tokens.split(BLOCK):
        centred = _wide(block) - mean
        total += (centred.T @ centred if cross else centred.square().sum(0)).double()
    return total / max(len(tokens) - 1, 1)


def _of_few_tokens(tokens: Tensor, mean: Tensor, components: int) -> tuple[Tensor, Tensor, float] | None:
    """Leading rows [K, C], variances [K] and their total, from the products of tokens instead of channels.

    None if the tokens span too few dimensions for that, or are too large.
    """
    centred = tokens.double() - mean
    products = centred @ centred.T
    if not math.isfinite(float(products.diagonal().sum())):
        return None
    values, vectors = torch.linalg.eigh(products)
    values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components]
    if not values[-1] > _LEAST_VARIANCE * values[0]:
        return None
    basis = (vectors.T @ centred) / values.sqrt()[:, None]
    others = max(len(tokens) - 1, 1)
    return basis, values / others, float(centred.square().sum()) / others


def _randomised(tokens: Tensor, mean: Tensor, components: int, seed: int) -> tuple[Tensor, Tensor]:
    """Leading rows [K, C] and variances [K], from a sample of the tokens."""
    from sklearn.utils.extmath import randomized_svd  # slow to import, and needed for wide backbones only

    if len(tokens) > SAMPLE_TOKENS:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(tokens), generator=generator)[:SAMPLE_TOKENS]
        tokens = tokens[chosen.sort().values.to(tokens.device)]
    centred = (_wide(tokens) - mean).cpu().numpy()
    _, singular, axes = randomized_svd(centred, components, n_oversamples=OVERSAMPLING, n_iter=2, random_state=seed)
    variances = torch.from_numpy(singular).double().square() / max(len(centred) - 1, 1)
    return torch.from_numpy(axes).to(mean.device).double(), variances.to(mean.device)


@torch.no_grad()
def fit_pca(tokens: Tensor, components: int, *, seed: int = 0) -> PCA:
    """Fit the leading principal components.

    Exact (eigenvectors of the covariance, of channels or of tokens, whichever are fewer) up to 1024 of either, else
    randomised on a sample of 20,000 tokens. The result is the same in every run, and the signs do not depend on the
    order of the tokens.

    Args:
        tokens: [N, C], any floating-point dtype.
        components: K; fewer are returned if the tokens span fewer: at most C and N - 1, at least 1.
        seed: of the sample and the random start for more than 1024 channels.
    Raises:
        ShapeError: not [N, C], or empty.
        InputError: the tokens hold NaN or infinite values, or such large ones that their squares overflow.
    """
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise ShapeError(f"tokens must be [N, C] and not empty, not {list(tokens.shape)}")
    if components < 1:
        raise ShapeError(f"components must be at least 1, not {components}")
    count, channels = tokens.shape
    components = min(components, channels, max(count - 1, 1))
    dtype = tokens.dtype if tokens.dtype == torch.float64 else torch.float32
    mean = sum((block.double().sum(0) for block in tokens.split(BLOCK)), tokens.new_zeros(channels).double()) / count
    mean = mean.to(dtype)
    if not torch.isfinite(mean).all():
        raise InputError("the features hold NaN or infinite values; run the backbone in float32")
    few = _of_few_tokens(tokens, mean, components) if count < min(channels, EXACT_CHANNELS) else None
    if few is not None:
        basis, variances, total = few
    elif channels <= EXACT_CHANNELS:
        covariance = _moments(tokens, mean, cross=True)
        total = float(covariance.diagonal().sum())
        if not math.isfinite(total):
            raise InputError("the features hold values too large for principal components; make them again")
        values, vectors = torch.linalg.eigh(covariance)
        variances, basis = values.flip(0)[:components].clamp_min(0), vectors.T.flip(0)[:components]
    else:
        total = float(_moments(tokens, mean, cross=False).sum())
        basis, variances = _randomised(tokens, mean, components, seed)
    ratio = variances / total if total > 0 else torch.zeros_like(variances)
    basis = fix_signs(basis).to(dtype).contiguous()
    return PCA(mean, basis, variances.sqrt().to(dtype), ratio.to(dtype), total)
