"""A network behind the call that all upsamplers share, with where its weights come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from featup_cli.core.errors import ShapeError
from featup_cli.core.shapes import Size
from featup_cli.ops.replay import ReplayedCalls
from featup_cli.upsamplers.api import Details, UpsamplerModule, as_size, check_inputs, is_linear
from featup_cli.upsamplers.guidance import like_features


class PretrainedUpsampler:
    """A network without gradients behind the call that all share (`Upsampler`); it follows the features' device.

    On a CUDA GPU, calls of a `replayable` network that repeat with the same shapes are replays (`ops/replay.py`).

    Attributes:
        module: the network, in eval mode.
        replayed: its calls.
        provenance: file, SHA-256, method, config and backbone of the weights, as JSON values.
        linear_in_features: the result is one linear map of every channel.
    """

    def __init__(self, module: UpsamplerModule, provenance: dict[str, Any], notes: list[str]) -> None:
        self.module = module.eval()
        self.provenance = provenance
        self.linear_in_features = is_linear(module)
        self.details = Details(notes=notes)
        self.replayed = ReplayedCalls(self._run, self._weights)

    @torch.no_grad()
    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: Size | int) -> Tensor:
        """Upsample [B, C, h, w] to [B, C, *output_size]; arguments and errors as for every `Upsampler`."""
        size = as_size(output_size)
        module = self._module_for(image, lr_feats, size)
        picture = self._picture_for(image, lr_feats)
        if module.replayable:
            return self.replayed((picture, lr_feats), tuple(size))
        return self._run(picture, lr_feats, size)

    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: Size | int, rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        """The result of the call in bands of rows; see `RowUpsampler.bands`."""
        size = as_size(output_size)
        module = self._module_for(image, lr_feats, size)
        yield from module.bands(self._picture_for(image, lr_feats), lr_feats, size, rows, start)

    def band_bytes(self, lr_shape: Sequence[int], output_size: Size, rows: int) -> int:
        """As the network itself estimates."""
        return self.module.band_bytes(lr_shape, output_size, rows)

    def _run(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> Tensor:
        out: Tensor = self.module(image, lr_feats, output_size)
        return out

    def _picture_for(self, image: Tensor, lr_feats: Tensor) -> Tensor:
        return image.to(lr_feats.device) if self.module.any_picture else like_features(image, lr_feats)

    def _weights(self) -> Iterable[Tensor]:
        return chain(self.module.parameters(), self.module.buffers())

    def _module_for(self, image: Tensor, lr_feats: Tensor, output_size: Size) -> UpsamplerModule:
        """The network, on the features' device, once the arguments are checked."""
        check_inputs(image, lr_feats, output_size)
        channels = self.provenance["config"].get("channels")  # none: any number will do
        if channels is not None and lr_feats.shape[1] != channels:
            raise ShapeError(f"lr_feats must be [B, {channels}, h, w] for this upsampler, not {list(lr_feats.shape)}")
        return self.module.to(lr_feats.device)
