"""Every public call with inputs of wrong kinds: one `FeatUpError` in one line, never an error from deep inside."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import featup_cli as featup
from featup_cli.core.checks import check_arguments

WRONG: dict[str, Any] = {
    "missing": "missing.xyz",
    "folder": "folder",
    "text": "text.txt",
    "none": None,
    "number": 7,
    "empty list": [],
    "list of none": [None],
    "mapping": {},
    "object": object(),
    "bytes": b"abc",
}
METADATA = {"backbone": "any", "provenance": {}, "card": ""}
IMAGE = torch.rand(3, 32, 32)


@cache
def tiny() -> featup.Backbone:
    return featup.load_backbone("tiny")


def bilinear(image: Any = IMAGE, **options: Any) -> Any:
    return featup.upsample(image, method="bilinear", **{"resize": 32, "backbone": tiny()} | options)


result = cache(bilinear)
QUICK: dict[str, Any] = {"methods": "bilinear", "resize": 32, "backbone": tiny()}


def upsampler(name: str = "bilinear") -> Any:
    return featup.make_upsampler(name)


CALLS: dict[str, Callable[[Any], Any]] = {
    "upsample": lambda v: bilinear(v),
    "upsample backbone": lambda v: bilinear(backbone=v),
    "upsample method": lambda v: featup.upsample(IMAGE, method=v),
    "upsample implicit": lambda v: bilinear(implicit=v or 3),
    "upsample device": lambda v: bilinear(backbone="tiny", device=v),
    "upsample seed": lambda v: bilinear(seed=[v]),
    "upsample memory": lambda v: bilinear(memory=v or "1"),
    "upsample weights": lambda v: featup.upsample(IMAGE, method="jbu", upsampler=v),
    "upsample_many": lambda v: list(featup.upsample_many([v] if isinstance(v, Mapping) else v or None, "out")),
    "upsample_many settings": lambda v: featup.upsample_many("x.jpg", settings=v or 3),
    "render": lambda v: featup.render(v),
    "visualize": lambda v: featup.visualize(v),
    "visualize components": lambda v: featup.visualize("good.safetensors", components=v),
    "visualize image": lambda v: featup.visualize("good.safetensors", image=v or 3),
    "visualize show": lambda v: featup.visualize("good.safetensors", show=v or 3),
    "export": lambda v: featup.export(v, "npy"),
    "export to": lambda v: featup.export("good.safetensors", v),
    "export components": lambda v: featup.export("good.safetensors", "npy", components=[v]),
    "export dtype": lambda v: featup.export("good.safetensors", "npy", dtype=v or "x"),
    "load_features": lambda v: featup.load_features(v),
    "open_features": lambda v: featup.open_features(v),
    "load_image": lambda v: featup.load_image(v),
    "load_backbone": lambda v: featup.load_backbone(v),
    "load_backbone device": lambda v: featup.load_backbone("tiny", v),
    "make_upsampler": lambda v: featup.make_upsampler(v),
    "make_upsampler backbone": lambda v: featup.make_upsampler("implicit", backbone=v, network_size=(32, 32)),
    "make_upsampler size": lambda v: featup.make_upsampler("implicit", backbone=featup.load_backbone, network_size=v),
    "load_upsampler": lambda v: featup.load_upsampler(v),
    "save_upsampler": lambda v: featup.save_upsampler("new", v, METADATA),
    "save_upsampler metadata": lambda v: featup.save_upsampler("new", upsampler("jbu").module, v),
    "compare": lambda v: featup.compare(v, **QUICK),
    "compare methods": lambda v: featup.compare(IMAGE, methods=v, resize=32),
    "find_matches": lambda v: featup.find_matches(v, IMAGE, [(1, 1)], **QUICK),
    "find_matches target": lambda v: featup.find_matches(IMAGE, v, [(1, 1)], **QUICK),
    "find_matches points": lambda v: featup.find_matches(IMAGE, IMAGE, v, **QUICK),
    "find_matches point": lambda v: featup.find_matches(IMAGE, IMAGE, [v], **QUICK),
    "evaluate": lambda v: featup.evaluate(v, "folder"),
    "evaluate data": lambda v: featup.evaluate("probe-seg", v, **QUICK),
    "evaluate option": lambda v: featup.evaluate("consistency", "folder", limit=v or "x", **QUICK),
    "train": lambda v: featup.train(v),
    "train images": lambda v: featup.train(featup.Training(v, "new.safetensors")),
    "train output": lambda v: featup.train(featup.Training(["folder"], v)),
    "save": lambda v: result().save(v),
    "save dtype": lambda v: result().save("new.safetensors", dtype=v),
    "save storage": lambda v: result().save("new.safetensors", storage=v),
    "backbone": lambda v: tiny()(v),
    "patch stride": lambda v: tiny().with_stride(v),
    "upsampler image": lambda v: upsampler()(v, torch.rand(1, 4, 2, 2), 32),
    "upsampler features": lambda v: upsampler()(IMAGE[None], v, 32),
    "trained upsampler": lambda v: upsampler("jbu")(IMAGE[None], v, 32),
    "upsampler size": lambda v: upsampler()(IMAGE[None], torch.rand(1, 4, 2, 2), [v]),
    "benchmark": lambda v: featup.benchmark(v),
    "ImplicitConfig": lambda v: featup.ImplicitConfig(views=[v]),
    "TrainConfig": lambda v: featup.TrainConfig(steps=[v]),
    "BackboneConfig": lambda v: featup.BackboneConfig(layer=[v]),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "folder").mkdir()
    (folder / "text.txt").write_text("a line\n")
    result().save(folder / "good.safetensors")
    return folder


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_input_is_one_line(name: str, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(good)
    before = sorted(good.iterdir())
    for kind, value in WRONG.items():
        if name == "upsample_many" and kind in ("missing", "folder", "text", "list of none"):
            continue  # records of failures
        with pytest.raises(featup.FeatUpError, match=r"^[^\n]*$"):
            CALLS[name](value)
    assert sorted(good.iterdir()) == before  # nothing half-written


@pytest.mark.parametrize("name", [name for name in featup.__all__ if inspect.isfunction(getattr(featup, name))])
def test_every_public_call_checks_its_arguments(name: str) -> None:
    first = next(iter(inspect.signature(getattr(featup, name)).parameters))
    if typing.get_type_hints(inspect.unwrap(getattr(featup, name)), localns=_for_type_checkers())[first] is Any:
        return  # any picture: what it is made of is looked at
    with pytest.raises(featup.FeatUpError, match=rf"^{first}: give "):
        check_arguments(getattr(featup, name), {first: object()})


def test_an_unknown_keyword_is_told_as_python_does() -> None:
    with pytest.raises(TypeError, match=r"upsample\(\) got an unexpected keyword argument 'nonsense'"):
        featup.upsample(IMAGE, nonsense=1)


def _for_type_checkers() -> dict[str, Any]:
    return dict.fromkeys(("Device", "Backbone", "Extract", "Upsampler", "DataclassInstance"), Any)
