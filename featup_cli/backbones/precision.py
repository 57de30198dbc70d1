"""The number format that a backbone computes in: as requested, or the fastest that keeps its features accurate."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from featup_cli.backbones.config import PRECISIONS
from featup_cli.core.errors import PrecisionError, UsageError

Network = Callable[[Tensor], Tensor]

EXACT = "float32"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
MOST_ERROR = 0.01  # that `auto` accepts: RMS of the difference to float32 as a share of the RMS of the features
# "DINOv3 doesn't support FP16" (github.com/facebookresearch/dinov3, issue 181); its own settings compute in bfloat16.
_OVERFLOWING_MODELS = ("dinov3",)


@dataclass(frozen=True)
class Decision:
    """The number format that runs, and why.

    Attributes:
        precision: `float32`, `bfloat16` or `float16`.
        reason: why, for people.
        errors: of the formats that were tried, RMS of the difference to float32 over the RMS of the float32 features;
            None where they are not finite.
    """

    precision: str
    reason: str
    errors: dict[str, float | None] = field(default_factory=dict)


class Precision:
    """The number format of one loaded backbone. `auto` is decided once, on the first picture that it sees.

    Args:
        asked: a value of `PRECISIONS`.
        device: where the backbone runs.
        model: names of the model, to recognise those that overflow.
    Raises:
        UsageError: an unknown format, or one that the device can't compute in.
    """

    def __init__(self, asked: str, device: torch.device, model: str = "") -> None:
        if asked not in PRECISIONS:
            raise UsageError(f"precision {asked}: choose from {', '.join(PRECISIONS)}")
        if asked in DTYPES and not computes_in(device, asked):
            raise UsageError(f"--precision {asked}: not supported on {device}; give --precision float32 or auto")
        self.asked = asked
        self.overflows = any(name in model for name in _OVERFLOWING_MODELS)
        self.decision: Decision | None = None
        if asked != "auto":
            self.decision = Decision(asked, "as asked")
        elif not is_accelerator(device):
            self.decision = Decision(EXACT, "auto: lower precision is not faster on a CPU")
        self.request = self.decision.precision if self.decision else asked
        self._lock = threading.Lock()

    def run(self, network: Network, pixels: Tensor, judge: Network) -> Tensor:
        """Run a network on pictures.

        Args:
            network: the one to run; of the same weights as `judge`.
            pixels: [B, 3, H, W], normalised float32.
            judge: gives the features that decide `auto`.
        Returns:
            [B, ...]. With `auto`, a picture that overflows runs again in float32.
        Raises:
            PrecisionError: the features overflow the requested format.
            UsageError: the device lacks an operation of the network in the requested format.
        """
        precision = self.decide(judge, pixels[:1]).precision
        try:
            out = compute(network, pixels, precision)
        except NotImplementedError as error:
            raise UsageError(
                f"--precision {precision}: {pixels.device.type} lacks an operation of this network in it ({error}); "
                "give --precision float32"
            ) from None
        if precision == EXACT:
            return out
        lost = ~out.flatten(1).isfinite().all(1)
        if not lost.any():
            return out
        if self.asked != "auto":
            others = "bfloat16 or float32" if precision == "float16" else EXACT
            first = int(lost.nonzero()[0])
            raise PrecisionError(f"features in {precision} are not finite; give --precision {others}", first)
        out = out.float()
        out[lost] = compute(network, pixels[lost], EXACT).float()
        return out

    def decide(self, judge: Network, pixels: Tensor) -> Decision:
        """The decision; if there is none yet, by the features of one picture [1, 3, H, W]."""
        with self._lock:
            if self.decision is None:
                self.decision = self._try(judge, pixels)
            return self.decision

    def _try(self, judge: Network, pixels: Tensor) -> Decision:
        exact = compute(judge, pixels, EXACT).float()
        errors: dict[str, float | None] = {}
        found = ["float16 is skipped, as this model overflows in it"] if self.overflows else []
        for precision in ("bfloat16",) if self.overflows else ("float16", "bfloat16"):
            try:
                features = compute(judge, pixels, precision) if computes_in(pixels.device, precision) else None
            except NotImplementedError:  # an operation of the network that the device lacks
                features = None
            if features is None:
                found.append(f"{pixels.device.type} can't compute it in {precision}")
                continue
            error = errors[precision] = relative_error(features, exact)
            if error is None:
                found.append(f"{precision} is not finite on the first picture")
                continue
            found.append(f"{precision} is {error:.2%} from float32 on the first picture")
            if error <= MOST_ERROR:
                found.append("a picture that overflows runs in float32")
                return Decision(precision, f"auto: {'; '.join(found)}", errors)
        return Decision(EXACT, f"auto: {'; '.join(found)}; at most {MOST_ERROR:.0%} is accepted", errors)

    def describe(self) -> dict[str, Any]:
        """The requested format, the one that runs (None before the first picture) and the reason, as JSON values."""
        known = self.decision
        return {
            "precision": known.precision if known else None,
            "precision_choice": {
                "asked": self.asked, "reason": known.reason if known else "auto: no picture seen yet",
                "errors": known.errors if known else {},
            },
        }  # fmt: skip


def is_accelerator(device: torch.device) -> bool:
    """Whether lower precision than float32 may be faster there, so that `auto` tries it."""
    return device.type != "cpu"


def computes_in(device: torch.device, precision: str) -> bool:
    """Whether autocast on a device computes in a format of `DTYPES`; found by trial."""
    ones = torch.ones(1, 1, 3, 3, device=device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # autocast turns itself off with a warning, which the result shows as well
            outs = (compute(lambda x: F.conv2d(x, ones), ones, precision), compute(lambda x: x @ x, ones, precision))
    except RuntimeError:
        return False
    return all(out.dtype == DTYPES[precision] for out in outs)


def compute(network: Network, pixels: Tensor, precision: str) -> Tensor:
    """Run the network in a number format by autocast, without gradients; float32 switches autocast off."""
    kind = DTYPES.get(precision, torch.bfloat16)
    with torch.no_grad(), torch.autocast(pixels.device.type, kind, enabled=precision != EXACT):
        return network(pixels)


def relative_error(features: Tensor, exact: Tensor) -> float | None:
    """RMS of the difference over RMS of `exact`; None where either is not finite, or `exact` is zero."""
    error = (features.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    return float(error) if bool(error.isfinite()) else None


@contextmanager
def naming(pictures: Sequence[str]) -> Iterator[None]:
    """Add the name of the picture to a `PrecisionError`."""
    try:
        yield
    except PrecisionError as error:
        name = pictures[error.index if len(pictures) > 1 else 0]
        raise PrecisionError(f"{name}: {error}", error.index) from None
