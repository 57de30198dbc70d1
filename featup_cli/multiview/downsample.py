"""The two learned downsamplers: how a network pools high-resolution features into one token.

Source: FeatUp, section 3.1, equation 2 and figure 3. Both are evaluated at drawn positions of a token's window
instead of on a rendered map, so their cost does not depend on the picture's size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.multiview.lookup import sample_grid

KERNEL_CELLS = 15  # cells of the learned kernels along a side


def kernel_lookup(kernel: Tensor, offset: Tensor) -> Tensor:
    """Bilinear look-up of kernels [M, k, k] at offsets [..., 2] in -1 to 1 (window edge to edge): [..., M]."""
    if kernel.is_cuda:
        return ordered_lookup(kernel, offset)
    grid = offset.flip(-1).reshape(1, 1, -1, 2)
    values = F.grid_sample(kernel[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return values[0, :, 0].T.reshape(*offset.shape[:-1], len(kernel))


def ordered_lookup(kernel: Tensor, offset: Tensor) -> Tensor:
    """As `kernel_lookup`, with a gradient that is summed in a fixed order on a GPU too.

    There `grid_sample` sums it in any order, so the same seed would not give the same fit. On a CPU both are ordered.
    """
    return sample_grid(kernel, (offset.reshape(-1, 2) + 1) / 2).view(*offset.shape[:-1], len(kernel))


def gaussian_logits(side: int, width: float) -> Tensor:
    """Logits of a Gaussian of standard deviation `width`, in half windows: [side, side]."""
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    square = centres[:, None] ** 2 + centres**2
    return -0.5 * square / width**2


class SimpleDownsampler(nn.Module):
    """Learned blur kernel, non-negative and of sum one, the same for all channels and tokens.

    Args:
        side: cells of the kernel along a side.
        width: initial standard deviation in half windows.
    """

    def __init__(self, side: int, width: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(gaussian_logits(side, width))

    def weights(self, features: Tensor, offset: Tensor) -> Tensor:
        """Pooling weights [T, P] of the features [T, P, K] drawn at offsets [T, P, 2]; they sum to one over P."""
        return kernel_lookup(self.bias[None], offset)[..., 0].softmax(-1)

    def forward(self, features: Tensor, offset: Tensor) -> Tensor:
        """Pool [T, P, K], drawn at offsets [T, P, 2] of their windows, to tokens [T, K]."""
        return torch.einsum("tp,tpk->tk", self.weights(features, offset), features)


class AttentionDownsampler(SimpleDownsampler):
    """Spatially varying kernel: softmax of saliency times weight kernel plus bias kernel (equation 2).

    Saliency is a linear map of the high-resolution features, shared by all positions (a 1x1 convolution). Training
    drops saliencies at random with probability `dropout`; in eval mode the downsampler is deterministic.
    """

    def __init__(self, components: int, side: int, width: float, dropout: float = 0.2) -> None:
        super().__init__(side, width)
        self.weight = nn.Parameter(torch.ones(side, side))
        self.saliency = nn.Linear(components, 1)
        nn.init.zeros_(self.saliency.weight)
        nn.init.zeros_(self.saliency.bias)
        self.dropout = dropout

    def weights(self, features: Tensor, offset: Tensor) -> Tensor:
        """Pooling weights [T, P] of the features [T, P, K] drawn at offsets [T, P, 2]; they sum to one over P."""
        return self.weights_of(self.saliency(features)[..., 0], offset)

    def weights_of(self, salience: Tensor, offset: Tensor) -> Tensor:
        """As `weights`, of saliencies [T, P] instead of features."""
        salience = F.dropout(salience, self.dropout, self.training)
        kernels = kernel_lookup(torch.stack((self.weight, self.bias)), offset)
        return (salience * kernels[..., 0] + kernels[..., 1]).softmax(-1)


def make_downsampler(kind: str, components: int, width: float) -> SimpleDownsampler:
    """The downsampler of `components` channels that a setting names, `simple` or `attention`."""
    if kind == "attention":
        return AttentionDownsampler(components, KERNEL_CELLS, width)
    return SimpleDownsampler(KERNEL_CELLS, width)
