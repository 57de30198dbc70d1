"""`featup train` as a function: pictures in, the weights of an upsampler out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.describe import choose_device, describe_device, versions
from featup_cli.core.distributed import Workers, join_workers
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.progress import Progress, no_progress
from featup_cli.io.atomic import atomic_path, check_writable
from featup_cli.io.digest import file_sha256
from featup_cli.pictures.panels import save_png
from featup_cli.training.batches import Batches, measure_statistics, seed_of
from featup_cli.training.cache import FeatureCache, fill_cache
from featup_cli.training.config import TrainConfig
from featup_cli.training.curves import Row, draw_curves, save_table
from featup_cli.training.model import MultiViewModel
from featup_cli.training.pictures import find_pictures, split_samples
from featup_cli.training.trainer import State, Trainer, stop_on_signals
from featup_cli.upsamplers.jbu.config import JBUConfig
from featup_cli.upsamplers.registry import method_of
from featup_cli.upsamplers.weights.file import build_upsampler, save_upsampler, take_weights
from featup_cli.upsamplers.weights.identity import backbone_identity

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Note = Callable[[str], None]


def no_note(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Training:
    """What to train, on what, and where it goes; fields are those of `featup train`.

    Attributes:
        images: folders, searched with all that is below.
        output: the weights file.
        upsampler: settings of the upsampler, of a method with weights, which also say which one it is.
        backbone: whose features are to be upsampled.
        config: settings of the training.
        run_folder: configuration, curves and checkpoint; None for OUTPUT with suffix `.run`.
        cache: features of the backbone; None for `cache` in the run folder.
        resume: go on from the checkpoint in the run folder, if there is one.
        device: auto, cpu, cuda, ...
        seed: the same seed on the same device gives the same upsampler.
        save_every: seconds between two checkpoints.
        init: weights of the same method to start from; what doesn't fit starts anew.
    """

    images: Sequence[Path]
    output: Path
    upsampler: DataclassInstance = field(default_factory=JBUConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    config: TrainConfig = field(default_factory=TrainConfig)
    run_folder: Path | None = None
    cache: Path | None = None
    resume: bool = False
    device: str = "auto"
    seed: int = 0
    save_every: float = 60.0
    init: Path | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_folder or self.output.with_suffix(".run")

    @property
    def method(self) -> str:
        """Name of the upsampler."""
        return method_of(self.upsampler).name


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        output: the weights file.
        scores: explained variance of unseen views, of the upsampler that was kept and of bilinear beside it.
        step: from which the weights are; `steps` all that were taken.
        pictures: trained on; `heldout` only looked at; `skipped` could not be read.
        seconds: of training, without the cache.
        goal: what the scores are a share of, for people.
    """

    output: Path
    scores: dict[str, float]
    step: int
    steps: int
    pictures: int
    heldout: int
    skipped: int
    seconds: float
    goal: str


def train(
    training: Training, backbone: Backbone | None = None, progress: Progress = no_progress, note: Note = no_note
) -> Trained:
    """Train a feed-forward upsampler on pictures by multi-view reconstruction (FeatUp, section 3).

    Args:
        training: what to do.
        backbone: a loaded one, instead of loading that of `training`.
        progress: called as the work goes on.
        note: called with sentences that the user should read.
    Raises:
        UsageError: settings that can't be obeyed, or that differ from those of the run to resume.
        InputError: too few readable pictures.
        OutputError: the output or run folder can't be written; found out before the work.
        Interrupted: stopped by Ctrl-C or SIGTERM; the state is saved.
    """
    with join_workers() as workers, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if not workers.is_main:
            progress, note = no_progress, no_note
        return _Run(training, backbone, workers, progress, note).train()


class _Run:
    """One process's part of a training."""

    def __init__(
        self, training: Training, backbone: Backbone | None, workers: Workers, progress: Progress, note: Note
    ) -> None:
        self.training, self.workers, self.progress, self.note = training, workers, progress, note
        self.config = training.config
        self.checkpoint = training.folder / "checkpoint.pt"
        if self.config.batch % workers.size:
            raise UsageError(f"batch={self.config.batch}: must be a multiple of the {workers.size} processes")
        if getattr(training.upsampler, "guidance", "image") == "features":
            raise UsageError("upsampler.guidance=features: training on pictures needs guidance=image")
        if workers.is_main:
            check_writable(training.output)
            check_writable(training.folder / "config.json")
        self.saved = workers.broadcast(self._load_checkpoint() if workers.is_main else None)
        files = find_pictures(training.images)
        self.backbone = backbone or load_backbone(training.backbone, self._choose_device())
        self.device = self.backbone.device
        self.settings = self._describe_settings()
        self._refuse_changes()
        torch.manual_seed(seed_of(training.seed, "initial weights"))
        model = MultiViewModel(self._start_upsampler(), self.backbone.channels, self.config)
        cache = FeatureCache(training.cache or training.folder / "cache", self.backbone, self.config)
        pictures, broken = fill_cache(cache, files, workers, progress)
        self.skipped = len(broken)
        for message in broken:
            note(f"skipped: {message}")
        self.keys, self.heldout = split_samples(pictures, self.config.heldout_share)
        digest = hashlib.sha256(" ".join([*self.keys, "|", *self.heldout]).encode()).hexdigest()
        self.settings["pictures"] = {"trained": len(self.keys), "heldout": len(self.heldout), "sha256": digest}
        self._refuse_changes()
        statistics = measure_statistics(cache, self.keys)
        batches = Batches(cache, self.keys, self.heldout, statistics, self.config, self.backbone.stride, training.seed)
        self.trainer = Trainer(model.to(self.device), batches, workers)

    def train(self) -> Trained:
        """Train, and write everything."""
        trainer, config, training = self.trainer, self.config, self.training
        if self.saved is not None:
            trainer.restore(self.saved["trainer"])
            self.note(f"going on after step {trainer.step} of {config.steps}")
        main = self.workers.is_main
        if main:
            self._write_config()
        with stop_on_signals() as stop:
            trainer.run(
                stop,
                on_step=self._report_step,
                on_check=self._report_check if main else lambda row, is_best: None,
                save=self._save_checkpoint if main else lambda: None,
                save_every=training.save_every,
            )
        kept = next(row for row in trainer.rows if row.step == trainer.best["step"])
        result = Trained(
            output=training.output,
            scores={
                "explained_variance": kept.explained_variance,
                "bilinear_explained_variance": kept.bilinear_explained_variance,
            },
            step=kept.step, steps=config.steps, pictures=len(self.keys) // config.crops,
            heldout=len(self.heldout) // config.crops, skipped=self.skipped, seconds=trainer.seconds,
            goal=self.goal,
        )  # fmt: skip
        if main:
            self._save_upsampler(training.output)
        if kept.explained_variance <= kept.bilinear_explained_variance:
            self.note(f"the upsampler explains no more of {self.goal} than bilinear: train longer or on more pictures")
        self.workers.gather(None)  # nobody leaves before the file is there
        return result

    def _choose_device(self) -> torch.device:
        device = choose_device(self.training.device)
        if device.type == "cuda" and device.index is None and self.workers.size > 1:
            return torch.device("cuda", self.workers.local_rank % torch.cuda.device_count())
        return device

    def _build_upsampler(self) -> nn.Module:
        for_any = method_of(self.training.upsampler).any_backbone(self.training.upsampler)
        channels = {} if for_any else {"channels": self.backbone.channels}
        return build_upsampler(self.training.method, channels | asdict(self.training.upsampler))

    def _start_upsampler(self) -> nn.Module:
        """The upsampler before the first step."""
        upsampler = self._build_upsampler()
        if self.training.init is not None:
            fresh = take_weights(upsampler, self.training.init)
            if fresh:
                self.note(f"{self.training.init} has no fitting {', '.join(fresh)}: these start anew")
        return upsampler

    def _describe_settings(self) -> dict[str, Any]:
        """All that fixes the result, besides the pictures, as JSON values."""
        facts = {
            "method": self.training.method,
            "upsampler": asdict(self.training.upsampler),
            "training": asdict(self.config),
            "backbone": backbone_identity(self.backbone),
            "init": self.training.init and file_sha256(self.training.init),
            "seed": self.training.seed,
        }
        described: dict[str, Any] = json.loads(json.dumps(facts))
        return described

    def _refuse_changes(self) -> None:
        """Raise UsageError if settings, as far as they are known, differ from those of the run to resume."""
        if self.saved is None:
            return
        old, new = _flatten(self.saved["settings"]), _flatten(self.settings)
        keys = [
            key for key in {**new, **old} if key.partition(".")[0] in self.settings and old.get(key) != new.get(key)
        ]
        changed = [f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys]
        if changed:
            raise UsageError(f"--resume: {self.training.folder} holds a run with other settings: {', '.join(changed)}")

    def _load_checkpoint(self) -> State | None:
        """The checkpoint to resume.

        Raises:
            UsageError: there is one of an unfinished run, and nobody said to resume it.
        """
        if not self.checkpoint.exists():
            if self.training.resume:
                self.note("no checkpoint to resume: starting at step 0")
            return None
        try:
            state: State = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises nearly anything on a damaged file
            raise InputError(
                f"{self.checkpoint}: is damaged ({type(error).__name__}); delete it to start anew"
            ) from None
        if self.training.resume:
            return state
        done, steps = state["trainer"]["step"], state["settings"]["training"]["steps"]
        if done < steps:
            raise UsageError(
                f"{self.training.folder} holds a run stopped after step {done} of {steps}: go on with --resume, "
                "or delete the folder to start anew"
            )
        return None

    def _save_checkpoint(self) -> None:
        with atomic_path(self.checkpoint) as temporary:
            torch.save({"settings": self.settings, "trainer": self.trainer.state()}, temporary)

    def _write_config(self) -> None:
        training = self.training
        facts = {
            **self.settings, "images": [str(folder) for folder in training.images], "output": str(training.output),
            "skipped": self.skipped, "processes": self.workers.size, "device": describe_device(self.device),
            "versions": versions(),
        }  # fmt: skip
        with atomic_path(training.folder / "config.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")

    def _report_step(self, loss: float) -> None:
        text = f"loss {loss:.3f}"
        if self.trainer.rows:
            text += f"  {self._describe(self.trainer.rows[-1])}"
        self.progress("steps", self.trainer.step, self.config.steps, text)

    def _report_check(self, row: Row, is_best: bool) -> None:
        folder = self.training.folder
        save_table(folder / "curves.csv", self.trainer.rows)
        save_png(folder / "curves.png", draw_curves(self.trainer.rows))
        if is_best:
            self._save_upsampler(folder / "best.safetensors")
        left = row.seconds / row.step * (self.config.steps - row.step) / 60
        self.note(
            f"step {row.step} of {self.config.steps}: loss {row.loss:.3f}, {self._describe(row)}, {left:.0f} min left"
        )

    def _save_upsampler(self, path: Path) -> None:
        """Write the best weights so far, with where they come from."""
        best, training = self.trainer.best, self.training
        upsampler = self._build_upsampler()
        upsampler.load_state_dict(best["state"])
        identity = backbone_identity(self.backbone)
        row = next(row for row in self.trainer.rows if row.step == best["step"])
        provenance = {
            **self.settings, "step": row.step, "explained_variance": row.explained_variance,
            "bilinear_explained_variance": row.bilinear_explained_variance, "seconds": round(self.trainer.seconds, 1),
            "device": describe_device(self.device), "versions": versions(),
        }  # fmt: skip
        card = (
            f"{training.method} upsampler, trained by `featup train` on {len(self.keys)} crops of pictures with the "
            f"features of {identity['name']} ({identity['channels']} channels), {row.step} steps of "
            f"{self.config.batch} crops. It explains {row.explained_variance:.1%} of {self.goal} of "
            f"{len(self.heldout)} held-out crops; bilinear interpolation {row.bilinear_explained_variance:.1%}."
        )
        serves = "any" if method_of(training.upsampler).any_backbone(training.upsampler) else identity
        save_upsampler(path, upsampler, {"backbone": serves, "provenance": provenance, "card": card})

    @property
    def goal(self) -> str:
        """What the score is a share of, for people."""
        return "unseen views" if self.config.target == "views" else f"what {self.config.target} makes"

    def _describe(self, row: Row) -> str:
        return f"explains {row.explained_variance:.1%} of {self.goal} (bilinear {row.bilinear_explained_variance:.1%})"


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
