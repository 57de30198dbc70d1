"""Where tokens and what is pooled into them come from."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from featup_cli.multiview.lookup import sample_grid
from featup_cli.multiview.windows import AllWindows, cell_centres, half_window, window_positions
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.implicit.observe import Observations

HELDOUT_TOKENS = 800


class TokenSampler:
    """Draws tokens and the positions inside their windows.

    Args:
        observations: the views and what was seen in them.
        picture: [3, H, W], the colours at the network's input size.
        stride: pixels per token.
        config: kernel size and pooling.

    Attributes:
        side: of a window, in whole pixels.
    """

    def __init__(self, observations: Observations, picture: Tensor, stride: int, config: ImplicitConfig) -> None:
        self.observations = observations
        self.picture = picture
        self.config = config
        self.grid = (observations.tokens.shape[2], observations.tokens.shape[3])
        height, width = picture.shape[1:]
        # What a step needs lies on the device before the first one.
        self.views = observations.views.to(picture.device)
        kernel_size, stride = config.kernel_size, stride if config.scale_kernel else 16
        self.side = max(1, round(kernel_size * stride / 16))
        if config.pooling != "sampled":  # whole pixels are pooled
            kernel_size, stride = self.side, 16
        self.half_window = picture.new_tensor(half_window(kernel_size, stride, (height, width)))
        self.pixel_steps = picture.new_tensor([[1 / height, 0.0], [0.0, 1 / width]])
        if config.pooling == "dense":
            self.pixels, self.windows  # noqa: B018

    def positions(self, view: Tensor, row: Tensor, col: Tensor, offset: Tensor) -> Tensor:
        """Positions in the picture of offsets [T, P, 2] (-1 to 1, window edge to edge) around tokens [T]: [T, P, 2]."""
        inside = window_positions(row, col, offset, self.grid, self.half_window)
        return self.views.to_image(view[:, None].expand(offset.shape[:2]), inside)

    def colors(self, position: Tensor) -> Tensor:
        """Colours [N, 3] at positions [N, 2]."""
        return sample_grid(self.picture, position)

    def observed(self, view: Tensor, row: Tensor, col: Tensor) -> Tensor:
        """Observed tokens [T, K]."""
        return self.observations.tokens[view, :, row, col]

    def draw(
        self, views: range, count: int, generator: torch.Generator, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """View, row and column [count] of random tokens of `views`; `device` is the generator's (the picture's)."""
        ranges, device = ((views.start, views.stop), *((0, n) for n in self.grid)), device or self.picture.device
        view, row, col = (torch.randint(*r, (count,), generator=generator, device=device) for r in ranges)
        return view, row, col

    @cached_property
    def heldout(self) -> tuple[Tensor, Tensor, Tensor]:
        """View, row and column of the tokens that score: the same on every device, as the CPU draws them."""
        views = range(self.observations.fitted, len(self.observations.views))
        generator, device = torch.Generator().manual_seed(0), self.picture.device
        view, row, col = self.draw(views, HELDOUT_TOKENS, generator, generator.device)
        return view.to(device), row.to(device), col.to(device)

    @cached_property
    def pixels(self) -> tuple[Tensor, Tensor]:
        """Positions [N, 2] and colours [N, 3] of all pixels of the network's input."""
        _, height, width = self.picture.shape
        position = cell_centres(height, width, self.picture.device).flatten(0, 1)
        return position, self.picture.flatten(1).T.contiguous()

    @cached_property
    def windows(self) -> AllWindows:
        """All windows of a view."""
        return AllWindows(self.grid, (self.picture.shape[1], self.picture.shape[2]), self.side, self.picture.device)
