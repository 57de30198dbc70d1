"""The kernels of `range_taps`, and records beside the chosen ones."""

from __future__ import annotations

from typing import Any

from featup_kernels.operation import Case
from featup_kernels.range_taps import configs
from featup_kernels.range_taps.reference import range_taps_reference, spatial_logits

from benchmarks.gpu.tuned.kernel import Generator, Kernel, d_out, half, inputs


def forward_arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    keys, temperature, spatial = inputs(case, generator)
    return keys, temperature, spatial_logits(case.window // 2, spatial)


def backward_arguments(case: Case, generator: Generator) -> tuple[Any, ...]:
    keys, temperature, logits = forward_arguments(case, generator)
    return d_out(case, generator), range_taps_reference(keys, temperature, logits), keys, temperature


def forward_others(config: configs.ForwardConfig, case: Case) -> list[dict[str, int]]:
    return [
        {"tap_rows": 1},
        {"tap_rows": 1, "rows": config.rows * 2},
        {"rows": half(config.rows)},
        {"rows": config.rows * 2},
        {"block": config.block // 2},
        {"block": config.block * 2},
    ]


def backward_others(config: configs.BackwardConfig, case: Case) -> list[dict[str, int]]:
    return [
        {"channels": half(config.channels)},
        {"channels": config.channels * 2},
        {"block": config.block // 2},
        {"block": config.block * 2},
        {"inner_block": 128},
        {"inner_block": 512},
    ]


def forward_config(case: Case) -> configs.ForwardConfig:
    return configs.forward_config(case.window)


def backward_config(case: Case) -> configs.BackwardConfig:
    return configs.backward_config(case.channels)


NAME = "range_taps"
KERNELS = (
    Kernel(NAME, "forward", forward_arguments, forward_config, forward_others),
    Kernel(NAME, "backward", backward_arguments, backward_config, backward_others),
)
