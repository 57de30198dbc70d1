"""The kernels go through Triton's compiler and ptxas, which need no GPU; the interpreter accepts what they don't."""

from __future__ import annotations

import importlib
import os
from dataclasses import asdict
from typing import Any

import pytest
from featup_kernels.dispatch import OLDEST_TRITON, _triton_version
from featup_kernels.operation import Case

from benchmarks.gpu.tuning import KERNELS

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(_triton_version() < OLDEST_TRITON, reason="its compiler knows no tuples"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes the compiler's place"),
]

# What a launch adds to its configuration, by name of the kernel; neighbor_mix shares rows of two cells.
OTHER = {
    "_adaptive_conv_forward_kernel": {},
    "_adaptive_conv_d_source_kernel": {},
    "_adaptive_conv_d_taps_kernel": {},
    "_neighbor_mix_forward_kernel": {"SPAN": 5},
    "_neighbor_mix_d_source_kernel": {},
    "_neighbor_mix_d_taps_kernel": {"SPAN": 5},
    "_range_taps_forward_kernel": {},
    "_resampled_conv_forward_kernel": {"ROW_TERMS": 4, "COLUMN_TERMS": 4},
}


@pytest.mark.parametrize("data", ["fp32", "fp16"])
@pytest.mark.parametrize("name", [name for name in KERNELS if name != "range_taps.backward"])
def test_the_default_compiles(name: str, data: str) -> None:
    operation, function = name.split(".")
    kernel_name = f"_{operation}_{function}_kernel"
    config = KERNELS[name].default(Case(2, 32, 32, 8, 3, operation, scale=8))
    constants: dict[str, Any] = {field.upper(): value for field, value in asdict(config).items()}
    constants |= {"K": 3, "ACC": triton.language.float32, "OFFSET": triton.language.int32} | OTHER[kernel_name]
    assert _compile(operation, kernel_name, constants, config.threads, data)


@pytest.mark.parametrize("kernel", ["inner", "d_keys"])
def test_the_default_of_the_backward_kernels_compiles(kernel: str) -> None:
    config = KERNELS["range_taps.backward"].default(Case(2, 32, 32, 8, 3, "range_taps"))
    inner, d_keys = (config.inner_block, config.inner_threads), (config.block, config.threads)
    block, threads = inner if kernel == "inner" else d_keys
    constants = {"K": 3, "CHANNELS": config.channels, "BLOCK": block, "ACC": triton.language.float32}
    assert _compile("range_taps", f"_range_taps_{kernel}_kernel", constants, threads, "fp32")


def _compile(operation: str, name: str, constants: dict[str, Any], threads: int, data: str) -> bytes:
    """Machine code for an H100 (sm_90), of pointers to `data`."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"featup_kernels.{operation}.triton_impl"), name)
    known = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {}
    for argument in kernel.arg_names:
        pointer = "*i64" if "cells" in argument else f"*{data}"
        signature[argument] = "constexpr" if argument in known else pointer if argument.endswith("_ptr") else "i32"
    source = ASTSource(kernel, signature, known)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": threads // 32})
    return compiled.asm["cubin"]
