from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from featup_kernels import adaptive_conv, resampled_conv
from featup_kernels.resampled_conv.axis import Axis
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from featup_cli.benchmarking import check, kernels, main_job, table6, upsamplers
from featup_cli.benchmarking.measure import Timing
from featup_cli.benchmarking.report import number, render
from featup_cli.benchmarking.run import benchmark, cpu_threads
from featup_cli.benchmarking.settings import BASELINES, Settings
from featup_cli.core.errors import UsageError
from featup_cli.upsamplers.api import Details
from featup_cli.upsamplers.registry import METHODS

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {"backend": "reference", "repeat": 2, "budget": 0.02, "baselines": "loop", "device": "cpu"}


@pytest.fixture(autouse=True)
def quick_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "copy_bandwidths", lambda *limits: (2.0**30, 2.0**29))


def as_text(report: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(report))
    return console.export_text()


def test_table_6_has_the_published_rows_and_figures() -> None:
    rows = {row.shape: row for row in table6.ROWS}
    assert len(rows) == 8
    forward = rows["64x224x224x3x5"].record(backward=False)
    assert forward == {"featup_ms": 6.27, "featup_mb": 128, "unfold_ms": 16.7, "unfold_mb": 1878}
    backward = rows["1x14x14x2048x5"].record(backward=True)
    assert (backward["featup_ms"], backward["unfold_ms"], backward["torchscript_ms"]) == (1.05, 2.81, 69367)


def test_the_table_6_suite_measures_both_directions_beside_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = table6.Published(0.5, 2.0, 10)
    monkeypatch.setattr(table6, "ROWS", (table6.Row("1x4x4x2x3", figures, figures),))
    report = benchmark(suite="table6", **QUICK)
    assert [row["direction"] for row in report["rows"]] == ["forward", "backward"]
    for row, published in zip(report["rows"], (0.5, 2.0), strict=True):
        assert row["published"]["featup_ms"] == published
        assert row["published_ratio"] == pytest.approx(published / row["time_ms"])
        row |= {"shape": "64x14x14x2048x5", "baselines": {name: {"ratio": 123.4} for name in BASELINES}}
    text = as_text(report)
    assert "faster than" in text
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_report_names_device_versions_date_and_settings_as_json() -> None:
    report = benchmark("1x4x4x2x3", threads=1, seed=3, **QUICK)
    again = json.loads(json.dumps(report))
    assert again["benchmark"] == "kernel"
    assert again["threads"] == 1
    assert again["settings"]["seed"] == 3
    assert again["copy_gib_per_s"] == 1
    assert {"torch", "python", "featup-cli"} <= set(again["versions"])
    assert again["date"].startswith("20")
    assert again["device_name"]
    text = as_text(report)
    assert "adaptive_conv (reference)" in text
    assert "loop" in text
    assert "floor" in text


def test_the_number_of_threads_is_set_for_the_run_only() -> None:
    before = torch.get_num_threads()
    with cpu_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_benchmark_needs_a_case_or_a_suite() -> None:
    with pytest.raises(UsageError, match="either --shape"):
        benchmark()


class WithKernel:
    """An upsampler whose result can depend on the backend of its kernel."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.details, self.wrong = Details(), wrong

    def __call__(self, image: torch.Tensor, lr_feats: torch.Tensor, output_size: tuple[int, int]) -> torch.Tensor:
        source = torch.nn.functional.interpolate(lr_feats, size=[n + 2 for n in output_size])
        out = adaptive_conv(source, torch.full((1, 9, *output_size), 1 / 9))
        return out if upsamplers.os.environ.get("FEATUP_KERNELS") == "reference" else out + self.wrong


@pytest.fixture
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsamplers, "FIGURE_17", [(2, 4, 3), (4, 4, 3)])
    monkeypatch.setattr(upsamplers, "FIGURE_16", [(2, 8, 3)])


@pytest.mark.usefixtures("small_figures")
def test_the_upsamplers_suite_measures_every_feed_forward_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsamplers, "MEASURED", ("nearest", "bilinear"))
    report = benchmark(suite="upsamplers", **QUICK)
    rows = report["rows"]
    assert [(r["method"], r["figure"], r["factor"]) for r in rows[:3]] == [
        ("nearest", 17, 2), ("nearest", 17, 4), ("nearest", 16, 2)
    ]  # fmt: skip
    assert {row["method"] for row in rows} == {"nearest", "bilinear"}
    assert rows[0]["gflop"] == 0
    assert rows[3]["gflop"] * 1e9 == 8 * 4 * 6 * 6
    assert all(row["time_ms"] > 0 for row in rows)
    assert "bilinear" in as_text(report)


@pytest.mark.usefixtures("small_figures")
def test_no_method_is_skipped_for_want_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those that the test above measures; both forms, and fits and backbones in figure 17 alone."""
    monkeypatch.setattr(upsamplers, "BACKBONES", ("test_vit", "test_resnet"))
    methods = [method for method in upsamplers.MEASURED if method not in ("nearest", "bilinear", "dip", "zssr")]
    monkeypatch.setattr(upsamplers, "MEASURED", methods)
    rows = benchmark(suite="upsamplers", **QUICK)["rows"]
    assert {row["method"] for row in rows} == set(methods)
    assert not [row for row in rows if "skipped" in row]
    printed = {row["method"]: row["settings"] for row in rows if "settings" in row}
    assert printed == {name: METHODS[name].printed for name in methods if METHODS[name].printed}
    assert {row["figure"] for row in rows if METHODS[row["method"]].per_picture} == {17}
    assert {"dip", "zssr"} <= {name for name, method in METHODS.items() if not method.fits_model}


def test_random_weights_are_of_the_seed() -> None:
    image, lr_feats = torch.rand(1, 3, 8, 8), torch.randn(1, 8, 2, 2)
    state = torch.get_rng_state()
    first, again, other = (upsamplers.build("a2u", CPU, 8, seed)(image, lr_feats, (8, 8)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.usefixtures("small_figures")
def test_an_upsampler_that_can_not_be_built_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(method: str, **given: Any) -> Any:
        raise UsageError("no weights for this backbone")

    monkeypatch.setattr(upsamplers, "make_upsampler", refuse)
    monkeypatch.setattr(upsamplers, "MEASURED", ("jbu",))
    report = benchmark(suite="upsamplers", **QUICK)
    assert report["rows"] == [{"method": "jbu", "skipped": "no weights for this backbone"}]
    assert "no weights" in as_text(report)


@pytest.mark.usefixtures("small_figures")
def test_an_upsampler_that_depends_on_its_kernels_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(suite="upsamplers")
    monkeypatch.delenv("FEATUP_KERNELS", raising=False)
    monkeypatch.setattr(upsamplers, "make_upsampler", lambda method, **given: WithKernel(wrong=0.1))
    with pytest.raises(check.WrongResultError, match="jbu is wrong"):
        upsamplers.check_upsampler("jbu", settings, CPU)
    monkeypatch.setattr(upsamplers, "make_upsampler", lambda method, **given: WithKernel())
    assert upsamplers.check_upsampler("jbu", settings, CPU)["largest_errors"]["output"] < 1e-5
    assert "FEATUP_KERNELS" not in upsamplers.os.environ


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_flops_of_our_kernels_are_counted_on_any_backend(backend: str) -> None:
    source, taps = torch.zeros(1, 4, 6, 7), torch.zeros(1, 9, 4, 5)
    try:
        flops = upsamplers.count_flops(lambda: adaptive_conv(source, taps, backend=backend))
    except (ImportError, RuntimeError):
        pytest.skip("this backend can't run here")
    assert flops == 2 * 9 * 4 * 4 * 5


def test_resampling_counts_along_each_axis() -> None:
    axes = [Axis(torch.zeros(n, terms, dtype=torch.int64), torch.zeros(n, terms)) for n, terms in ((6, 4), (7, 2))]
    flops = upsamplers.count_flops(
        lambda: resampled_conv(torch.zeros(1, 4, 3, 3), torch.zeros(1, 9, 4, 5), *axes, backend="cpu")
    )
    assert flops == 2 * (9 + 4 + 2) * 4 * 4 * 5


def test_uncounted_operations_are_no_zero() -> None:
    assert upsamplers.count_flops(lambda: torch.ones(3).exp()) is None


def test_operations_that_count_as_zero_are_counted() -> None:
    lr_feats = torch.zeros(1, 4, 3, 3)
    assert upsamplers.count_flops(lambda: torch.nn.functional.interpolate(lr_feats, (6, 6), mode="nearest-exact")) == 0


def test_products_convolutions_and_attention_count_as_pytorch_counts_them() -> None:
    image, tokens = torch.rand(2, 4, 9, 8), torch.rand(2, 3, 5, 8)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(4, 6, 3, groups=2), torch.nn.ConvTranspose2d(6, 4, 2, 2), torch.nn.Linear(12, 5)
    )

    def call() -> None:
        layers(image)
        tokens[0] @ tokens[1].mT
        torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    assert upsamplers.count_flops(call) == counter.get_total_flops() > 0


def test_the_pipeline_suite_times_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_job, "METHODS", {"bilinear": "", "nonesuch": ""})
    report = benchmark(suite="pipeline", **QUICK)
    rows = {row["stage"]: row for row in report["rows"]}
    assert list(rows) == [
        "load backbone", "decode", "extract", "upsample: bilinear", "upsample: nonesuch", "PCA picture",
        "write features", "write picture",
    ]  # fmt: skip
    assert "unknown method" in rows.pop("upsample: nonesuch")["skipped"]
    assert all(row["time_ms"] > 0 for row in rows.values())
    assert "decode" in as_text(report)


def test_numbers_have_three_digits_and_no_powers_of_ten() -> None:
    values = (None, 0, 0.012345, 1.2345, 123.45, 12345.6, 1e-9)
    assert [number(v) for v in values] == ["-", "0", "0.0123", "1.23", "123", "12346", "0.0001"]


def test_quartiles_of_two_samples_lie_between_them() -> None:
    record = Timing((1.0, 2.0)).record()
    assert 1 <= record["time_q1_ms"] <= record["time_ms"] <= record["time_q3_ms"] <= 2
