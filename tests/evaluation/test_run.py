"""The parts that all evaluations share: source, cache, intervals, tables."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import featup_cli
from featup_cli.core.errors import UsageError, WeightsError
from featup_cli.engine.pipeline import Look
from featup_cli.evaluation.bootstrap import Scores, intervals, resample_counts
from featup_cli.evaluation.cache import UNRELATED, Arrays, Cache, code_sha256
from featup_cli.evaluation.data import Item
from featup_cli.evaluation.report import make_tables
from featup_cli.evaluation.run import Evaluation, Scorer, evaluate
from featup_cli.evaluation.source import FeatureSource, Request, affine, choose_methods
from featup_cli.upsamplers.api import is_linear
from featup_cli.upsamplers.interpolation.upsampler import Interpolation
from featup_cli.upsamplers.registry import FEED_FORWARD, METHODS
from featup_cli.upsamplers.weights.file import load_upsampler, save_upsampler
from featup_cli.upsamplers.weights.find import SHIPPED

SMALL = Request(resize=64, device="cpu")


class Brightness(Scorer):
    """Scores that can be told in advance: one for bilinear, two for nearest, times the number of the picture."""

    name = "consistency"

    def __init__(self) -> None:
        self.settings = {}
        self.measured: list[str] = []

    def prepare(self, source: FeatureSource, look: Look, item: Item) -> float:
        return float(item.picture.stem[-1])

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: float) -> Arrays:
        self.measured.append(method)
        return {"explained": np.array(prepared * (2 if method == "nearest" else 1)), "seconds": np.array(0.5)}


@pytest.fixture(scope="module")
def source() -> FeatureSource:
    return FeatureSource(SMALL)


@pytest.fixture
def items(photo: Path) -> list[Item]:
    paths = [photo.with_name(f"photo{n}.jpg") for n in (1, 2, 3)]
    for path in paths:
        path.write_bytes(photo.read_bytes() + path.stem.encode())
    return [Item(path) for path in paths]


def test_a_run_holds_scores_paired_differences_and_each_picture(source: FeatureSource, items: list[Item]) -> None:
    task = Brightness()
    run = Evaluation(replace(SMALL, methods="bilinear,nearest"), source.backbone).score(task, items, data="three")
    nearest = run["methods"]["nearest"]
    assert nearest["scores"] == {"explained": 4.0}
    assert nearest["over_bilinear"]["scores"] == {"explained": 2.0}
    assert [row["explained"] for row in nearest["per_picture"]] == [2.0, 4.0, 6.0]
    low, high = nearest["over_bilinear"]["intervals"]["explained"]
    assert 1.0 <= low < 2.0 < high <= 3.0
    assert run["data"] == "three"
    (table,) = make_tables([("", run)])
    assert table.rows[1][1].startswith("4.00 [")
    assert table.rows[1][2].startswith("+2.00 [")


def test_an_interrupted_run_resumes_and_other_settings_do_not_reuse_it(
    source: FeatureSource, items: list[Item], tmp_path: Path
) -> None:
    request = replace(SMALL, methods="bilinear,nearest", cache=tmp_path / "cache")
    evaluation = Evaluation(request, source.backbone)

    def run(task: Brightness, items: list[Item]) -> dict[str, Any]:
        return evaluation.score(task, items, data="")

    first = Brightness()
    run(first, items[:2])
    assert len(first.measured) == 4
    second = Brightness()
    whole = run(second, items)
    assert len(second.measured) == 2
    assert whole["methods"]["bilinear"]["scores"] == {"explained": 2.0}
    changed = Brightness()
    changed.settings = {"another": 1}
    run(changed, items)
    assert len(changed.measured) == 6


def test_weights_are_among_the_facts_of_a_method_before_it_is_loaded(source: FeatureSource, tmp_path: Path) -> None:
    packaged = FeatureSource(SMALL, source.backbone)
    facts = packaged.describe_method("jbu")
    assert facts["upsampler"]["sha256"]
    packaged.upsampler("jbu")
    assert packaged.describe_method("jbu") == facts
    module, metadata = load_upsampler(SHIPPED / facts["upsampler"]["file"])
    save_upsampler(tmp_path / "other.safetensors", module, metadata | {"note": "the same weights in another file"})
    request = replace(SMALL, upsamplers={"jbu": str(tmp_path / "other.safetensors")})
    other = FeatureSource(request, source.backbone).describe_method("jbu")
    assert other["upsampler"]["sha256"] != facts["upsampler"]["sha256"]


def test_the_digest_of_the_code_imports_none_of_it() -> None:
    program = "import sys\nfrom featup_cli.evaluation.cache import code_sha256\nprint(code_sha256())\n"
    program += "assert not {'featup_kernels', 'torch'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == code_sha256()


def test_what_the_digest_leaves_out_are_packages() -> None:
    package = Path(featup_cli.__file__).parent
    assert [name for name in UNRELATED if not (package / name / "__init__.py").is_file()] == []


def test_a_damaged_cache_file_is_done_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put({"a": 1}, {"x": np.arange(3)})
    found = cache.get({"a": 1})
    assert found is not None
    assert found["x"].tolist() == [0, 1, 2]
    assert cache.get({"a": 2}) is None
    next(tmp_path.iterdir()).write_bytes(b"PK half a file")
    assert cache.get({"a": 1}) is None


def test_intervals_are_those_of_the_resamples_and_counts_draw_every_picture_equally() -> None:
    counts = resample_counts(7, seed=0, resamples=4000)
    assert (counts.sum(1) == 7).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.1)
    samples: list[Scores] = [{"a": float(i)} for i in range(1001)]
    assert intervals(samples) == {"a": [25.0, 975.0]}
    assert intervals([{"a": 1.0}, {"a": 1.0, "b": 2.0}]) == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


@pytest.mark.parametrize("method", METHODS)
def test_the_fast_path_gives_the_same_projection(photo: Path, source: FeatureSource, method: str) -> None:
    try:
        upsampler = source.upsampler(method, source.backbone.native_size)
    except (UsageError, WeightsError) as error:
        pytest.skip(f"unavailable for tiny: {error}")
    if not is_linear(upsampler):
        pytest.skip("not linear: there is no fast path")
    look = source.look(photo)
    weight, bias = torch.randn(5, source.backbone.channels), torch.randn(5) * 10
    fast, _ = source.projected(method, look, weight, bias, (41, 60))
    slow, _ = FeatureSource(replace(SMALL, fast=False), source.backbone).projected(method, look, weight, bias, (41, 60))
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_methods_that_are_not_linear_are_projected_after_upsampling(
    photo: Path, source: FeatureSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Squares(Interpolation):
        linear_in_features = False

        def __call__(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
            return super().__call__(image, lr_feats, output_size) ** 2

    monkeypatch.setattr(source, "upsampler", lambda method, size: Squares("nearest"))
    look = source.look(photo)
    weight, bias = torch.randn(3, source.backbone.channels), torch.randn(3)
    result, _ = source.projected("any", look, weight, bias, (8, 10))
    squares = Interpolation("nearest")(source.image(look), look.lr_feats, (8, 10))[0] ** 2
    torch.testing.assert_close(result, affine(squares, weight, bias))


def test_methods_are_taken_from_the_registry_and_wrong_names_refused(source: FeatureSource) -> None:
    def chosen(methods: str | list[str]) -> list[str]:
        return choose_methods(FeatureSource(replace(SMALL, methods=methods), source.backbone))

    every = chosen("all")
    assert {"nearest", "bilinear", "bicubic", "implicit"} <= set(every)
    assert chosen("fast") == [m for m in every if m in FEED_FORWARD]
    assert chosen("FAST") == chosen("fast")
    assert chosen("Bicubic,nearest") == chosen(["bicubic", "nearest"]) == ["bicubic", "nearest"]
    told: list[str] = []
    choose_methods(FeatureSource(replace(SMALL, methods="all", note=told.append), source.backbone))
    left_out = [name for name in METHODS if name not in every]
    assert "carafe" in left_out
    assert len(told) == 1
    assert len(told[0]) < 300
    assert all(f" {name}," in told[0] or f" {name} (" in told[0] for name in left_out)
    assert not any(f" {name}," in told[0] for name in every)
    wrong = (("bilinear,hopeful", "'hopeful'"), ("bilinear,Bilinear", "twice"), ("fst", "did you mean fast?"))
    for text, said in wrong:
        with pytest.raises(UsageError, match=f"--methods {text}: .*{re.escape(said)}"):
            chosen(text)


def test_data_and_options_that_a_task_does_not_take_are_refused(photo: Path) -> None:
    with pytest.raises(UsageError, match="unknown task 'probe'; one of: probe-seg, "):
        evaluate("probe", photo)
    with pytest.raises(UsageError, match="takes one path, not 2"):
        evaluate("retrieval", [photo, photo])
    with pytest.raises(UsageError, match="limit=0: must lie between 1"):
        evaluate("consistency", photo, limit=0)
    with pytest.raises(UsageError, match=r"blur=2: must lie between 0\.001 and 1"):
        evaluate("cam", photo, blur=2)
    with pytest.raises(TypeError, match="thin"):
        evaluate("boundary", photo, thin="box")
