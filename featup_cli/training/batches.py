"""Batches of a step: crops, tokens of their views, and the positions that each token pools.

All draws in step n for crop i of the batch depend on (seed, n, i) only. So a step is the same after a resume and on
any number of processes. Each process draws only its own part of the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from featup_cli.multiview.windows import half_window, lattice_offsets, stratified_offsets, window_positions
from featup_cli.training.cache import FeatureCache, Sample
from featup_cli.training.config import TrainConfig

CHECK_POSITIONS = 25
CHECK_PROJECTION = 128  # directions in which held-out features are compared; with fewer channels, all of them
STATISTICS_SAMPLES = 64


class Statistics(NamedTuple):
    """Mean and standard deviation of every channel over some training crops: [C] each."""

    mean: Tensor
    std: Tensor

    def standardise(self, features: Tensor) -> Tensor:
        """Features [..., C, h, w] with mean 0 and variance 1."""
        return (features.float() - self.mean[:, None, None]) / self.std[:, None, None]

    def to(self, device: torch.device) -> Statistics:
        """The same statistics on another device."""
        return Statistics(self.mean.to(device), self.std.to(device))


@dataclass(frozen=True)
class Batch:
    """B crops and T tokens of the views of each.

    Attributes:
        images: [B, 3, S, S] in [0, 1].
        lr_feats: [B, C, h, w], the backbone's own features of the crops.
        statistics: of the features, over the training crops.
        projection: [C, K], random directions for standardised features.
        offsets: [B * T, P, 2] in -1 to 1, positions in the tokens' windows (window edge to edge).
        positions: [B, T, P, 2], the same positions in the crops: (y, x) in 0 to 1.
        observed: [B * T, C], the tokens' standardised features.
    """

    images: Tensor
    lr_feats: Tensor
    statistics: Statistics
    projection: Tensor
    offsets: Tensor
    positions: Tensor
    observed: Tensor

    @cached_property
    def standardised(self) -> Tensor:
        """`lr_feats` [B, C, h, w] with mean 0 and variance 1."""
        return self.statistics.standardise(self.lr_feats)

    def project(self, features: Tensor) -> Tensor:
        """The directions [B, K, H, W] of standardised features [B, C, H, W]."""
        return torch.einsum("bchw,ck->bkhw", features, self.projection)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def measure_statistics(cache: FeatureCache, keys: Sequence[str]) -> Statistics:
    """Statistics of the first crops. A channel that hardly varies is scaled like one that varies a little."""
    tokens = torch.cat([cache.load(key).features[0].flatten(1).T.double() for key in keys[:STATISTICS_SAMPLES]])
    std = tokens.std(0, correction=0)
    return Statistics(tokens.mean(0).float(), std.clamp_min(1e-3 * float(std.mean()) + 1e-12).float())


@dataclass(frozen=True)
class Batches:
    """Draws batches from the cache.

    Attributes:
        cache: of the samples.
        keys: the training samples; `heldout` the held-out ones.
        statistics: of the training samples.
        config: settings.
        stride: pixels per token of the backbone.
        seed: seed of all draws.
    """

    cache: FeatureCache
    keys: Sequence[str]
    heldout: Sequence[str]
    statistics: Statistics
    config: TrainConfig
    stride: int
    seed: int

    @cached_property
    def half_window(self) -> Tensor:
        """Half sides [2] of a token's window, as `multiview.windows.half_window`."""
        return torch.tensor(half_window(self.config.kernel_size, self.stride, (self.cache.size, self.cache.size)))

    def training(self, step: int, members: range) -> Batch:
        """The crops `members` of the batch of a step, on the CPU."""
        chosen = []
        for member in members:
            generator = seeded_generator(self.seed, "crop", step, member)
            key = self.keys[int(torch.randint(len(self.keys), (), generator=generator))]
            sample = self.cache.load(key)
            height, width = sample.features.shape[2:]
            count = self.config.jitters * height * width or self.config.tokens
            offsets = stratified_offsets(count, self.config.positions, generator)
            if self.config.jitters:
                tokens = tokens_of_views(sample, self.config.jitters, generator)
            else:
                tokens = random_tokens(sample, 0, count, generator)
            chosen.append((sample, *self._observe(sample, tokens, offsets)))
        return self._assemble(chosen, self._projection(step))

    def check(self, index: int) -> Batch:
        """Held-out sample `index`: always the same tokens of its views, the crop itself left out."""
        sample = self.cache.load(self.heldout[index])
        offsets = lattice_offsets(CHECK_POSITIONS, torch.device("cpu")).expand(self.config.check_tokens, -1, -1)
        drawn = random_tokens(sample, 1, self.config.check_tokens, seeded_generator(0, "check", index))
        tokens = self._observe(sample, drawn, offsets)
        channels = sample.features.shape[1]
        if channels <= CHECK_PROJECTION:
            return self._assemble([(sample, *tokens)], torch.eye(channels))
        directions = torch.randn(channels, CHECK_PROJECTION, generator=seeded_generator(0, "check"))
        return self._assemble([(sample, *tokens)], directions / channels**0.5)

    def _projection(self, step: int) -> Tensor:
        channels = len(self.statistics.mean)
        if not self.config.projection:
            return torch.eye(channels)
        generator = seeded_generator(self.seed, "projection", step)
        return torch.randn(channels, self.config.projection, generator=generator) / channels**0.5

    def _observe(self, sample: Sample, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets [T, P, 2], positions in the crop [T, P, 2] and features [T, C] of (view, row, column) [T, 3]."""
        height, width = sample.features.shape[2:]
        view, row, col = tokens.unbind(1)
        inside = window_positions(row, col, offsets, (height, width), self.half_window)
        positions = sample.views.to_image(view[:, None].expand(offsets.shape[:2]), inside)
        observed = sample.features[view, :, row, col].float()
        return offsets, positions, (observed - self.statistics.mean) / self.statistics.std

    def _assemble(self, chosen: list[tuple[Sample, Tensor, Tensor, Tensor]], projection: Tensor) -> Batch:
        samples, offsets, positions, observed = zip(*chosen, strict=True)
        lr_feats = torch.stack([sample.features[0] for sample in samples]).float()
        return Batch(
            images=torch.stack([sample.image for sample in samples]).float() / 255,
            lr_feats=lr_feats,
            statistics=self.statistics,
            projection=projection,
            offsets=torch.cat(offsets),
            positions=torch.stack(positions),
            observed=torch.cat(observed),
        )


def random_tokens(sample: Sample, first_view: int, count: int, generator: torch.Generator) -> Tensor:
    """(view, row, column) of random tokens of the views from `first_view` on: int64 [count, 3]."""
    views, _, height, width = sample.features.shape
    ranges = ((first_view, views), (0, height), (0, width))
    return torch.stack([torch.randint(*range, (count,), generator=generator) for range in ranges], 1)


def tokens_of_views(sample: Sample, count: int, generator: torch.Generator) -> Tensor:
    """(view, row, column) of all tokens of `count` random views, without the crop itself: int64 [count * h * w, 3]."""
    views, _, height, width = sample.features.shape
    chosen = 1 + torch.randperm(views - 1, generator=generator)[:count]
    return torch.cartesian_prod(chosen, torch.arange(height), torch.arange(width))


def seed_of(*parts: object) -> int:
    """A seed that depends on all of its parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "little")


def seeded_generator(*parts: object) -> torch.Generator:
    """A CPU generator that starts the same way for the same parts."""
    return torch.Generator().manual_seed(seed_of(*parts))
