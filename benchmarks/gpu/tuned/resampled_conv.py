"""The kernel of `resampled_conv`, and records beside the chosen one."""

from __future__ import annotations

from typing import Any

import torch
from featup_kernels.operation import Case
from featup_kernels.resampled_conv import configs
from featup_kernels.resampled_conv.cases import axes

from benchmarks.gpu.tuned.kernel import Generator, Kernel, half, inputs


def arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    source, taps = inputs(case, generator)
    return source, taps, *(tensor for axis in axes(case, source) for tensor in axis)


def forward_config(case: Case) -> configs.ForwardConfig:
    itemsize = max(4, getattr(torch, case.dtype).itemsize)
    return configs.forward_config(case.batch, case.channels, case.lr_size, case.size, case.window, (4, 4), itemsize)


def others(config: configs.ForwardConfig, case: Case) -> list[dict[str, int]]:
    """Fewer or more rows, cells, channels and threads."""
    down, across = min(config.down + 1, case.lr_size[0]), min(config.across + 1, case.lr_size[1])
    return [
        {"rows": half(config.rows)},
        {"rows": config.rows * 2},
        {"down": max(1, config.down - 1)},  # fits where groups of rows begin well
        {"down": down, "across": across},
        {"channels": config.channels * 2},
        {"chunk": config.chunk * 2},
        {"chunk": max(config.channels, config.chunk // 2)},
        {"block": config.block // 2},
    ]


KERNELS = (Kernel("resampled_conv", "forward", arguments, forward_config, others),)
