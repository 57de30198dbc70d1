"""Streaming a result to files: the same as in memory, within bounds, whole or not at all."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import featup_cli as featup
from featup_cli.cli.app import app
from featup_cli.core.errors import MemoryBudgetError, OutputError, UsageError
from featup_cli.core.units import format_bytes, parse_bytes
from featup_cli.engine.bands import Task, make_bands
from featup_cli.engine.pipeline import Look, Pipeline
from featup_cli.engine.render import open_rendering
from featup_cli.engine.settings import Output, Upsampling
from featup_cli.engine.write import make_features, write_files
from featup_cli.pictures.read import Picture
from featup_cli.upsamplers.api import Details

FAST_SETTINGS = {"views": 6, "heldout_views": 2, "max_steps": 4, "tokens": 32, "hidden": 16}
FAST = featup.ImplicitConfig(**FAST_SETTINGS)


def write(photo: Path, target: Path, output: Output, **settings: object) -> tuple[Pipeline, dict[str, Path]]:
    pipeline = Pipeline(Upsampling(resize=64, implicit=FAST, **settings))  # type: ignore[arg-type]
    picture = pipeline.read(photo)
    plan = pipeline.plan(picture)
    written = pipeline.write(Look(picture, plan, pipeline.extract([picture], plan).lr_feats), target, output)
    assert written.shape == (96, *plan.output)
    return pipeline, written.paths


@pytest.mark.parametrize("method", ["bicubic", "jbu", "resfu", "implicit"])
@pytest.mark.parametrize("storage", ["full", "factored"])
def test_a_file_of_narrow_bands_holds_what_is_made_at_once(
    method: str, storage: str, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featup_cli.engine.bands.BAND_BYTES", 96 * 4 * 120 * 11)  # 11 rows
    target, output = tmp_path / "new" / "s.safetensors", Output("float32", storage, model=method == "implicit")
    pipeline, paths = write(photo, target, output, method=method, output_size=(90, 120))
    result = pipeline.run(photo)
    streamed = featup.load_features(target)
    memory = featup.load_features(result.save(tmp_path / "m.safetensors", dtype="float32", storage=storage))
    for name in ("features", "lr_features", "uncertainty", "saliency", "kernels"):
        torch.testing.assert_close(getattr(streamed, name), getattr(memory, name), atol=1e-4, rtol=1e-4)
    assert streamed.provenance["request"] == pipeline.request(output)
    assert streamed.provenance["seconds"] > 0
    with Image.open(paths["picture"]) as picture:
        shown = np.array(picture, dtype=float)
    assert np.abs(shown - result.render_picture()).mean() < 0.01
    assert set(path.name for path in target.parent.iterdir()) == {path.name for path in paths.values()}
    if method == "implicit":
        rendering = open_rendering(paths["model"], output_size="90x120", image=photo)
        rendered = featup.load_features(rendering.write(tmp_path / "r", Output()).paths["output"])
        assert rendered.lr_features is None
        torch.testing.assert_close(rendered.features.float(), streamed.features, atol=2e-2, rtol=2e-2)


def parts(path: Path) -> tuple[int, dict[str, Any], dict[str, Any], bytes]:
    """A safetensors file: length of its header, provenance without seconds, the rest of the header, and its data."""
    data = path.read_bytes()
    stop = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:stop])
    said = json.loads(header["__metadata__"].pop("featup"))
    assert said.get("provenance", said).pop("seconds") > 0
    said.pop("files", None)  # the command writes others beside it
    return stop, said, header, data[stop:]


def padded_length(path: Path) -> int:
    """Where the data begin if the header's text is padded to a multiple of 8 and no further."""
    data = path.read_bytes()
    text = data[8 : 8 + int.from_bytes(data[:8], "little")].rstrip(b" ")
    return 8 + math.ceil(len(text) / 8) * 8


@pytest.mark.parametrize("storage", ["full", "factored"])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "guided", "jbu", "resfu", "implicit"])
def test_what_python_saves_is_byte_for_byte_what_the_command_writes(
    method: str, storage: str, photo: Path, tmp_path: Path
) -> None:
    fit = [f"--set={name}={value}" for name, value in FAST_SETTINGS.items()] if method == "implicit" else []
    asked = ["--method", method, "--resize", 64, "--output-size", "90x120", "--storage", storage, *fit]
    for folder, option in (("a", []), ("b", ["--save-model"]))[: 2 if fit and storage == "full" else 1]:
        command = ["upsample", photo, "-o", tmp_path / folder, "--device", "cpu", "--quiet", *asked, *option]
        assert CliRunner().invoke(app, list(map(str, command))).exit_code == 0
    result = featup.upsample(
        photo, method=method, resize="64", output_size="90x120", implicit=FAST if fit else None, device="cpu"
    )
    saved = result.save(tmp_path / "c.safetensors", storage=storage)
    assert parts(saved) == parts(tmp_path / "a" / "photo.safetensors")
    assert result.save_picture(tmp_path / "c.png").read_bytes() == (tmp_path / "a" / "photo.png").read_bytes()
    if fit and storage == "full":
        model = result.save_model(tmp_path / "c.model.safetensors")
        by_command = tmp_path / "b" / "photo.model.safetensors"
        # Of a model the header is as long as its text, which holds the digits of the seconds.
        assert parts(model)[1:] == parts(by_command)[1:]
        assert parts(model)[0] == padded_length(model)
        assert parts(by_command)[0] == padded_length(by_command)
        arguments = ["render", model, "-o", tmp_path / "r", "--output-size", "70x50", "--device", "cpu", "--quiet"]
        assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
        rendered = featup.render(model, output_size="70x50", device="cpu")
        assert parts(rendered.save(tmp_path / "d.safetensors")) == parts(tmp_path / "r" / "c.70x50.safetensors")
        assert rendered.save_picture(tmp_path / "d.png").read_bytes() == (tmp_path / "r" / "c.70x50.png").read_bytes()


def test_a_picture_of_wide_features_is_made_of_a_reduced_copy(photo: Path, tmp_path: Path) -> None:
    _, paths = write(photo, tmp_path / "s.safetensors", Output(), method="bilinear", output_size=(1400, 1100))
    with Image.open(paths["picture"]) as picture:
        shown = np.array(picture)
    made = featup.upsample(photo, method="bilinear", resize=64, output_size=(1400, 1100))
    assert np.array_equal(shown, made.render_picture())  # 591 MB, in three bands
    (shown_by_visualize,) = featup.visualize([made.save(tmp_path / "m.safetensors")], image=photo)
    with Image.open(shown_by_visualize) as picture:
        assert np.abs(shown - np.array(picture, dtype=float)).mean() < 6


class Fake:
    """Gives rows that count up; runs out of memory above a number of rows, and wants its last band back first."""

    provenance = None

    def __init__(self, most: int = 10**9) -> None:
        self.details, self.most, self.asked = Details(), most, list[tuple[int, int]]()
        self.last: weakref.ref[Tensor] | None = None

    def __call__(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
        return torch.arange(float(output_size[0])).view(1, 1, -1, 1).expand(*lr_feats.shape[:2], *output_size)

    def bands(
        self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int], rows: int, start: int = 0
    ) -> Iterator[Tensor]:
        self.asked.append((rows, start))
        whole = self(image, lr_feats, output_size)
        for top in range(start, output_size[0], rows):
            assert self.last is None or self.last() is None, "the last band is still held"
            if rows > self.most or (top >= 20 and rows > 2):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            band = whole[:, :, top : top + rows].clone()
            self.last = weakref.ref(band)
            yield band
            del band

    def band_bytes(self, lr_shape: object, output_size: tuple[int, int], rows: int) -> int:
        return 1000 * rows


def task(upsampler: Fake, memory: int | None = None) -> Task:
    picture = Picture(np.zeros((8, 8, 3), np.uint8))
    return Task(upsampler, "bilinear", picture, torch.rand(1, 5, 3, 3), (37, 4), memory)


def test_a_band_that_runs_out_of_memory_is_halved_and_the_run_goes_on() -> None:
    fake = Fake(most=9)
    bands = []
    for band in make_bands(task(fake)):
        bands.append(band.clone())
        del band
    assert torch.equal(torch.cat(bands, 2), fake(torch.empty(0), torch.empty(1, 5), (37, 4)))
    assert fake.asked == [(37, 0), (18, 0), (9, 0), (4, 27), (2, 27)]


def test_a_result_in_memory_is_one_band_if_that_fits_and_else_bands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy, scarce = Fake(), Fake()
    expected = roomy(torch.empty(0), torch.empty(1, 5), (37, 4))[0]
    assert torch.equal(make_features(task(roomy)), expected)
    assert roomy.asked == [(37, 0)]
    monkeypatch.setattr("featup_cli.engine.bands._budget", lambda task: (30_000, 0))
    assert torch.equal(make_features(task(scarce)), expected)
    assert scarce.asked[0] == (24, 0)  # 90 % of what 2960 bytes of the result leave, at 1000 bytes a row


def test_when_not_even_one_row_fits_the_estimate_is_told() -> None:
    with pytest.raises(MemoryBudgetError, match=r"37x4 features \(height x width\) with --method bilinear need about"):
        list(make_bands(task(Fake(most=0))))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Fake):
        def bands(self, *arguments: object, **named: object) -> Iterator[Tensor]:  # type: ignore[override]
            raise RuntimeError("shapes differ")
            yield

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(make_bands(task(Broken())))


def test_too_little_memory_is_refused_before_the_work(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(MemoryBudgetError, match=r"give --memory [\d.]+GB, a smaller --output-size, or another method"):
        write(photo, tmp_path / "out" / "x.safetensors", Output(), method="jbu", memory=10_000_000)
    assert not (tmp_path / "out").exists()


def test_no_band_outlives_its_turn(tmp_path: Path) -> None:
    fake = Fake()
    write_files(task(fake), tmp_path / "x.safetensors", Output("float32", picture=True), lambda seconds: {})
    stored = featup.load_features(tmp_path / "x.safetensors").features
    assert torch.equal(stored[0, :, 0], torch.arange(37.0))


def test_values_that_can_not_be_stored_leave_no_file(tmp_path: Path) -> None:
    class Infinite(Fake):
        def __call__(self, image: Tensor, lr_feats: Tensor, output_size: tuple[int, int]) -> Tensor:
            whole = super().__call__(image, lr_feats, output_size).clone()
            whole[0, 0, 30, 0] = torch.inf
            return whole

    (tmp_path / "x.safetensors").write_bytes(b"old")
    with pytest.raises(OutputError, match="not written: features holds 1 NaN or infinite values"):
        write_files(task(Infinite()), tmp_path / "x.safetensors", Output(picture=False), lambda seconds: {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_bytes() == b"old"


def test_a_full_disk_is_noticed_before_the_work(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr("featup_cli.io.stream.shutil.disk_usage", lambda path: Usage)
    monkeypatch.setattr("featup_cli.engine.write.make_bands", lambda *_: pytest.fail("the work began"))
    with pytest.raises(OutputError, match=r"it needs 7\.\d MB and 1\.0 MB of the disk are free"):
        write(photo, tmp_path / "x.safetensors", Output(), method="bilinear", output_size=(200, 200))
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_request_says_what_was_asked(photo: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(Upsampling(method="jbu", output_size=(30, 40)))
    request = pipeline.request(Output("float32"))
    assert request["dtype"] == "float32"
    assert request["output_size"] == [30, 40]
    assert "device" not in request["backbone"]
    assert len(request["upsampler"]) == 64
    other = Pipeline(Upsampling(method="bilinear", output_size=(30, 40)))
    assert other.request(Output("float32")) != request


@pytest.mark.parametrize(
    ("text", "count"), [("2GB", 2e9), ("1500 mb", 1.5e9), ("1.5GiB", 1.5 * 2**30), ("2000000", 2e6)]
)
def test_sizes_are_read(text: str, count: float) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2 GBs", "0", "1e9", "2", "999999"])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_bytes(text)


def test_sizes_are_shown() -> None:
    assert [format_bytes(n) for n in (12, 3400, 870e6, 3.44e9, 29e9)] == [
        "12 bytes",
        "3.4 kB",
        "870 MB",
        "3.4 GB",
        "29 GB",
    ]
