"""What to measure, without torch, so that `featup bench --help` loads none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from featup_cli.core.errors import UsageError

OPERATIONS = ("adaptive_conv", "neighbor_mix", "range_taps", "resampled_conv")
SCALED = ("neighbor_mix", "resampled_conv")  # those whose source has another size than the output
SUITES = ("table6", "upsamplers", "pipeline")
BACKENDS = ("auto", "triton", "cpu", "reference")
BASELINES = ("reference", "loop", "compile", "bilinear")
EXTRA_BASELINES = ("torchscript", "flex")
"""Baselines that run only if they are named: they take long, or serve one operation."""
DEFAULT_WINDOW = 5
DEFAULT_SCALE = 16


@dataclass(frozen=True)
class Case:
    """One call of one operation.

    Attributes:
        batch, height, width, channels: of the output; for `range_taps`, `channels` is the size of the keys.
        window: side k of the window, odd.
        operation: one of `OPERATIONS`.
        scale: output pixels per low-resolution pixel, for those of `SCALED`.
        dtype: float32, float16 or bfloat16.
        backward: time the gradients instead of the forward pass.
    """

    batch: int
    height: int
    width: int
    channels: int
    window: int = DEFAULT_WINDOW
    operation: str = "adaptive_conv"
    scale: int = DEFAULT_SCALE
    dtype: str = "float32"
    backward: bool = False

    def __post_init__(self) -> None:
        if self.operation in SCALED and (self.height % self.scale or self.width % self.scale):
            raise UsageError(
                f"--scale {self.scale}: {self.height}x{self.width} is no multiple; give another --scale or --shape"
            )

    @property
    def shape(self) -> str:
        """Batch x height x width x channels x window, as `--shape` takes it."""
        return "x".join(str(n) for n in (self.batch, self.height, self.width, self.channels, self.window))

    @property
    def direction(self) -> str:
        """`forward` or `backward`."""
        return "backward" if self.backward else "forward"


@dataclass(frozen=True)
class Settings:
    """A benchmark: one case or one suite, and how to measure.

    Attributes:
        case: what to measure; None with a suite.
        suite: one of `SUITES`; None with a case.
        dtype: number format of the suites.
        device: `auto`, `cpu`, `cuda`, ...
        backend: of the kernels; one of `BACKENDS`.
        repeat: timed calls.
        budget_s: seconds for each measurement; a call that takes longer is timed once.
        threads: CPU threads; None leaves PyTorch's choice.
        baselines: those of `BASELINES` and `EXTRA_BASELINES` to run beside the kernel.
        seed: of the random inputs.
    """

    case: Case | None = None
    suite: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    backend: str = "auto"
    repeat: int = 20
    budget_s: float = 5.0
    threads: int | None = None
    baselines: tuple[str, ...] = BASELINES
    seed: int = 0


def parse_shape(text: str) -> tuple[int, int, int, int, int]:
    """`BATCHxHEIGHTxWIDTHxCHANNELS[xWINDOW]` as numbers, the window 5 if it isn't given.

    Raises:
        UsageError: another form, a zero, or an even window.
    """
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3,4}", text):
        raise UsageError(
            f"--shape {text}: expected BATCHxHEIGHTxWIDTHxCHANNELS, all above 0, and maybe xWINDOW: 64x224x224x3x5"
        )
    numbers = [int(n) for n in text.split("x")]
    batch, height, width, channels, window = (*numbers, DEFAULT_WINDOW)[:5]
    if window % 2 == 0:
        raise UsageError(f"--shape {text}: the window must be odd, not {window}")
    return batch, height, width, channels, window


def parse_baselines(text: str) -> tuple[str, ...]:
    """`all` (`BASELINES`), `none`, or comma-separated names, which may be `EXTRA_BASELINES` too.

    Raises:
        UsageError: an unknown name.
    """
    if text in ("all", "none"):
        return BASELINES if text == "all" else ()
    names = tuple(text.split(","))
    known = (*BASELINES, *EXTRA_BASELINES)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"--baselines {text}: no {unknown[0]!r}; choose all, none, or from {', '.join(known)}")
    return names
