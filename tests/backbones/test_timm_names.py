"""Names of timm models without timm."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm

from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.timm import names
from featup_cli.core.errors import UsageError


def test_the_source_has_every_model_of_the_registry() -> None:
    source = names.models_source()
    assert sorted(names.listed_models(source)) == sorted(timm.list_models())
    spelled = names.spelled_names(source)
    assert {*timm.list_models(), *timm.models.get_deprecated_models()} <= spelled
    assert "resnet_50" not in spelled


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "timm")


@pytest.mark.parametrize("name", ["resnet50", "resnet50.any_tag", "tv_resnet50", "dinov2", "hf-hub:a/b"])
def test_names_that_may_be_right_are_left_to_timm(unloaded: None, name: str) -> None:
    names.check(BackboneConfig(name))


def test_unknown_names_are_refused_with_the_words_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from featup_cli.backbones.timm.model import _check_name

    for name in ("resnet_50", "nosuch", "facebook/dino"):
        with pytest.raises(UsageError) as late:
            _check_name(name)
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "timm")
            with pytest.raises(UsageError) as early:
                names.check(BackboneConfig(name))
        assert str(early.value) == str(late.value)


def test_models_that_other_packages_add_are_left_to_timm() -> None:
    names.check(BackboneConfig("net_of_mine"))


def test_no_name_is_refused_where_the_source_cannot_be_read(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    names.check(BackboneConfig("nosuch"))


def test_the_compiler_that_is_put_off_is_the_real_one() -> None:
    code = """
import sys
import torch
disable = torch.compiler.disable
from featup_cli.backbones.timm.library import timm
from featup_cli.backbones.timm import library
assert not {"torch._dynamo", "torch._dynamo.utils"} & set(sys.modules)
assert torch.compiler.disable is disable
import torchvision
boxes = torchvision.ops.roi_align(torch.ones(1, 3, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])], 2)
assert torch.equal(boxes, torch.ones(1, 3, 2, 2))
net = timm.create_model("naflexvit_base_patch16_gap", depth=1, embed_dim=32, num_heads=2).eval()
net(torch.ones(1, 3, 32, 32))
from torchvision.ops.roi_align import is_compile_supported
import torch._dynamo.utils as real
assert is_compile_supported("cpu") == real.is_compile_supported("cpu")

# Code below a function that is disabled later isn't compiled, as below one that is disabled at once.
def pure(x):
    return x + 1 if not torch.compiler.is_compiling() else x + 2
marked = library._disable_later(disable, pure)
assert torch.compile(lambda x: marked(x * 2), backend="eager")(torch.ones(1)).item() == 3
assert library._disable_later(disable, None, recursive=False)(pure)(1) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_else_is_asked_of_the_compiler_during_imports_is_the_real_thing() -> None:
    code = """
import sys
import torch
from featup_cli.backbones.timm import library
with library._without_compiler():
    from torch._dynamo.utils import counters
import torch._dynamo.utils as real
assert counters is real.counters and real.__spec__
"""
    subprocess.run([sys.executable, "-c", code], check=True)
