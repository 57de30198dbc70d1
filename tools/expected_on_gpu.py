"""What the GPU kernels should reach on an H100 SXM, worked out without one: prints the tables of docs/gpu.md.

python tools/expected_on_gpu.py [--no-registers]

Bytes and operations follow from shapes, loads from the loops of the kernels, programs from the launch configurations
that would be used. Registers are those of Triton's compiler and ptxas, which need no GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from featup_kernels.adaptive_conv import configs as adaptive_conv
from featup_kernels.launch import ceil_div
from featup_kernels.range_taps import configs as range_taps
from featup_kernels.resampled_conv import configs as resampled_conv

from featup_cli.benchmarking.table6 import ROWS
from featup_cli.upsamplers.jbu.plan import grid_sizes

COPY = 2.8e12  # bytes a second that a large copy reaches, of 3.35e12
FLOPS = 67e12  # float32, without tensor cores
SMS = 132
LOADS = 67e12 / 256  # a second of 32 threads each: one a clock and multiprocessor, which has 128 multiply-adds a clock
LAUNCH_US = 5.0
REGISTERS, THREADS, PROGRAMS = 65536, 2048, 32  # of a multiprocessor
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Work:
    """One launch.

    Attributes:
        name: of the row.
        moved: bytes, every input read once and every result written once.
        flops: floating-point operations that the kernel does.
        loads: loads and stores of a thread.
        tile: pixels x channels of a thread.
        threads: of a program.
        programs: of the launch.
        code: the kernel and its constants, to compile.
    """

    name: str
    moved: float
    flops: float
    loads: float
    tile: str
    threads: int
    programs: int
    code: tuple[str, str, tuple[tuple[str, Any], ...]]

    def microseconds(self) -> dict[str, float]:
        """What each limit asks for; the busiest multiprocessor counts."""
        uneven = ceil_div(self.programs, SMS) * SMS / self.programs
        loads = self.loads * self.programs * self.threads / 32
        return {
            "memory": 1e6 * self.moved / COPY,
            "loads": 1e6 * loads / LOADS * uneven,
            "arithmetic": 1e6 * self.flops / FLOPS * uneven,
            "launch": LAUNCH_US,
        }


def filter_work(name: str, kernel: str, shape: tuple[int, ...], moved: float, flops: float, k: int) -> Work:
    """Forward or d_source of `adaptive_conv`, for a result of this shape [B, C, H, W]."""
    config = adaptive_conv.filter_config(shape[1], shape[2], k)
    rows, at_once = config.rows, config.channels
    loads = (k + rows - 1) * k * at_once + k * k * rows + rows * at_once
    constants = {"K": k, "ROWS": rows, "CHANNELS": at_once, "BLOCK": config.block, "PARTS": config.parts}
    return Work(
        name, moved, flops, loads, f"{rows}x{at_once}", config.threads, config.programs(*shape),
        ("adaptive_conv", f"_adaptive_conv_{kernel}_kernel", tuple(constants.items())),
    )  # fmt: skip


def table6_work() -> Iterator[Work]:
    """Forward and both gradients of the paper's eight rows."""
    for row in ROWS:
        case = row.case(backward=False)
        batch, channels, height, width, k = case.batch, case.channels, case.height, case.width, case.window
        out = batch * channels * height * width
        source = batch * channels * (height + k - 1) * (width + k - 1)
        taps = batch * k * k * height * width
        moved, flops = FLOAT * (source + taps + out), 2 * k * k * out
        yield filter_work(f"{case.shape} out", "forward", (batch, channels, height, width), moved, flops, k)
        padded = (batch, channels, height + k - 1, width + k - 1)
        yield filter_work(f"{case.shape} d_source", "d_source", padded, moved, flops, k)
        config = adaptive_conv.taps_config(batch, channels, height, width, k)
        tap_rows, rows = config.tap_rows, config.rows
        loads = ceil_div(channels, config.parts) * (rows + (tap_rows + rows - 1) * k) + tap_rows * k * rows
        constants = {"K": k, "TAP_ROWS": tap_rows, "ROWS": rows, "BLOCK": config.block, "PARTS": config.parts}
        yield Work(
            f"{case.shape} d_taps", moved, flops, loads, f"{rows}x1", config.threads,
            config.programs(batch, k, height, width),
            ("adaptive_conv", "_adaptive_conv_d_taps_kernel", tuple(constants.items())),
        )  # fmt: skip


def jbu_work(lr_size: tuple[int, int], output_size: tuple[int, int], channels: int) -> Iterator[Work]:
    """The stages of JBU: 7 x 7 weights of keys of 32 channels, and the filter on the bicubic resizing."""
    k, keys = 7, 32
    low = lr_size
    for size in grid_sizes(lr_size, output_size):
        pixels = size[0] * size[1]
        padded = (size[0] + k - 1) * (size[1] + k - 1)
        weigh = range_taps.forward_config(k)
        loads = keys * (weigh.rows + (weigh.tap_rows + weigh.rows - 1) * k) + k * k * (1 + weigh.rows)
        constants = {"K": k, "TAP_ROWS": weigh.tap_rows, "ROWS": weigh.rows, "BLOCK": weigh.block}
        yield Work(
            f"{size[0]}x{size[1]} range_taps", FLOAT * (keys * padded + k * k * pixels), 2 * k * k * keys * pixels,
            loads, f"{weigh.rows}x1", weigh.block, weigh.blocks(1, *size),
            ("range_taps", "_range_taps_forward_kernel", tuple(constants.items())),
        )  # fmt: skip
        yield resampled_work(f"{size[0]}x{size[1]} resampled_conv", channels, low, size, k)
        low = size


def resampled_work(name: str, channels: int, low: tuple[int, int], size: tuple[int, int], k: int) -> Work:
    """`resampled_conv` with bicubic resizing."""
    terms = 4
    config = resampled_conv.forward_config(1, channels, low, size, k, (terms, terms))
    rows, down, across = config.rows, config.down, config.across
    moved = FLOAT * (channels * low[0] * low[1] + (k * k + channels) * size[0] * size[1])
    # Once for each program: the taps, and the cells and weights of both axes; then the cells, for each channel.
    spans, shares = (k + rows - 1) * terms + k * terms, 2 * terms * (k + k * rows)
    of_channel = down * across + rows
    programs = config.programs(1, channels, *size)
    taken = min(channels, config.chunk)
    spread = rows * k * across * (k + down)
    flops = 2 * programs * config.block * (spread + taken * rows * down * across)
    constants = {
        "K": k, "ROW_TERMS": terms, "COLUMN_TERMS": terms, "ROWS": rows, "DOWN": down, "ACROSS": across,
        "CHANNELS": config.channels, "CHUNK": config.chunk, "BLOCK": config.block,
    }  # fmt: skip
    return Work(
        name, moved, flops, spans + shares + k * k * rows + taken * of_channel, f"{rows}x{taken}", config.block,
        programs, ("resampled_conv", "_resampled_conv_forward_kernel", tuple(constants.items())),
    )  # fmt: skip


def two_steps(channels: int, low: tuple[int, int], size: tuple[int, int], k: int = 7) -> float:
    """Bytes that resizing, padding and `adaptive_conv` move, each reading its inputs and writing its result once."""
    fine = channels * size[0] * size[1]
    padded = channels * (size[0] + k - 1) * (size[1] + k - 1)
    return FLOAT * ((channels * low[0] * low[1] + fine) + (fine + padded) + (padded + k * k * size[0] * size[1] + fine))


@cache
def registers(code: tuple[str, str, tuple[tuple[str, Any], ...]], threads: int) -> tuple[int, int]:
    """Registers of a thread, and bytes that it keeps in memory for want of them, as compiled for an H100 (sm_90)."""
    import importlib

    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    operation, name, constants = code
    kernel = getattr(importlib.import_module(f"featup_kernels.{operation}.triton_impl"), name)
    known = dict(constants) | {"ACC": tl.float32}

    def kind(argument: str) -> str:
        if argument in known:
            return "constexpr"
        return ("*i64" if "cells" in argument else "*fp32") if argument.endswith("_ptr") else "i32"

    signature = {argument: kind(argument) for argument in kernel.arg_names}
    source = ASTSource(kernel, signature, known)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": threads // 32})
    tool = next((Path(triton.__file__).parent / "backends" / "nvidia").rglob("cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", report)
    assert found is not None, report
    return int(found[1]), int(found[2])


def occupancy(work: Work, count: int) -> float:
    """Share of a multiprocessor's threads that can run at once; fewer do where there are fewer programs."""
    allocated = ceil_div(count, 8) * 8 * work.threads
    fitting = min(REGISTERS // allocated, THREADS // work.threads, PROGRAMS, ceil_div(work.programs, SMS))
    return fitting * work.threads / THREADS


HEADER = (
    "| kernel | MB | GFLOP | FLOP/B | memory, µs | loads | arith. | binds | tile | programs | regs | occ. | share |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: |",
)


def short(number: float) -> str:
    """Two digits at least, without an exponent."""
    return f"{number:.0f}" if number >= 100 else f"{number:.2g}"


def line(work: Work, compiled: bool) -> str:
    """A row of the table."""
    limits = work.microseconds()
    binds = max(limits, key=lambda name: limits[name])
    count, spilled = registers(work.code, work.threads) if compiled else (0, 0)
    kept = f"{count}+{spilled // 4}" if spilled else f"{count}"
    cells = (
        work.name, short(1e-6 * work.moved), short(1e-9 * work.flops), short(work.flops / work.moved),
        *(short(limits[name]) for name in ("memory", "loads", "arithmetic")), binds, f"{work.tile}, {work.threads}",
        f"{work.programs}", kept if compiled else "-", f"{occupancy(work, count):.0%}" if compiled else "-",
        f"{limits['memory'] / limits[binds]:.0%}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--no-registers", action="store_true", help="compile nothing")
    compiled = not parser.parse_args().no_registers
    print("Table 6, float32\n", *HEADER, sep="\n")
    for work in table6_work():
        print(line(work, compiled))
    for lr_size, size in (((14, 14), (224, 224)), ((28, 28), (448, 448))):
        print(f"\nJBU, {lr_size[0]}x{lr_size[1]}x384 to {size[0]}x{size[1]}, float32\n", *HEADER, sep="\n")
        stages = list(jbu_work(lr_size, size, 384))
        for work in stages:
            print(line(work, compiled))
        slowest = sum(max(work.microseconds().values()) for work in stages)
        low, unfused, fused = lr_size, 0.0, 0.0
        for grid in grid_sizes(lr_size, size):
            unfused += two_steps(384, low, grid)
            fused += resampled_work("", 384, low, grid, 7).moved
            low = grid
        print(
            f"\nAll stages: {slowest:.0f} µs. The filters move {1e-6 * fused:.0f} MB; in two steps "
            f"{1e-6 * unfused:.0f} MB ({unfused / fused:.1f} times)."
        )


if __name__ == "__main__":
    main()
