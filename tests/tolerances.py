"""How far a result may be from the float64 reference, per dtype: the tables that every test of them uses.

The reference is evaluated in float64 on the same (rounded) inputs, so what remains is the error of the computation:

- float64: the order of the sums differs; nothing else does.
- float32: hundreds of products of size 1 are summed, each rounded to 6e-8 of the running sum.
- float16, bfloat16: summed in float32, so the last rounding of the output dominates: half a unit in the last place is
  4.9e-4 and 3.9e-3 of it. Gradients that pass through a stored half-precision result pay for it several times. The
  gradient of a scalar sums over n such results, whose errors are independent: it may be off sqrt(n) times as much.

Whole upsamplers have a table of their own, `UPSAMPLING`:

- float64: as above; what float32 parameters make of float64 features is held to float32.
- float32: similarities are multiplied by up to some thousands before a softmax (jbu), and their last digit with them.
- float16, bfloat16: maps are rounded on the way (features, guidance, weights and the result of each stage), each time
  by half a unit in the last place: the table has room for twelve of these. Statistics, similarities or coordinates in
  a half type are off by more than that.
"""

from __future__ import annotations

import torch

TOLERANCES: dict[torch.dtype, tuple[float, float]] = {  # (rtol, atol)
    torch.float64: (1e-9, 1e-11),
    torch.float32: (1e-5, 1e-4),
    torch.float16: (4e-3, 4e-3),
    torch.bfloat16: (3.2e-2, 3.2e-2),
}

UPSAMPLING: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: TOLERANCES[torch.float64],
    torch.float32: (1e-5, 5e-4),
    torch.float16: (6e-3, 6e-3),
    torch.bfloat16: (4.8e-2, 4.8e-2),
}


def assert_close(
    actual: torch.Tensor,
    exact: torch.Tensor,
    dtype: torch.dtype,
    name: str = "result",
    terms: int = 1,
    table: dict[torch.dtype, tuple[float, float]] = TOLERANCES,
) -> None:
    """Raise AssertionError, naming the tensor, unless `actual` (computed in `dtype`) is close to the float64 `exact`.

    `terms` is the number of stored results that a scalar is the sum of; `table` one of the tables above.
    """
    rtol, atol = table[dtype]
    if dtype.itemsize == 2:
        atol *= terms**0.5
    torch.testing.assert_close(
        actual.detach().double().cpu(), exact.detach(), rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}"
    )
