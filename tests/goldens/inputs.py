"""What the goldens are made of: pictures, weights and data whose bytes are the same everywhere and always."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import featup_cli as featup
from tests.goldens.names import app, build_upsampler

CHANNELS = 96  # of `tiny`
BASELINES = ("carafe", "sapa", "fade", "dysample", "pixelshuffle", "deconv", "resize-conv")
FIT = {"max_steps": 4, "views": 6, "tokens": 32, "hidden": 16}
FIT_OPTIONS = [part for name, value in FIT.items() for part in ("--set", f"{name}={value}")]
TRAIN = "crop_size=32 views=2 steps=2 batch=1 tokens=8 positions=4 projection=4 pixels_per_token=2"
TRAIN += " check_interval=2 check_tokens=8 upsampler.radius=1"
TRAIN_OPTIONS = [part for setting in TRAIN.split() for part in ("--set", setting)]


def run(*arguments: object, status: int = 0) -> list[Any]:
    """The JSON lines that a command prints, run in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    try:
        return [json.loads(result.stdout)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in result.stdout.splitlines()]


def numbers(name: str, *shape: int) -> Tensor:
    """Numbers uniform in -1 to 1 that follow from a name, without a function whose last digit depends on the system."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shape)
    return torch.from_numpy(draw.astype(np.float32))


def fill(module: nn.Module) -> nn.Module:
    """Give every parameter that is no scalar numbers of a usual size, which don't depend on how libraries start it."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = numbers(name, *parameter.shape)
            if parameter.ndim > 1:
                parameter.copy_(drawn * (3 / parameter[0].numel()) ** 0.5)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * drawn + float(name.endswith("weight")))
    return module


def draw_box(left: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 [64, 96, 3] of a bright box on dark ground with a grain, and class ids uint8 [64, 96]."""
    y, x = np.mgrid[:64, :96]
    labels = ((y >= 16) & (y < 48) & (x >= left) & (x < left + 40)).astype(np.uint8)
    grain = (x * 7 + y * 13 + x * y // 5) % 31
    pixels = np.where(labels[..., None] == 1, (220, 190, 40), (20, 40, 90)) + grain[..., None]
    return pixels.astype(np.uint8), labels


@dataclass(frozen=True)
class Inputs:
    """Files in a folder, made when they are first asked for."""

    folder: Path

    @cached_property
    def pixels(self) -> np.ndarray:
        """A picture uint8 [72, 96, 3] of shapes, slopes and grain."""
        y, x = np.mgrid[:72, :96]
        disc = ((y - 30) ** 2 + (x - 60) ** 2 < 400) * 90
        red = x * 2 + disc // 2
        green = y * 2 + (x * y // 40) % 50
        blue = 200 - y - disc + ((x // 12 + y // 12) % 2) * 40
        return np.stack((red, green, blue), 2).clip(0, 255).astype(np.uint8)

    @cached_property
    def photo(self) -> Path:
        """That picture as a file, not compressed."""
        path = self.folder / "photo.bmp"
        Image.fromarray(self.pixels).save(path)
        return path

    @cached_property
    def vit(self) -> Path:
        """Weights of timm's `test_vit`."""
        import timm

        path = self.folder / "test_vit.safetensors"
        save_file({k: v.contiguous() for k, v in fill(timm.create_model("test_vit")).state_dict().items()}, path)
        return path

    def upsampler(self, method: str, **config: Any) -> Path:
        """A weights file of a method."""
        path = self.folder / f"{method}.safetensors"
        if not path.exists():
            about = {"backbone": "any", "provenance": {}, "card": "Numbers of no meaning."}
            featup.save_upsampler(path, fill(build_upsampler(method, {"channels": CHANNELS, **config})), about)
        return path

    @cached_property
    def boxes(self) -> Path:
        """A data set: pictures, labels, depths and boundaries of three pictures to train on and two to score."""
        data = self.folder / "boxes"
        for split, lefts in (("train", (5, 20, 40)), ("val", (12, 33))):
            for kind in ("images", "labels", "depth", "boundaries"):
                (data / kind / split).mkdir(parents=True)
            for left in lefts:
                pixels, labels = draw_box(left)
                Image.fromarray(pixels).save(data / "images" / split / f"p{left}.bmp")
                Image.fromarray(labels).save(data / "labels" / split / f"p{left}.png")
                np.save(data / "depth" / split / f"p{left}.npy", np.where(labels == 1, 1.5, 4.0))
                drawn = np.zeros((1, *labels.shape), np.uint8)
                drawn[:, :, 1:] = np.diff(labels.astype(int), axis=1) != 0
                np.savez(data / "boundaries" / split / f"p{left}.npz", boundaries=drawn)
        (data / "classes.json").write_text(json.dumps({"classes": ["ground", "box"], "thin": ["box"]}))
        return data

    @cached_property
    def fitted(self) -> dict[str, Any]:
        """The JSON line of a picture with a fitted model."""
        command = ("upsample", self.photo, "-o", self.folder / "fitted", "--resize", 64, "--device", "cpu", "--json")
        return dict(run(*command, *FIT_OPTIONS, "--save-model")[0])

    @cached_property
    def trained(self) -> dict[str, Any]:
        """The JSON line of a training of two steps."""
        images, output = self.folder / "training", self.folder / "trained.safetensors"
        images.mkdir()
        for number in range(4):
            Image.fromarray(draw_box(10 * number)[0]).save(images / f"{number}.bmp")
        command = ("train", "--images", images, "-o", output, "--device", "cpu", "--json")
        return dict(run(*command, *TRAIN_OPTIONS)[0])

    @cached_property
    def imported(self) -> dict[str, Any]:
        """The JSON line of a checkpoint with the official names that was converted."""
        state = fill(build_upsampler("jbu-released", {"channels": CHANNELS})).state_dict()
        state = {f"upsampler.{name}": value for name, value in state.items()}
        state |= {"model.1.norm.weight": torch.ones(CHANNELS), "model.1.norm.bias": torch.zeros(CHANNELS)}
        torch.save({"state_dict": state, "epoch": 3}, self.folder / "official.ckpt")
        output = self.folder / "imported.safetensors"
        return dict(run("import-weights", self.folder / "official.ckpt", "-o", output, "--json")[0])
