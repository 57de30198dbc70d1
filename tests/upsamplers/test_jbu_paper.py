"""JBU as the paper prints it: the preset's values, its formulas pixel by pixel, and the packaged weights."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import featup_cli as featup
from featup_cli.core.errors import UsageError
from featup_cli.training.config import PRESETS as TRAININGS
from featup_cli.upsamplers.jbu.config import PRESETS
from featup_cli.upsamplers.jbu.stage import JBUStage
from featup_cli.upsamplers.jbu.upsampler import JBUUpsampler
from featup_cli.upsamplers.weights.file import load_upsampler
from featup_cli.upsamplers.weights.find import SHIPPED

Map = NDArray[np.float64]

PRINTED = {
    "radius": 1,  # "In practice, we use a 3 x 3 square centered at each pixel"
    "key_size": 30,  # "a two-layer GeLU MLP with 30-dimensional hidden and output vectors"
    "mlp": True,
    "range_kernel": "inner_product",  # equation 6: a softmax of inner products
    "unit_keys": False,  # of MLP(G) itself
    "temperature_growth": 1.0,  # one sigma_range for each JBU of equation 3
    "resize": "bilinear",  # "use bilinear-interpolated features"
    "sharpen_lr": 0.0,  # equation 4 has nothing before or after the filter
    "sharpen_lr_wide": 0.0,
    "contrast": 0.0,
}
LEFT_OPEN = {
    "stages": 4,  # doublings from 14x14 to 224x224 (section 4), "a stack of parameterized" filters
    "shared": False,
    "temperature": 1.0,  # learned; so is the spatial width
    "spatial_width": 1.0,
    "dropout": 0.0,
}


def test_the_preset_is_section_3_2_and_what_it_leaves_open_is_named() -> None:
    assert asdict(PRESETS["paper"]) == PRINTED | LEFT_OPEN
    assert PRESETS["default"] == type(PRESETS["default"])()


def make() -> JBUUpsampler:
    """The preset's module, with widths unlike those it starts with and each stage its own."""
    model = JBUUpsampler(PRESETS["paper"]).double().eval()
    for number, stage in enumerate(model.stages):
        nn.init.constant_(stage.range_temp, 0.3 * number)
        nn.init.constant_(stage.sigma_spatial, 0.6 + 0.1 * number)
    return model


def reflected(index: int, size: int) -> int:
    return -index if index < 0 else 2 * size - 2 - index if index >= size else index


def key(stage: JBUStage, colour: Map) -> Map:
    """MLP(G) of one pixel: two layers, GELU between them."""
    first, last = (stage.range_proj[i] for i in (0, 3))  # type: ignore[index]
    hidden = first.weight.detach().numpy()[:, :, 0, 0] @ colour + first.bias.detach().numpy()
    hidden = np.array([h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden])
    result: Map = last.weight.detach().numpy()[:, :, 0, 0] @ hidden + last.bias.detach().numpy()
    return result


def bilinear(maps: Map, y: float, x: float) -> Map:
    """Maps [C, h, w] at a position in their pixels, whose centres are whole numbers; beyond the border its pixels."""
    height, width = maps.shape[1:]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    total: Map = np.zeros(len(maps))
    for row, weight in ((top, 1 - y + top), (min(top + 1, height - 1), y - top)):
        for col, other in ((left, 1 - x + left), (min(left + 1, width - 1), x - left)):
            total = total + weight * other * maps[:, row, col]
    return total


def filtered(stage: JBUStage, guidance: Map, source: Map) -> Map:
    """Equation 4 with the kernels of equations 5 and 6, one pixel and one neighbour at a time."""
    height, width = guidance.shape[1:]
    inverse_range, sigma = math.exp(stage.range_temp.item()), stage.sigma_spatial.item()
    keys = {(i, j): key(stage, guidance[:, i, j]) for i in range(height) for j in range(width)}
    scale_y, scale_x = source.shape[1] / height, source.shape[2] / width
    out = np.zeros((len(source), height, width))
    for i in range(height):
        for j in range(width):
            scores, places, spatial = [], [], []
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    a, b = reflected(i + dy, height), reflected(j + dx, width)
                    scores.append(math.exp(inverse_range * float(keys[i, j] @ keys[a, b])))
                    spatial.append(math.exp(-(dy**2 + dx**2) / (2 * sigma**2)))  # a window reaches from -1 to 1
                    places.append(bilinear(source, (a + 0.5) * scale_y - 0.5, (b + 0.5) * scale_x - 0.5))
            weights = [score / sum(scores) * near for score, near in zip(scores, spatial, strict=True)]
            out[:, i, j] = sum(w * f for w, f in zip(weights, places, strict=True)) / sum(weights)
    return out


def test_the_module_is_equations_3_to_6_by_plain_loops() -> None:
    model, image, feats = make(), torch.rand(1, 3, 16, 32).double(), torch.randn(1, 2, 1, 2).double()
    expected, picture = feats[0].numpy(), image[0].numpy()
    for stage in model.stages:
        height, width = 2 * expected.shape[1], 2 * expected.shape[2]
        cells = picture.reshape(3, height, 16 // height, width, 32 // width)
        expected = filtered(stage, cells.mean((2, 4)), expected)
    out = model(image, feats, (16, 32))
    assert out.shape == (1, 2, 16, 32)
    np.testing.assert_allclose(out[0].detach().numpy(), expected, atol=1e-12)


def test_its_gradients_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUP_KERNELS", "reference")
    model = make()
    names = list(dict(model.named_parameters()))

    def call(image: Tensor, feats: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, named, (image, feats, (5, 6)))

    inputs = [torch.rand(1, 3, 5, 6), torch.randn(1, 2, 2, 2), *(p.detach() for p in model.parameters())]
    assert torch.autograd.gradcheck(call, [t.double().requires_grad_() for t in inputs], fast_mode=True)


# The packaged weights.

CHANGED = {"views": 20, "positions": 64, "check_interval": 200}
"""What the command in the card changes of the preset: a pool of views for few pictures, and what a CPU allows."""


def test_the_packaged_weights_are_of_the_presets_and_small() -> None:
    path = SHIPPED / "jbu_paper.safetensors"
    module, metadata = load_upsampler(path)
    assert isinstance(module, JBUUpsampler)
    assert module.config == PRESETS["paper"]
    assert path.stat().st_size < 100_000
    provenance = metadata["provenance"]
    assert provenance["upsampler"] == asdict(PRESETS["paper"])
    assert provenance["training"] == asdict(TRAININGS["paper"]) | CHANGED
    assert provenance["backbone"]["name"] == "tiny"
    assert provenance["explained_variance"] > provenance["bilinear_explained_variance"]
    assert f"table 7 says (featup train --preset paper), {provenance['step']} of its 2000 steps" in metadata["card"]


def test_they_are_chosen_by_name_and_never_unasked() -> None:
    assert featup.make_upsampler("jbu").provenance["file"] == "jbu.safetensors"
    chosen = featup.make_upsampler("jbu", upsampler="paper")
    assert (chosen.provenance["source"], chosen.provenance["file"]) == (
        "packaged:jbu_paper.safetensors",
        "jbu_paper.safetensors",
    )
    with pytest.raises(UsageError, match="--upsampler paper: no such file, and not one of: auto, dino16"):
        featup.make_upsampler("resfu", upsampler="paper")
