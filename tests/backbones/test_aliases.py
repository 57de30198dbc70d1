"""Short names and the arguments of `--backbone-arg`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from featup_cli.backbones.config import parse_model_args
from featup_cli.backbones.registry import ALIASES, resolve_alias
from featup_cli.core.errors import UsageError


@pytest.mark.parametrize("name", [name for name in ALIASES if name != "tiny"])
def test_every_alias_is_a_timm_model_with_published_weights(name):
    timm = pytest.importorskip("timm")
    cfg = timm.get_pretrained_cfg(ALIASES[name].reference)
    assert cfg is not None
    assert cfg.has_weights
    assert ALIASES[name].description


def test_other_names_pass_through():
    assert resolve_alias("dino") == "vit_small_patch16_224.dino"
    assert resolve_alias("resnet18") == "resnet18"
    assert resolve_alias("hf-hub:someone/net") == "hf-hub:someone/net"


def test_aliases_load_neither_torch_nor_timm():
    code = "import sys, featup_cli.backbones.registry; print(sorted({'torch', 'timm', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_model_args_take_the_type_they_look_like():
    assert parse_model_args(
        ["pad_type=same", "depth=4", "eps=1e-5", "a=true", "b=False", "c=none", "mean=0.5", "std=0.5,0.25,1", "a=no=w"]
    ) == {
        **{"pad_type": "same", "depth": 4, "eps": 1e-5, "a": "no=w", "b": False, "c": None},
        **{"mean": 0.5, "std": (0.5, 0.25, 1)},
    }


@pytest.mark.parametrize("text", ["depth", "=4", "depth=", "my key=1", "", "4=4", "depth=,"])
def test_a_model_arg_that_is_no_pair_is_refused(text):
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_model_args([text])
