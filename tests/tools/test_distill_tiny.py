"""The training of `tiny`, on a small scale."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

import featup_cli
from featup_cli.backbones.tiny.network import TinyNet, load_tiny
from tools.distill_tiny import (
    Sample,
    build_cache,
    colour_jitter,
    distill,
    draw_batch,
    fit_projection,
    list_pictures,
    load_cache,
    save_tiny,
)


class Teacher(torch.nn.Module):
    """Colours and their products, averaged over 32 pixels: 6 channels that a convolution can learn."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(torch.cat((image, image.square()), 1), 32)


def samples(count: int = 4) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        coarse = torch.rand(1, 3, 10, 12, generator=generator)
        image = torch.nn.functional.interpolate(coarse, scale_factor=16, mode="nearest")[0]
        made.append(Sample((image * 255).byte(), (coarse[0] - 0.5).half()))
    return made


def test_crops_keep_pictures_and_targets_aligned() -> None:
    images, targets = draw_batch([samples()], 10, 6, torch.Generator().manual_seed(1))
    assert images.shape == (6, 3, 160, 160)
    pooled = torch.nn.functional.avg_pool2d(images, 16)
    for image, target in zip(pooled, targets, strict=True):
        # Colour jitter changes values but keeps which cell is brighter.
        correlation = torch.corrcoef(torch.stack((image.mean(0).flatten(), target.mean(0).flatten())))[0, 1]
        assert float(correlation) > 0.7


def test_colour_jitter_stays_in_range_and_varies_between_pictures() -> None:
    batch = torch.full((8, 3, 4, 4), 0.5)
    jittered = colour_jitter(batch, torch.Generator().manual_seed(0))
    assert float(jittered.min()) >= 0
    assert float(jittered.max()) <= 1
    assert len(jittered[:, 0, 0, 0].unique()) == 8


def test_projection_is_the_principal_subspace() -> None:
    basis = torch.linalg.qr(torch.randn(5, 5)).Q
    tokens = torch.randn(2000, 5) * torch.tensor([5.0, 3.0, 0.1, 0.1, 0.1]) @ basis
    projection = fit_projection([tokens.T.reshape(5, 40, 50)], 2)
    assert projection["explained"] > 0.99
    torch.testing.assert_close(projection["std"], torch.tensor([5.0, 3.0]), atol=0.3, rtol=0)
    overlap = (projection["basis"] @ basis[:2].T).square().sum()
    torch.testing.assert_close(overlap, torch.tensor(2.0), atol=1e-2, rtol=0)


def test_pictures_come_in_the_order_of_paths_and_hidden_ones_do_not(tmp_path: Path) -> None:
    names = ["a/x.jpg", "a-b/y.PNG", ".hidden.jpg", "a/.thumbs/z.jpg", "a/notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_pictures(tmp_path) == [tmp_path / name for name in names[:2]]


def test_cache_holds_pictures_and_projected_targets_and_is_not_made_twice(photo: Path, tmp_path: Path) -> None:
    assert list_pictures(photo.parent) == [photo]
    cache = tmp_path / "cache"
    for _ in range(2):
        build_cache(cache, [[photo]], Teacher(), versions=2, max_tokens=200, seed=0)
    [group] = load_cache(cache)
    assert len(group) == 2
    for sample in group:
        assert sample.image.shape[1:] == tuple(16 * side for side in sample.target.shape[1:])
    assert not list(cache.glob("*.part"))


def test_training_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.pt"
    std = torch.ones(3)
    distill([samples()], std, minutes=0.02, checkpoint=checkpoint)
    first = torch.load(checkpoint, weights_only=True)
    distill([samples()], std, minutes=first["spent"] / 60 + 0.02, checkpoint=checkpoint)
    second = torch.load(checkpoint, weights_only=True)
    assert second["step"] > first["step"] > 0
    assert second["spent"] > first["spent"]


def test_saved_weights_load_and_give_nearly_the_same_features(tmp_path: Path) -> None:
    network = TinyNet().eval()
    save_tiny(network, tmp_path / "t.safetensors", {"name": "test"})
    loaded = load_tiny(tmp_path / "t.safetensors")
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), network(image), atol=2e-2, rtol=2e-2)
    assert load_file(tmp_path / "t.safetensors")["head.weight"].dtype == torch.float16


def test_packaged_weights_are_small_and_give_stride_16() -> None:
    network = load_tiny()
    with torch.no_grad():
        features = network(torch.rand(2, 3, 64, 96))
    assert features.shape == (2, 96, 4, 6)
    assert bool(torch.isfinite(features).all())
    packaged = Path(featup_cli.__file__).parent / "weights" / "tiny.safetensors"
    assert packaged.stat().st_size < 4_000_000
