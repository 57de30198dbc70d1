"""Whole trainings on a small scale: what they leave, resuming, and several processes."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from featup_cli.core.errors import FeatUpError, InputError, OutputError, UsageError
from featup_cli.training.batches import seed_of
from featup_cli.training.config import Training
from featup_cli.training.model import Losses, MultiViewModel
from featup_cli.training.run import train
from featup_cli.training.trainer import Interrupted
from featup_cli.upsamplers.baselines import config as of
from featup_cli.upsamplers.baselines.config import ResizeConvConfig
from featup_cli.upsamplers.resfu.config import ReSFUConfig
from featup_cli.upsamplers.weights.file import build_upsampler, load_upsampler


def weights(training: Training) -> dict[str, Tensor]:
    return load_file(training.output)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def at_step(step: int, action: Callable[[], None]) -> Callable[[str, int, int, str], None]:
    """A progress callback that does something after a step."""

    def progress(stage: str, done: int, total: int, score: str) -> None:
        if stage == "steps" and done == step:
            action()

    return progress


def die() -> None:
    raise RuntimeError("killed")


def moved(training: Training, name: str, **changes: Any) -> Training:
    """The same training with another output."""
    return replace(training, output=training.output.with_name(f"{name}.safetensors"), **changes)


def command(training: Training, launcher: Sequence[str] = ()) -> list[str]:
    """The command line of a training."""
    settings = asdict(training.config) | {f"upsampler.{k}": v for k, v in asdict(training.upsampler).items()}
    return [
        sys.executable, *launcher, "-m", "featup_cli", "train", "--images", str(training.images[0]),
        "-o", str(training.output), "--cache", str(training.cache), "--device", "cpu",
        "--save-every", str(training.save_every),
        *(part for key, value in settings.items() for part in ("--set", f"{key}={as_text(value)}")),
    ]  # fmt: skip


def as_text(value: object) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def test_a_training_writes_weights_record_and_curves(training: Training) -> None:
    result = train(training)
    assert (result.pictures, result.heldout, result.skipped, result.steps) == (3, 3, 0, 6)
    module, metadata = load_upsampler(training.output)
    assert metadata["backbone"] == "any"
    assert metadata["config"]["radius"] == 1
    assert metadata["provenance"]["training"]["steps"] == 6
    assert metadata["provenance"]["backbone"]["name"] == "tiny"
    assert metadata["provenance"]["explained_variance"] == result.scores["explained_variance"]
    assert "tiny (96 channels)" in metadata["card"]
    assert module(torch.rand(1, 3, 64, 64), torch.rand(1, 5, 4, 4), (64, 64)).shape == (1, 5, 64, 64)
    assert json.loads((training.folder / "config.json").read_text())["method"] == "jbu"
    with (training.folder / "curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [3, 6]
    best = max(rows, key=lambda row: float(row["explained_variance"]))
    assert int(best["step"]) == result.step
    assert same(load_file(training.folder / "best.safetensors"), weights(training))
    assert (training.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_training_brings_the_error_down(training: Training) -> None:
    config = replace(
        training.config, steps=40, check_interval=20, tokens=32, positions=9, learning_rate=0.03, projection=0
    )
    train(replace(training, config=config))
    with (training.folder / "curves.csv").open() as stream:
        early, late = (float(row["explained_variance"]) for row in csv.DictReader(stream))
    assert late > early


def test_a_constant_rate_and_the_last_weights_are_what_was_asked_for(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = count(1.0)  # every check is worse than the one before
    score = lambda *_: torch.tensor([next(errors), 1.0, 99.0], dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr(MultiViewModel, "score", score)
    config = replace(training.config, schedule="constant", select="last", average=0.0)
    assert train(replace(training, config=config)).step == 6
    with (training.folder / "curves.csv").open() as stream:
        assert [float(row["learning_rate"]) for row in csv.DictReader(stream)] == [1e-3, 1e-3]
    state = torch.load(training.folder / "checkpoint.pt", weights_only=True)["trainer"]["model"]
    last = {n.removeprefix("upsampler."): v for n, v in state.items() if n.startswith("upsampler.")}
    assert same(weights(training), last)
    best = moved(training, "best", config=replace(config, select="best", schedule="cosine"))
    assert train(best).step == 3


@pytest.mark.parametrize(
    "upsampler",
    [
        ReSFUConfig(projection=8, hidden=16, groups=2, filter_radius=2), of.CARAFEConfig(compressed=8), of.SAPAConfig(),
        of.FADEConfig(compressed=8), of.DySampleConfig(), of.DySampleConfig(style="pl", groups=4),
        of.PixelShuffleConfig(hidden=8), of.DeconvConfig(hidden=8), of.DeconvConfig(full=True, ratio=4),
        ResizeConvConfig(hidden=8), of.LIIFConfig(hidden=8), of.IFAConfig(hidden=8, compressed=8), of.DGFConfig(),
        of.PACConfig(), of.PACConfig(full=True), of.IndexNetConfig(), of.A2UConfig(),
    ],
)  # fmt: skip
def test_other_upsamplers_are_trained_for_their_backbone(training: Training, upsampler: Any) -> None:
    config = replace(training.config, steps=2, check_interval=2, warmup=0, average=0.0)
    training = replace(training, upsampler=upsampler, config=config)
    train(training)
    module, metadata = load_upsampler(training.output)
    assert metadata["method"] == training.method
    assert metadata["config"] == {"channels": 96, **asdict(upsampler)}
    assert metadata["backbone"]["name"] == "tiny"
    assert metadata["backbone"]["channels"] == 96
    torch.manual_seed(seed_of(training.seed, "initial weights"))
    start = build_upsampler(training.method, metadata["config"])
    changed = {name for name, value in start.named_parameters() if not torch.equal(value, module.get_parameter(name))}
    assert changed >= {name for name, _ in start.named_parameters() if name.endswith("weight") and "norm" not in name}


def test_distillation_resumes_and_leaves_its_teacher_out(training: Training) -> None:
    config = replace(training.config, target="jbu", steps=4)
    training = replace(training, upsampler=ResizeConvConfig(hidden=8), config=config, save_every=0)
    train(moved(training, "whole"))
    with pytest.raises(RuntimeError, match="killed"):
        train(training, progress=at_step(3, die))
    state = torch.load(training.folder / "checkpoint.pt", weights_only=True)["trainer"]
    assert not any("teacher" in name for name in (*state["model"], *state["average"]))
    train(replace(training, resume=True))
    assert same(weights(training), weights(moved(training, "whole")))


def test_the_same_seed_gives_the_same_weights_and_another_one_others(training: Training) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(moved(training, name, seed=seed))
    first, second, third = (weights(moved(training, name)) for name in "abc")
    assert same(first, second)
    assert not same(first, third)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(training: Training, step: int) -> None:
    # Attention drops saliencies at random, so random draws of a step are tested too.
    config = replace(training.config, downsampler="attention", optimizer="nadam")
    training = replace(training, config=config, save_every=0)
    train(moved(training, "whole"))
    broken = moved(training, "broken")
    with pytest.raises(RuntimeError, match="killed"):
        train(broken, progress=at_step(step, die))
    notes: list[str] = []
    train(replace(broken, resume=True), note=notes.append)
    # It dies before the checkpoint of its last step is written.
    assert f"resuming after step {step - 1} of 6" in notes
    assert same(weights(broken), weights(moved(training, "whole")))
    tables = [(moved(training, name).folder / "curves.csv").read_text().splitlines() for name in ("broken", "whole")]
    without_seconds = [[line.rpartition(",")[0] for line in table] for table in tables]
    assert without_seconds[0] == without_seconds[1]


@pytest.mark.slow
def test_a_process_killed_at_any_moment_is_resumed(training: Training) -> None:
    training = replace(training, config=replace(training.config, steps=60), save_every=0)
    process = subprocess.Popen(command(training), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = training.folder / "checkpoint.pt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    train(replace(training, resume=True))
    train(moved(training, "whole"))
    assert same(weights(training), weights(moved(training, "whole")))


def test_ctrl_c_saves_and_stops_between_two_steps(training: Training) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        train(training, progress=at_step(2, lambda: signal.raise_signal(signal.SIGINT)))
    assert stopped.value.step == 3
    assert torch.load(training.folder / "checkpoint.pt", weights_only=True)["trainer"]["step"] == 3
    assert not training.output.exists()
    assert signal.getsignal(signal.SIGINT) is before
    train(replace(training, resume=True))
    assert training.output.exists()


def test_resuming_with_other_settings_names_what_differs(training: Training) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(replace(training, save_every=0), progress=at_step(3, die))
    other = replace(
        training, resume=True, seed=4, config=replace(training.config, learning_rate=0.5, views=3),
        upsampler=replace(training.upsampler, radius=2),
    )  # fmt: skip
    with pytest.raises(UsageError) as error:
        train(other)
    for part in ("training.learning_rate was 0.001, now 0.5", "upsampler.radius was 1, now 2", "seed was 0, now 4"):
        assert part in str(error.value)
    assert "batch" not in str(error.value)


def test_resuming_with_other_pictures_is_refused(training: Training, pictures: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(replace(training, save_every=0), progress=at_step(3, die))
    (pictures / "0.png").unlink()
    with pytest.raises(UsageError, match=r"pictures\.\w+ was"):
        train(replace(training, resume=True))


def test_an_unfinished_run_is_not_overwritten_by_accident(training: Training) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(replace(training, save_every=0), progress=at_step(3, die))
    with pytest.raises(UsageError, match=r"jbu.run: holds a training; give --resume to go on with it, --overwrite to"):
        train(training)


def test_a_finished_training_is_repeated_only_if_that_is_asked_for(training: Training) -> None:
    train(training)
    first = training.output.read_bytes()
    with pytest.raises(UsageError, match=r"jbu.run: holds a training"):
        train(replace(training, seed=1))
    shutil.rmtree(training.folder)
    with pytest.raises(UsageError, match=r"jbu.safetensors: exists already"):
        train(replace(training, seed=1))
    assert training.output.read_bytes() == first
    train(replace(training, seed=1, overwrite=True))
    assert training.output.read_bytes() != first
    training.output.write_text("notes of somebody")
    for choice in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match="was not made by featup"):
            train(replace(training, **choice))


def test_resuming_a_finished_run_writes_its_weights_again(training: Training) -> None:
    train(training)
    expected = weights(training)
    training.output.unlink()
    train(replace(training, resume=True), progress=at_step(1, die))
    assert same(weights(training), expected)


def test_resuming_where_there_is_nothing_starts_at_step_0(training: Training) -> None:
    notes: list[str] = []
    train(replace(training, resume=True), note=notes.append)
    assert any("no checkpoint" in note for note in notes)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT are not set: start them with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "29500"}, "but MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "x", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "must be whole numbers"),
    ],
    ids=str,
)
def test_several_processes_that_torchrun_did_not_start_are_refused(
    training: Training, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=says):
        train(training)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(training: Training, tmp_path: Path) -> None:
    training = replace(training, config=replace(training.config, steps=4, batch=4, average=0.0))
    train(training)
    both = moved(training, "both", cache=tmp_path / "other cache")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(command(both, launcher), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(both.output)]
    assert done.stderr.count("held out") == 1
    for name, expected in weights(training).items():
        torch.testing.assert_close(weights(both)[name], expected, atol=1e-5, rtol=1e-4, msg=name)
    assert len(list((tmp_path / "other cache").iterdir())) == 6
    last = [(folder / "curves.csv").read_text().splitlines()[-1] for folder in (training.folder, both.folder)]
    scores = [[float(value) for value in line.split(",")[1:5]] for line in last]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_outputs_that_cannot_be_written_are_found_out_before_the_work(training: Training, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for change in ({"output": tmp_path / "file" / "x.safetensors"}, {"run_folder": tmp_path / "file"}):
        with pytest.raises(OutputError, match="can't be written"):
            train(replace(training, **change))  # type: ignore[arg-type]
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_broken_pictures_is_an_error(training: Training, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    for name in "abc":
        (tmp_path / "broken" / f"{name}.jpg").write_bytes(name.encode())
    notes: list[str] = []
    with pytest.raises(InputError, match="at least 2"):
        train(replace(training, images=[tmp_path / "broken"]), note=notes.append)
    assert len(notes) == 3


def test_a_loss_that_is_no_number_is_an_error(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = MultiViewModel.forward

    def diverge(self: MultiViewModel, batch: Any) -> Losses:
        losses = forward(self, batch)
        return losses._replace(loss=losses.loss * float("nan"))

    monkeypatch.setattr(MultiViewModel, "forward", diverge)
    with pytest.raises(FeatUpError, match="step 1: the loss is nan; try a lower learning_rate"):
        train(training)


def test_feature_guidance_cannot_be_trained_on_pictures(training: Training) -> None:
    with pytest.raises(UsageError, match="guidance=image"):
        train(replace(training, upsampler=ReSFUConfig(guidance="features")))


def test_the_random_state_of_the_caller_is_left_alone(training: Training) -> None:
    before = torch.get_rng_state()
    train(training)
    assert torch.equal(torch.get_rng_state(), before)
