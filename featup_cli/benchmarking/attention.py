"""`adaptive_conv` in FlexAttention: attention over a window, with the taps as scores."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from featup_kernels.operation import Case
from torch import Tensor

from featup_cli.core.errors import UsageError

BLOCK = 128  # queries and keys of a block, FlexAttention's own default
LEAST_WIDTH = 16  # of a head: smaller ones are padded, and others to the next power of two


def flex_filter(case: Case, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of source [B, C, H + k - 1, W + k - 1] and taps [B, k * k, H, W] that gives [B, C, H, W].

    The softmax of their logarithms reproduces taps that are positive and sum to one; no others.

    Raises:
        UsageError: a backward case; scores that are looked up have no gradient here.
    """
    if case.backward:
        raise UsageError("FlexAttention is measured forward only")
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    k, height, width = case.window, case.height, case.width
    source_width, source_pixels = width + k - 1, (height + k - 1) * (width + k - 1)

    def tap(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return key // source_width - query // width, key % source_width - query % width

    def in_window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        dy, dx = tap(query, key)
        return (dy >= 0) & (dy < k) & (dx >= 0) & (dx < k)

    counts, blocks = window_blocks(case)
    mask = BlockMask.from_kv_blocks(
        counts[None, None].to(device), blocks[None, None].to(device), BLOCK_SIZE=BLOCK, mask_mod=in_window,
        seq_lengths=(height * width, source_pixels),
    )  # fmt: skip
    attend = torch.compile(flex_attention, dynamic=False) if device.type == "cuda" else flex_attention
    head = max(LEAST_WIDTH, 1 << (case.channels - 1).bit_length())
    query = torch.zeros(case.batch, 1, height * width, LEAST_WIDTH, device=device)
    key = torch.zeros(case.batch, 1, source_pixels, LEAST_WIDTH, device=device)

    def function(source: Tensor, taps: Tensor) -> Tensor:
        logits = taps.flatten(2).log()

        def score(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            dy, dx = tap(query, key)
            return score + logits[batch, (dy * k + dx).clamp(0, k * k - 1), query]

        value = F.pad(source.flatten(2).mT, (0, head - case.channels))[:, None]
        out = attend(query.to(source), key.to(source), value, score_mod=score, block_mask=mask)
        return out[:, 0, :, : case.channels].mT.reshape(case.batch, case.channels, height, width)

    return function


def window_blocks(case: Case) -> tuple[Tensor, Tensor]:
    """For each block of output pixels how many blocks of source pixels its windows reach, and which, those first.

    Returns:
        int32 [Q] and [Q, K], pixels numbered row by row.
    """
    k, width, source_width = case.window, case.width, case.width + case.window - 1
    pixels, source_pixels = case.height * width, (case.height + k - 1) * source_width
    starts = torch.arange(0, pixels, BLOCK)
    top, bottom = starts // width, (starts + BLOCK - 1).clamp(max=pixels - 1) // width + k - 1
    # Whole rows of the source: the windows of a block of 128 pixels reach most of the columns of narrow pictures.
    first, last = top * source_width // BLOCK, ((bottom + 1) * source_width - 1) // BLOCK
    count = (last - first + 1).to(torch.int32)
    blocks = -(-source_pixels // BLOCK)
    return count, ((first[:, None] + torch.arange(blocks)) % blocks).to(torch.int32)
