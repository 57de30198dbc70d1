"""What every method makes of one picture, in memory, in bands and in a file, and what the file remembers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import featup_cli as featup
from featup_cli.upsamplers.implicit.method import METHOD as IMPLICIT
from featup_cli.upsamplers.registry import METHODS
from tests.goldens.compare import digest
from tests.goldens.inputs import BASELINES, FIT, FIT_OPTIONS, Inputs, fill, numbers, run
from tests.goldens.names import band_rows, build_upsampler, packaged_weights, shorten_dip

NETWORK, ODD = (64, 80), (67, 91)
ROWS = 13  # of a band
DIP_STEPS = 2  # of a fit to be compared; all of them drift apart by rounding


@dataclass(frozen=True)
class Case:
    """A method with a backbone, and its weights where they are not the package's own."""

    method: str
    backbone: str = "tiny"
    upsampler: Callable[[Inputs], Path] | None = None


def _saved(kind: str, **config: Any) -> Callable[[Inputs], Path]:
    return lambda inputs: inputs.upsampler(kind, **config)


UNTRAINED = ("nearest", "bilinear", "bicubic", "guided", "classical-jbu", "implicit", "dip", "large-image")
CASES = {method: Case(method) for method in (*UNTRAINED, "jbu", "resfu")} | {
    "strided": Case("strided", "test_vit"),
    "resfu for any backbone": Case("resfu", "test_vit"),
    "jbu as released": Case("jbu", upsampler=_saved("jbu-released", norm=True)),
    **{method: Case(method, upsampler=_saved(method)) for method in BASELINES},
}


def record_case(name: str, inputs: Inputs) -> tuple[dict[str, Any], dict[str, Any]]:
    """Records of the results of a case, and of the request that its file remembers."""
    case = CASES[name]
    weights = case.upsampler(inputs) if case.upsampler else "auto"
    config = featup.BackboneConfig(case.backbone, weights=None if case.backbone == "tiny" else inputs.vit)
    backbone = featup.load_backbone(config, torch.device("cpu"))
    fit = featup.ImplicitConfig(**FIT)
    asked = {"backbone": backbone, "upsampler": weights}
    upsampler = featup.make_upsampler(
        case.method, network_size=NETWORK, config=fit if case.method == "implicit" else None, **asked
    )
    plain = featup.upsample(inputs.photo, backbone=backbone, method="nearest", resize="64x80", output_size="1x")
    image = torch.from_numpy(inputs.pixels.copy()).permute(2, 0, 1)[None]
    lr_feats = plain.lr_features[None]
    written, request = _write(case, inputs, weights)
    if case.method == "dip":
        upsampler = shorten_dip(upsampler, DIP_STEPS)
        results = {"memory": upsampler(image / 255, lr_feats, NETWORK)[0].detach()}
    else:
        made = featup.upsample(inputs.photo, method=case.method, resize="64x80", implicit=fit, device="cpu", **asked)
        results = {"memory": made.features, "file": written}
    results["bands"] = torch.cat(list(band_rows(upsampler, image, lr_feats, ODD, ROWS)), 2)[0]
    return {kind: digest(result) for kind, result in results.items()}, request


def _write(case: Case, inputs: Inputs, weights: Path | str) -> tuple[Tensor, dict[str, Any]]:
    """Features of a file that the command line writes at once, and its request with digests of our own files named."""
    network = [] if case.backbone == "tiny" else ["--weights", inputs.vit]
    output = ["-o", inputs.folder / "out", "--overwrite", "--no-picture", "--dtype", "float32", "--json"]
    sizes = ["--resize", "64x80", "--output-size", f"{ODD[0]}x{ODD[1]}", "--memory", "16GB"]
    own = ["--upsampler", weights] if METHODS[case.method].trainable else []
    own += FIT_OPTIONS if METHODS[case.method] is IMPLICIT else []
    chosen = ["--method", case.method, "--backbone", case.backbone, *network, *own]
    (line,) = run("upsample", inputs.photo, *output, *sizes, *chosen, "--device", "cpu")
    file = featup.load_features(line["output"])
    request = file.provenance["request"]
    request["backbone"] = {name: fact for name, fact in request["backbone"].items() if name not in ("torch", "timm")}
    if weights != "auto":
        assert request["upsampler"] == hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        request["upsampler"] = "of the weights file"
    if network:
        assert request["backbone"]["weights_source"] == f"file:{inputs.vit}"
        request["backbone"] |= {"weights_source": "file"}
    return file.features, request


def gradient_modules() -> dict[str, Callable[[], torch.nn.Module]]:
    """Modules whose gradients are recorded, by name."""
    packaged = featup.load_upsampler(packaged_weights()["resfu.safetensors"])[1]["config"]
    made = {
        "jbu": ("jbu", {}),
        "resfu": ("resfu", {"channels": 96}),
        "resfu by components": ("resfu", packaged),
        "carafe": ("carafe", {"channels": 96}),
        "fade": ("fade", {"channels": 96}),
    }
    return {name: lambda of=of: fill(build_upsampler(*of)).train() for name, of in made.items()}  # type: ignore[misc]


def record_gradients(name: str) -> dict[str, Any]:
    """Gradients of all parameters of a module for a fixed loss, 8x8 to 32x32, one after the other by name."""
    module = gradient_modules()[name]()
    image, lr_feats = numbers("image", 1, 3, 32, 32) / 2 + 0.5, numbers("features", 1, 96, 8, 8).requires_grad_()
    result = module(image, lr_feats, (32, 32))
    (result * numbers("loss", *result.shape)).sum().backward()
    parameters = dict(sorted(module.named_parameters()))
    gradients = {key: p.grad if p.grad is not None else torch.zeros_like(p) for key, p in parameters.items()}
    assert lr_feats.grad is not None
    return {
        "result": digest(result),
        "features": digest(lr_feats.grad),
        "parameters": digest(torch.cat([gradient.flatten() for gradient in gradients.values()])),
        "norms": {"names": list(gradients), "sample": [float(f"{g.norm():.6g}") for g in gradients.values()]},
    }
