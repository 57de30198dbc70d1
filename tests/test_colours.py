"""Stored colours make pictures of separate runs comparable, and are refused for features that they don't fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import decomposition
from torch import Tensor

import featup_cli as featup
from featup_cli.cli.groups import check_basis
from featup_cli.core.errors import FeatUpError, InputError, OutputError, UsageError
from featup_cli.engine.write import Output
from featup_cli.io.describe import describe_file
from featup_cli.io.stream import save_features
from featup_cli.ops.pca import fit_pca
from featup_cli.pictures.basis import load_basis, write_basis
from featup_cli.pictures.captions import fitted
from featup_cli.pictures.components import Preview
from featup_cli.pictures.panels import Colours, fit_colours, resize_rgb
from featup_cli.pictures.visualize import make_basis, visualize
from tests.goldens.inputs import run
from tests.test_visualization import panels

TINY = {"name": "tiny", "resolved": "tiny", "layer": 0, "norm_applied": False, "weights_sha256": "1" * 64}
Write = Callable[..., Path]


def maps(seed: int, channels: int = 8) -> Tensor:
    """Features [C, 24, 32]."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, 5, generator=torch.Generator().manual_seed(99)) * torch.tensor([5.0, 4, 3, 2, 1])
    return torch.einsum("ck,khw->chw", mix, torch.randn(5, 24, 32, generator=generator))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(name: str, features: Tensor, **provenance: Any) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_features(path, features, lr_features=features[:, ::8, ::8], provenance=provenance, dtype=torch.float32)
        return path

    return save


def plain(files: list[Path], **options: Any) -> list[np.ndarray]:
    """Bare pictures, one pixel per feature."""
    return [np.array(Image.open(path)) for path in visualize(files, layout="plain", **options)]


def test_runs_with_one_basis_give_equal_features_equal_colours_and_others_need_not(
    write: Write, tmp_path: Path
) -> None:
    basis = tmp_path / "new" / "colours.safetensors"
    one, two = maps(0), maps(1)
    two[:, :, :16] = one[:, :, :16]
    first, second = write("first", one), write("second", two * torch.linspace(1, 3, 32))
    save_features(second, torch.cat((one[:, :, :16], 3 * two[:, :, 16:]), 2), provenance={}, dtype=torch.float32)
    (alone,) = plain([first], save_basis=basis)
    (stored,), (with_basis,), (without,) = plain([first], basis=basis), plain([second], basis=basis), plain([second])
    np.testing.assert_array_equal(alone, stored)
    np.testing.assert_array_equal(with_basis[:, :16], stored[:, :16])
    assert not np.array_equal(without[:, :16], stored[:, :16])


def test_a_stored_basis_reads_back_as_it_was(write: Write, tmp_path: Path) -> None:
    colours = fit_colours([maps(0).flatten(1).T], (4, 1, 6))
    sources = [(Path("a.safetensors"), {"backbone": TINY}), (Path("b.safetensors"), {})]
    stored = load_basis(write_basis(tmp_path / "c.safetensors", colours, sources))
    assert (stored.colours.components, stored.backbone) == ((4, 1, 6), {**TINY, "weights_source": None})
    for name in ("low", "high"):
        assert getattr(stored.colours, name).equal(getattr(colours, name))
    for name in ("mean", "basis", "std"):
        assert getattr(stored.colours.pca, name).equal(getattr(colours.pca, name))
    facts = describe_file(stored.path)
    assert (facts["kind"], facts["sources"]) == ("colour basis", ["a.safetensors", "b.safetensors"])
    path = write("photo", maps(0), backbone=TINY)
    plain([path], basis=stored.path)  # of which the components need not be given again
    with pytest.raises(UsageError, match=r"components 4,5,6: .*c\.safetensors holds 4,1,6"):
        visualize([path], basis=stored.path, components=(4, 5, 6))


def test_features_of_another_backbone_are_refused_by_name(write: Write, tmp_path: Path) -> None:
    basis = tmp_path / "colours.safetensors"
    ours = write("ours", maps(0), backbone=TINY)
    visualize([ours], save_basis=basis)
    others = {
        "dino": ({"name": "dino", "resolved": "vit"}, r"for tiny, layer 0, but .*photo.safetensors .* dino, layer 0"),
        "layer": ({"layer": 3}, "for tiny, layer 0, but .* tiny, layer 3"),
        "weights": ({"weights_sha256": "2" * 64}, r"weights_sha256 111111111111\), but .*weights_sha256 222222222222"),
    }
    for changes, message in others.values():
        with pytest.raises(InputError, match=message):
            visualize([ours, write("photo", maps(1), backbone=TINY | changes)], basis=basis, overwrite=True)
        assert not (tmp_path / "photo.png").exists()
        files = [ours, write("photo", maps(1), backbone=TINY | changes)]
        with pytest.raises(InputError, match=r"photo\.safetensors: has features of"):
            visualize(files, save_basis=tmp_path / "x.safetensors", overwrite=True)
    with pytest.raises(InputError, match=r"colours\.safetensors: is a basis for 8 channels, but .*wide.* has 9"):
        visualize([write("wide", maps(0, 9))], basis=basis)
    assert not (tmp_path / "x.safetensors").exists()


def test_what_is_no_basis_is_refused_and_nothing_else_is_replaced(write: Write, tmp_path: Path) -> None:
    features, other = write("photo", maps(0)), tmp_path / "other.safetensors"
    with pytest.raises(InputError, match=r"photo\.safetensors: is not a colour basis"):
        visualize([features], basis=features)
    with pytest.raises(InputError, match="no such file"):
        visualize([features], basis=other)
    with pytest.raises(OutputError, match=r"photo\.safetensors: exists and is not a colour basis"):
        visualize([features], save_basis=features)
    with pytest.raises(UsageError, match=r"\.safetensors"):
        visualize([features], save_basis=tmp_path / "colours.png")
    with pytest.raises(UsageError, match="one of them"):
        visualize([features], basis=other, save_basis=other)
    colours = fit_colours([maps(0).flatten(1).T], (1, 2, 3))
    pca = colours.pca
    broken = Colours(type(pca)(pca.mean[:3], pca.basis, pca.std, pca.std, 0), (1, 2, 3), colours.low, colours.high)
    with pytest.raises(InputError, match="damaged colour basis"):
        load_basis(write_basis(other, broken, []))
    infinite = Colours(pca, (1, 2, 3), colours.low, colours.high * torch.inf)
    with pytest.raises(InputError, match="damaged colour basis"):
        load_basis(write_basis(other, infinite, []))
    assert not (tmp_path / "photo.png").exists()


def test_the_picture_of_a_result_takes_the_same_colours(write: Write, tmp_path: Path) -> None:
    features, basis = maps(0), tmp_path / "colours.safetensors"
    make_basis([write("photo", features)], basis)
    stored = load_basis(basis)
    preview = Preview((24, 32), features[:, ::8, ::8], basis=stored)
    for band in features.split(10, 1):
        preview.add(band)
    low, high = (np.asarray(panel, int) for panel in panels(preview.render()))
    for shown, of in ((low, features[:, ::8, ::8]), (high, features)):
        expected = resize_rgb(stored.colours.picture(of), (shown.shape[0], shown.shape[1]))
        assert np.abs(shown - expected).max() <= 1  # of 255, by rounding


def shown(features: Tensor, lr_features: Tensor | None, basis: str) -> np.ndarray:
    """The upsampled features as the picture of a result shows them."""
    pca = None if lr_features is not None else fit_pca(features.flatten(1).T, 8)
    preview = Preview((24, 32), lr_features, pca=pca, basis=basis)
    preview.add(features)
    panel = panels(preview.render())[-1]  # tokens as squares
    rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in zip((24, 32), panel.shape, strict=False))
    return panel[rows.astype(int)][:, columns.astype(int)]


@pytest.mark.parametrize("basis", ["low", "both"])
@pytest.mark.parametrize("stored", [True, False], ids=["low resolution", "none"])
def test_colours_are_fitted_to_the_low_resolution_alone_unless_both_are_asked_for(
    basis: str, stored: bool, tmp_path: Path
) -> None:
    features = maps(0)
    lr_features = features[:, ::8, ::8] * torch.linspace(1, 2, 4)  # other colours than those of the features
    path = tmp_path / "photo.safetensors"
    low = {"lr_features": lr_features} if stored else {}
    save_features(path, features, **low, provenance={}, dtype=torch.float32)
    fitted_to = [*([lr_features] if stored else []), *([features] if basis == "both" or not stored else [])]
    tokens = np.concatenate([each.flatten(1).T.numpy() for each in fitted_to]).astype(np.float64)
    # By another route: axes by scikit-learn, whose signs are arbitrary, and colours by numpy.
    axes = decomposition.PCA(3).fit(tokens)
    scores, values = axes.transform(tokens), axes.transform(features.flatten(1).T.numpy().astype(np.float64))
    low_end, high_end = np.percentile(scores, (1, 99), axis=0)
    expected = ((values - low_end) / (high_end - low_end)).clip(0, 1).reshape(24, 32, 3) * 255
    (of_file,) = plain([path], basis=basis)
    for rgb in (of_file, shown(features, lr_features if stored else None, basis)):
        for channel in range(3):
            one, other = rgb[..., channel].astype(float), expected[..., channel]
            assert min(np.abs(one - other).max(), np.abs(255 - one - other).max()) < 2


def test_the_line_below_a_picture_says_what_its_colours_are_fitted_to() -> None:
    assert fitted("low") == (
        "Colours are fitted to the low-resolution features of this picture; those of separate runs can't be compared "
        "(--basis FILE makes them agree)."
    )
    texts = {
        ("both", 3, 0): "the low- and high-resolution features of 3 files",
        ("low", 3, 1): "the low-resolution features of 3 files (of 1 without any, the features themselves)",
        ("low", 1, 1): "the features of this picture, as there are no low-resolution ones",
        ("both", 3, 3): "the features of 3 files, as there are no low-resolution ones",
    }
    for given, text in texts.items():
        assert f"fitted to {text};" in fitted(*given)


def test_a_picture_has_the_line_of_its_basis(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        "featup_cli.pictures.visualize.panel_rows", lambda *a: lines.extend(a[2]) or np.zeros((9, 9, 3), np.uint8)
    )
    one, other = write("one", maps(0)), write("other", maps(1))
    bare = other.with_name("bare.safetensors")
    save_features(bare, maps(2), provenance={}, dtype=torch.float32)
    visualize([one, other])
    visualize([one], basis="both")
    visualize([one, bare], overwrite=True)
    visualize([bare], overwrite=True, basis="both")
    told = [line for line in lines if line.startswith("Colours")]
    assert told == [fitted("low", 2)] * 2 + [fitted("both")] + [fitted("low", 2, 1)] * 2 + [fitted("both", 1, 1)]


def test_both_and_low_are_no_files_unless_they_are_paths(write: Write, tmp_path: Path) -> None:
    features, out = write("photo", maps(0)), tmp_path / "out"
    basis = tmp_path / "both"
    make_basis([features], tmp_path / "b.safetensors", "both")
    (tmp_path / "b.safetensors").rename(basis)
    common = ("visualize", features, "-o", out, "--layout", "plain", "--json", "--overwrite")
    assert run(*common, "--basis", basis)
    stored = np.array(Image.open(out / "photo.pca.plain.both.png"))
    assert run(*common, "--basis", "both")
    np.testing.assert_array_equal(stored, np.array(Image.open(out / "photo.pca.plain.both.png")))
    with pytest.raises(InputError, match="low, both, or what --save-basis wrote"):
        check_basis(str(tmp_path / "hight"))
    with pytest.raises(UsageError, match="none is asked for"):
        Output(picture=False, basis="both")


def test_the_command_stores_colours_of_all_results(photo: Path, tmp_path: Path) -> None:
    basis, out = tmp_path / "colours.safetensors", tmp_path / "out"
    again = photo.with_name("again.jpg")
    again.write_bytes(photo.read_bytes())
    common = ("--method", "bilinear", "--resize", "64", "--device", "cpu", "--json", "-o", out)
    assert len(run("upsample", photo, again, *common, "--save-basis", basis)) == 2
    stored = load_basis(basis)
    assert stored.backbone is not None
    assert stored.backbone["name"] == "tiny"
    assert describe_file(basis)["sources"] == [str(out / f"{stem}.safetensors") for stem in ("photo", "again")]
    assert [line["status"] for line in run("upsample", photo, again, *common, "--basis", basis, "--overwrite")] == [
        "done"
    ] * 2
    pictures = [np.array(Image.open(out / f"{stem}.png")) for stem in ("photo", "again")]
    np.testing.assert_array_equal(*pictures)
    assert run("visualize", out / "photo.safetensors", "--basis", basis, "-o", tmp_path / "new", "--json")


def test_a_result_is_up_to_date_only_with_the_same_basis(write: Write, tmp_path: Path, photo: Path) -> None:
    plainly = {"settings": featup.Upsampling(method="bilinear", resize=64, device="cpu")}
    folder, basis = tmp_path / "out", tmp_path / "colours.safetensors"

    def status(output: Output | None = None, overwrite: bool = False) -> str:
        (record,) = featup.upsample_many([photo], folder, output=output, overwrite=overwrite, **plainly)
        return record.status

    assert [status(), status()] == ["done", "skipped"]
    make_basis([folder / f"{photo.stem}.safetensors"], basis)
    before = np.array(Image.open(folder / f"{photo.stem}.png"))
    assert status(Output(basis=basis)) == "failed"
    assert [status(Output(basis=basis), overwrite=True), status(Output(basis=str(basis)))] == ["done", "skipped"]
    assert not np.array_equal(before, np.array(Image.open(folder / f"{photo.stem}.png")))
    other = write("other", maps(0, 96))
    with pytest.raises(FeatUpError, match="not a colour basis"):
        status(Output(basis=other), overwrite=True)
    make_basis([other], basis)
    assert status(Output(basis=basis), overwrite=True) == "done"
    assert [status(), status(Output(basis="both"))] == ["failed", "failed"]
    assert [status(overwrite=True), status(Output(basis="low"))] == ["done", "skipped"]
    with pytest.raises(UsageError, match="--basis"):
        Output(picture=False, basis=basis)
