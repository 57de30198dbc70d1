"""The training loop: steps, evaluations of the held-out pictures, and a state to save and restore at any step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from featup_cli.core.distributed import Workers
from featup_cli.core.errors import FeatUpError
from featup_cli.multiview.optimize import make_optimizer, warm_cosine
from featup_cli.training.batches import Batch, Batches, seed_of
from featup_cli.training.curves import Row
from featup_cli.training.model import MultiViewModel

State = dict[str, Any]


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM after `step` steps, and saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class StopRequest:
    """Stop request, set by a signal and read between steps, so that each step is finished."""

    asked = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """In this context Ctrl-C and SIGTERM request a stop after the step; a second Ctrl-C stops at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals reach the main thread only
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Step(NamedTuple):
    """A finished step.

    Attributes:
        loss: over all processes.
        looked: whether the held-out pictures were evaluated; `is_best` whether the upsampler was never better.
        stopped: whether this or another process received a stop request.
    """

    loss: float
    looked: bool
    is_best: bool
    stopped: bool


class Trainer:
    """Fits a `MultiViewModel`.

    Args:
        model: on its device; moved, not copied.
        batches: source of the batches.
        workers: this process and the others; `batch` must be a multiple of their number.

    Attributes:
        step: steps done.
        seconds: of training so far.
        rows: the evaluations of the held-out pictures so far.
        best: weights of the upsampler (`state`), their `step` and their `score`; empty before the first
            evaluation.
    """

    def __init__(self, model: MultiViewModel, batches: Batches, workers: Workers) -> None:
        self.model = model
        self.batches = batches
        self.workers = workers
        self.config = config = model.config
        self.device = next(model.parameters()).device
        fast: list[nn.Module] = [model.downsampler, *([model.uncertainty] if model.uncertainty else [])]
        groups = [
            (list(model.upsampler.parameters()), 1.0),
            ([p for module in fast for p in module.parameters()], config.downsampler_rate),
            (list(model.bilinear_downsampler.parameters()), config.downsampler_rate),
        ]
        fitted = (([p for p in parameters if p.requires_grad], rate) for parameters, rate in groups)
        groups = [(parameters, rate) for parameters, rate in fitted if parameters]
        self.rates = [rate for _, rate in groups]
        rated = [{"params": parameters, "lr": config.learning_rate * rate} for parameters, rate in groups]
        self.optimizer = make_optimizer(config.optimizer, rated, config.weight_decay)
        decay = get_ema_multi_avg_fn(config.average)
        self.average = AveragedModel(model, multi_avg_fn=decay) if config.average else None
        self.step = 0
        self.seconds = 0.0
        self.sums = [0.0, 0.0]  # loss and error since the last look
        self.rows: list[Row] = []
        self.best: State = {}

    @property
    def best_row(self) -> Row:
        """The evaluation at which the upsampler was best."""
        return next(row for row in self.rows if row.step == self.best["step"])

    @property
    def scored(self) -> MultiViewModel:
        """The model that is scored and saved: the average of the weights, if there is one."""
        module = self.average.module if self.average is not None else self.model
        assert isinstance(module, MultiViewModel)
        return module

    def steps(self, stop: StopRequest) -> Generator[Step]:
        """Run the remaining steps.

        Raises:
            FeatUpError: the loss is not finite.
        """
        steps = self.config.steps
        with ThreadPoolExecutor(1) as loader:  # reads the next batch while this one is computed
            upcoming = loader.submit(self._load, self.step + 1)
            while self.step < steps:
                start = time.monotonic()
                batch = upcoming.result()
                if self.step + 1 < steps:
                    upcoming = loader.submit(self._load, self.step + 2)
                loss, stopped = self._take_step(batch.to(self.device), stop)
                looked = self.step % self.config.check_interval == 0 or self.step == steps
                is_best = looked and self._check()
                self.seconds += time.monotonic() - start
                yield Step(loss, looked, is_best, stopped)

    def _load(self, step: int) -> Batch:
        share = self.config.batch // self.workers.size
        first = self.workers.rank * share
        return self.batches.training(step, range(first, first + share))

    def _take_step(self, batch: Batch, stop: StopRequest) -> tuple[float, bool]:
        step, config = self.step + 1, self.config
        # Dropout's draws follow from the step, so they needn't be saved.
        torch.manual_seed(seed_of(self.batches.seed, "dropout", step, self.workers.rank))
        self.model.train()
        losses = self.model(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses.loss.backward()
        groups = [[p for p in group["params"] if p.grad is not None] for group in self.optimizer.param_groups]
        shared = torch.stack((losses.loss.detach(), losses.error, losses.error.new_tensor(float(stop.asked))))
        self.workers.average([shared, *(_gradient(p) for parameters in groups for p in parameters)])
        loss, error, asked = shared.tolist()
        if not math.isfinite(loss):
            raise FeatUpError(
                f"step {step}: the loss is {loss}; try a lower learning_rate, a longer warmup or precision=float32"
            )
        cosine = config.schedule == "cosine"
        scale = warm_cosine(step, config.steps, config.warmup) if cosine else min(1.0, step / max(config.warmup, 1))
        for group, rate, parameters in zip(self.optimizer.param_groups, self.rates, groups, strict=True):
            if config.clip:
                nn.utils.clip_grad_norm_(parameters, config.clip)
            group["lr"] = config.learning_rate * rate * scale
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step = step
        self.sums = [self.sums[0] + loss, self.sums[1] + error]
        return loss, asked > 0

    def _check(self) -> bool:
        """Evaluate the held-out pictures; return whether the upsampler is the best so far."""
        scored = self.scored.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for index in self.workers.share(range(len(self.batches.heldout))):
            sums += scored.score(self.batches.check(index).to(self.device))
        self.workers.average([sums])
        error, bilinear_error, total = sums.tolist()
        steps = self.step - (self.rows[-1].step if self.rows else 0)
        row = Row(
            step=self.step,
            loss=self.sums[0] / steps,
            error=self.sums[1] / steps,
            explained_variance=1 - error / max(total, 1e-12),
            bilinear_explained_variance=1 - bilinear_error / max(total, 1e-12),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            seconds=self.seconds,
        )
        self.rows.append(row)
        self.sums = [0.0, 0.0]
        if self.best and self.config.select == "best" and row.explained_variance <= self.best["score"]:
            return False
        state = {name: value.detach().cpu().clone() for name, value in scored.upsampler.state_dict().items()}
        self.best = {"score": row.explained_variance, "step": self.step, "state": state}
        return True

    def state(self) -> State:
        """All that a later run needs to resume exactly; it contains no random state."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.sums,
            "rows": [list(astuple(row)) for row in self.rows],
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def restore(self, state: State) -> None:
        """Restore a `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.sums = list(state["sums"])
        self.rows = [Row(*values) for values in state["rows"]]


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
