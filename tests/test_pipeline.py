"""The Python interface: same results as the command, in memory and silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featup_cli as featup
from featup_cli.core.errors import InputError, UsageError

FAST = featup.ImplicitConfig(views=6, heldout_views=2, max_steps=4, tokens=32, hidden=16)


def test_result_is_in_memory_exact_and_silent(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = featup.upsample(photo, method="implicit", resize=64, output_size=(50, 71), implicit=FAST)
    assert result.features.shape == (96, 50, 71)
    assert result.features.dtype == torch.float32
    assert result.lr_features is not None
    assert result.lr_features.shape == (96, 4, 5)
    assert result.uncertainty is not None
    assert result.render_picture().ndim == 3
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_same_seed_gives_the_same_features(photo: Path) -> None:
    first, again, other = (
        featup.upsample(photo, resize=64, implicit=FAST, seed=seed).features for seed in (0, 0, 1)
    )  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_images_come_in_many_forms_with_one_result(photo: Path) -> None:
    backbone = featup.load_backbone(featup.BackboneConfig())
    with Image.open(photo) as image:
        pixels = np.array(image)
        forms = [photo, str(photo), image, pixels, torch.from_numpy(pixels).permute(2, 0, 1) / 255]
        results = [
            featup.upsample(form, backbone=backbone, method="bilinear", resize=64).features for form in forms
        ]  # fmt: skip
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_a_saved_result_reads_back(photo: Path, tmp_path: Path) -> None:
    result = featup.upsample(photo, method="bicubic", resize=64)
    path = result.save(tmp_path / "f.safetensors", dtype="float32")
    loaded = featup.load_features(path)
    assert torch.equal(loaded.features, result.features)
    assert loaded.provenance["method"] == "bicubic"
    assert loaded.provenance["input"]["sha256"] == result.provenance["input"]["sha256"]
    assert result.save_picture(tmp_path / "f.png").exists()


def test_a_model_in_memory_renders_other_sizes(photo: Path) -> None:
    result = featup.upsample(photo, resize=64, implicit=FAST)
    assert result.model is not None
    assert featup.render(result.model, output_size="90x33").features.shape == (96, 90, 33)
    # Without the backbone there are no low-resolution features to show, nor an uncertainty: two panels, not four.
    assert featup.render(result.model).render_picture().shape[1] < 0.6 * result.render_picture().shape[1]
    with pytest.raises(UsageError, match="fits no model"):
        featup.upsample(photo, method="nearest", resize=64).save_model("never.safetensors")


def test_errors_are_raised_not_printed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jpg"):
        featup.upsample(tmp_path / "none.jpg", method="bilinear")
    with pytest.raises(UsageError, match="one of: nearest"):
        featup.upsample(tmp_path / "none.jpg", method="best")


def test_exif_orientation_reaches_the_features(photo: Path, tmp_path: Path) -> None:
    with Image.open(photo) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying on its side
        image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    result = featup.upsample(tmp_path / "turned.jpg", method="nearest", output_size="image")
    assert result.features.shape[1:] == (96, 72)
