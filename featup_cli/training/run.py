"""`featup train` as a function: pictures in, the weights of an upsampler out."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.registry import load_backbone
from featup_cli.core.checks import checked
from featup_cli.core.describe import choose_device, describe_device
from featup_cli.core.distributed import Workers, join_workers
from featup_cli.core.errors import InputError, UsageError
from featup_cli.core.progress import Announce, Progress, no_announcement, no_progress
from featup_cli.core.settings import differences
from featup_cli.core.text import counted
from featup_cli.core.versions import versions
from featup_cli.io.atomic import atomic_path, check_writable
from featup_cli.io.digest import file_sha256
from featup_cli.pictures.panels import save_png
from featup_cli.training.batches import Batches, measure_statistics, seed_of
from featup_cli.training.cache import FeatureCache, fill_cache
from featup_cli.training.config import VIEWS, Training
from featup_cli.training.curves import Row, draw_curves, save_table
from featup_cli.training.model import MultiViewModel
from featup_cli.training.pictures import find_pictures, split_samples
from featup_cli.training.trainer import Interrupted, State, Trainer, stop_on_signals
from featup_cli.upsamplers.weights.file import build_upsampler, save_upsampler, take_weights
from featup_cli.upsamplers.weights.identity import backbone_identity


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        output: the weights file.
        scores: explained variance of unseen views, by the saved upsampler and by bilinear.
        step: step of the saved weights; `steps` counts all steps.
        pictures: number trained on; `heldout` were only evaluated; `skipped` could not be read.
        seconds: training time, without the cache.
        goal: the whole of which the scores are a share, as text.
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


@checked
def train(
    training: Training,
    backbone: Backbone | None = None,
    progress: Progress = no_progress,
    note: Announce = no_announcement,
) -> Trained:
    """Train a feed-forward upsampler on pictures by multi-view reconstruction (FeatUp, section 3).

    Args:
        training: inputs, outputs and settings.
        backbone: a loaded one, instead of loading that of `training`.
        progress: called during the work.
        note: called with sentences that the user should read.
    Raises:
        UsageError: settings are invalid, or differ from those of the run to resume.
        InputError: too few readable pictures.
        OutputError: the output or run folder can't be written; checked before the work.
        Interrupted: stopped by Ctrl-C or SIGTERM; the state is saved.

    Example:
        >>> import tempfile, numpy, featup_cli as featup
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for seed in range(6):
        ...     pixels = numpy.random.default_rng(seed).integers(0, 255, (40, 48, 3), numpy.uint8)
        ...     Image.fromarray(pixels).save(folder / f"{seed}.png")
        >>> config = featup.TrainConfig(steps=2, crop_size=32, views=2)
        >>> trained = featup.train(featup.Training([folder], folder / "jbu.safetensors", config=config))
        >>> trained.step, featup.load_upsampler(trained.output)[1]["method"]
        (2, 'jbu')
    """
    with join_workers() as workers, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if not workers.is_main:
            progress, note = no_progress, no_announcement
        return _Run(training, workers, progress, note).train(backbone)


class _Run:
    """One process's part of a training."""

    def __init__(self, training: Training, workers: Workers, progress: Progress, note: Announce) -> None:
        self.training, self.workers, self.progress, self.note = training, workers, progress, note
        self.config = training.config
        self.goal = "unseen views" if self.config.target == VIEWS else f"what {self.config.target} makes"
        self.checkpoint = training.checkpoint

    def train(self, backbone: Backbone | None) -> Trained:
        """Train, and write everything."""
        self._check()
        saved = self.workers.broadcast(self._load_checkpoint() if self.workers.is_main else None)
        self._prepare(backbone, saved)
        trainer, config, main = self.trainer, self.config, self.workers.is_main
        if saved is not None:
            trainer.restore(saved["trainer"])
            self.note(f"resuming after step {trainer.step} of {config.steps}")
        if main:
            self._write_config()
        self._take_steps()
        if main:
            self._save_upsampler(self.training.output)
        best = trainer.best_row
        if best.explained_variance <= best.bilinear_explained_variance:
            self.note(f"the upsampler explains no more of {self.goal} than bilinear: train longer or on more pictures")
        self.workers.gather(None)  # nobody leaves before the file is there
        scores = {name: getattr(best, name) for name in ("explained_variance", "bilinear_explained_variance")}
        pictures, heldout = (len(keys) // config.crops for keys in (self.keys, self.heldout))
        return Trained(
            self.training.output, scores, best.step, config.steps, pictures, heldout, self.skipped, trainer.seconds,
            self.goal,
        )  # fmt: skip

    def _check(self) -> None:
        """Check settings, inputs and outputs before any work."""
        if self.config.batch % self.workers.size:
            raise UsageError(f"batch={self.config.batch}: must be a multiple of the {self.workers.size} processes")
        if getattr(self.training.upsampler, "guidance", "image") == "features":
            raise UsageError("upsampler.guidance=features: training on pictures needs guidance=image")
        self.files = find_pictures(self.training.images)  # first, as the next check makes folders
        if self.workers.is_main:
            self.training.check_outputs()
            check_writable(self.training.output)
            check_writable(self.training.folder / "config.json")

    def _prepare(self, backbone: Backbone | None, saved: State | None) -> None:
        """Load the backbone, fill the cache, and make the trainer."""
        training, config = self.training, self.config
        self.backbone = backbone or load_backbone(training.backbone, self._choose_device())
        self.settings = self._describe_settings()
        self._refuse_changes(saved)
        torch.manual_seed(seed_of(training.seed, "initial weights"))
        model = MultiViewModel(self._start_upsampler(), self.backbone.channels, config)
        cache = FeatureCache(training.cache or training.folder / "cache", self.backbone, config)
        pictures, broken = fill_cache(cache, self.files, self.workers, self.progress)
        self.skipped = len(broken)
        for message in broken:
            self.note(f"skipped: {message}")
        self.keys, self.heldout = split_samples(pictures, config.heldout_share)
        digest = hashlib.sha256(" ".join([*self.keys, "|", *self.heldout]).encode()).hexdigest()
        self.settings["pictures"] = {"trained": len(self.keys), "heldout": len(self.heldout), "sha256": digest}
        self._refuse_changes(saved)
        statistics = measure_statistics(cache, self.keys)
        batches = Batches(cache, self.keys, self.heldout, statistics, config, self.backbone.stride, training.seed)
        self.trainer = Trainer(model.to(self.backbone.device), batches, self.workers)

    def _take_steps(self) -> None:
        """Run the remaining steps; report and save meanwhile."""
        trainer, main, saved = self.trainer, self.workers.is_main, time.monotonic()
        with stop_on_signals() as stop, closing(trainer.steps(stop)) as steps:
            for step in steps:
                text = f"  {self._describe(trainer.rows[-1])}" if trainer.rows else ""
                self.progress("steps", trainer.step, self.config.steps, f"loss {step.loss:.3f}{text}")
                if main and step.looked:
                    self._report_check(trainer.rows[-1], step.is_best)
                if main and (step.looked or step.stopped or time.monotonic() - saved >= self.training.save_every):
                    with atomic_path(self.checkpoint) as temporary:
                        torch.save({"settings": self.settings, "trainer": trainer.state()}, temporary)
                    saved = time.monotonic()
                if step.stopped and trainer.step < self.config.steps:
                    raise Interrupted(trainer.step)

    def _choose_device(self) -> torch.device:
        device = choose_device(self.training.device)
        if device.type == "cuda" and device.index is None and self.workers.size > 1:
            return torch.device("cuda", self.workers.local_rank % torch.cuda.device_count())
        return device

    def _build_upsampler(self) -> nn.Module:
        channels = {} if self.training.serves_any else {"channels": self.backbone.channels}
        return build_upsampler(self.training.method, channels | asdict(self.training.upsampler))

    def _start_upsampler(self) -> nn.Module:
        """The upsampler before the first step."""
        upsampler, init = self._build_upsampler(), self.training.init
        if init is not None and (fresh := take_weights(upsampler, init)):
            self.note(f"{init} has no matching {', '.join(fresh)}; these start at random")
        return upsampler

    def _describe_settings(self) -> dict[str, Any]:
        """All settings that determine the result, besides the pictures, as JSON values."""
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

    def _refuse_changes(self, saved: State | None) -> None:
        """Raise UsageError if the settings known so far differ from those of the run to resume."""
        found = differences(saved["settings"], self.settings) if saved is not None else ()
        changed = [f"{key} was {old}, now {new}" for key, old, new in found if key.partition(".")[0] in self.settings]
        if changed:
            raise UsageError(f"--resume: {self.training.folder} holds a run with other settings: {', '.join(changed)}")

    def _load_checkpoint(self) -> State | None:
        """The checkpoint to resume."""
        if not self.training.resume:
            return None
        if not self.checkpoint.exists():
            self.note("no checkpoint to resume; starting at step 0")
            return None
        try:
            state: State = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises nearly anything on a damaged file
            raise InputError(
                f"{self.checkpoint}: is damaged ({type(error).__name__}); delete it to start from step 0"
            ) from None
        return state

    def _write_config(self) -> None:
        training = self.training
        facts = {
            **self.settings, "images": [str(folder) for folder in training.images], "output": str(training.output),
            "skipped": self.skipped, "processes": self.workers.size, **self._machine(),
        }  # fmt: skip
        with atomic_path(training.folder / "config.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")

    def _machine(self) -> dict[str, Any]:
        return {"device": describe_device(self.backbone.device), "versions": versions()}

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
        """Write the best weights so far, with their provenance."""
        upsampler, row = self._build_upsampler(), self.trainer.best_row
        upsampler.load_state_dict(self.trainer.best["state"])
        identity = backbone_identity(self.backbone)
        provenance = {
            **self.settings, "step": row.step, "explained_variance": row.explained_variance,
            "bilinear_explained_variance": row.bilinear_explained_variance, "seconds": round(self.trainer.seconds, 1),
            **self._machine(),
        }  # fmt: skip
        card = (
            f"{self.training.method} upsampler, trained by `featup train` on {len(self.keys)} crops of pictures with "
            f"the features of {identity['name']} ({counted(identity['channels'], 'channel')}), "
            f"{counted(row.step, 'step')} of {self.config.batch} crops. "
            f"It explains {row.explained_variance:.1%} of {self.goal} of "
            f"{len(self.heldout)} held-out crops; bilinear interpolation {row.bilinear_explained_variance:.1%}."
        )
        serves = "any" if self.training.serves_any else identity
        save_upsampler(path, upsampler, {"backbone": serves, "provenance": provenance, "card": card})

    def _describe(self, row: Row) -> str:
        return f"explains {row.explained_variance:.1%} of {self.goal} (bilinear {row.bilinear_explained_variance:.1%})"
