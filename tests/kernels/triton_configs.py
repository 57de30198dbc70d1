"""Tests of the launch configurations: every candidate of every kernel gives the reference's result.

Not collected by itself: `test_triton.py` runs it, as it runs `triton_kernels.py`. On a GPU:
pytest tests/kernels/triton_configs.py --device cuda
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
from featup_kernels.adaptive_conv.reference import adaptive_conv_reference
from featup_kernels.neighbor_mix.reference import neighbor_mix_reference
from featup_kernels.operation import Case
from featup_kernels.range_taps.reference import range_taps_reference, spatial_logits
from featup_kernels.resampled_conv.reference import resampled_conv_reference

from benchmarks.gpu import tuning
from benchmarks.gpu.tuning import KERNELS, candidates, tune
from featup_cli.benchmarking.check import WrongResultError
from tests.tolerances import assert_close

# Outputs that a kernel leaves unwritten are NaN.
pytestmark = pytest.mark.usefixtures("poisoned_memory")

SMALL = {
    "adaptive_conv": Case(1, 5, 7, 6, 3, "adaptive_conv"),
    "neighbor_mix": Case(1, 8, 6, 6, 3, "neighbor_mix", scale=2),
    "range_taps": Case(1, 5, 6, 3, 3, "range_taps"),
    "resampled_conv": Case(1, 6, 8, 3, 3, "resampled_conv", scale=2),
}
EVERY_CANDIDATE = [
    pytest.param(name, config, id=f"{name}-{'-'.join(map(str, asdict(config).values()))}")
    for name, kernel in KERNELS.items()
    for config in candidates(name, SMALL[kernel.operation])
]


def _reference(name: str, arguments: tuple) -> tuple[torch.Tensor, ...]:
    """What the reference and its gradients give for the arguments of a kernel, in float64."""
    exact = [x.cpu().double() if torch.is_tensor(x) and x.is_floating_point() else x for x in arguments]
    operation, function = name.split(".")
    if operation == "resampled_conv":
        axes = [x.cpu() if torch.is_tensor(x) else x for x in exact[2:]]
        return (resampled_conv_reference(*exact[:2], *axes),)
    if operation == "range_taps":
        if function == "forward":
            return (range_taps_reference(*exact),)
        d_taps, _, keys, temperature = exact
        logits = spatial_logits(1, torch.ones(()).double())
        leaves = keys.requires_grad_(), logits.requires_grad_()
        return torch.autograd.grad(range_taps_reference(leaves[0], temperature, leaves[1]), leaves, d_taps)
    plain = {"adaptive_conv": adaptive_conv_reference, "neighbor_mix": neighbor_mix_reference}[operation]
    if function == "forward":
        return (plain(*exact),)
    d_out, given, last = exact
    # Linear in each argument: the gradient does not depend on the value that it is taken at.
    if function == "d_source":
        leaf = torch.zeros(*d_out.shape[:2], *last, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(plain(leaf, given), leaf, d_out)
    leaf = torch.zeros(len(d_out), last**2, *d_out.shape[2:], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(plain(given, leaf), leaf, d_out)


@pytest.mark.parametrize(("name", "config"), EVERY_CANDIDATE)
def test_every_candidate_gives_the_result(name: str, config: Any, device: str) -> None:
    case = SMALL[KERNELS[name].operation]
    arguments = KERNELS[name].arguments(case, torch.Generator(device).manual_seed(0))
    for found, expected in zip(tuning.run(name, arguments, config), _reference(name, arguments), strict=True):
        assert_close(found, expected, torch.float32, name)


def test_tuning_times_every_candidate_and_marks_the_chosen_one(device: str) -> None:
    case = Case(1, 2, 3, 2, 1, "adaptive_conv")
    rows = tune("adaptive_conv.forward", case, torch.device(device), repeat=1, budget_s=0)
    assert [row["chosen"] for row in rows] == [True] + [False] * (len(rows) - 1)
    assert len(rows) == len(candidates("adaptive_conv.forward", case))
    moved = 4 * (2 * 2 * 3 + 2 * 3 + 2 * 2 * 3)  # source, taps, output
    for row in json.loads(json.dumps(rows)):
        assert row["moved_mib"] == moved / 2**20
        assert row["gb_per_s"] == pytest.approx(moved / row["time_ms"] / 1e6)


def test_tuning_refuses_a_wrong_candidate(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = tuning.run

    def wrong(name: str, arguments: tuple, config: object) -> tuple[torch.Tensor, ...]:
        return tuple(x if config is None else x + 1 for x in right(name, arguments, config))

    monkeypatch.setattr(tuning, "run", wrong)
    with pytest.raises(WrongResultError, match="is off by"):
        tune("adaptive_conv.forward", Case(1, 2, 3, 2, 1, "adaptive_conv"), torch.device(device), repeat=1, budget_s=0)
