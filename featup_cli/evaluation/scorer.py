"""How a task scores upsampled features, picture by picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from featup_cli.evaluation.bootstrap import Scores
from featup_cli.evaluation.cache import Arrays
from featup_cli.evaluation.source import FeatureSource, Look


class Item(Protocol):
    """Something to score: a picture and, with some tasks, files that belong to it."""

    @property
    def picture(self) -> Path: ...

    @property
    def files(self) -> tuple[Path, ...]: ...


@dataclass(frozen=True)
class PictureItem:
    """A picture without labels."""

    picture: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The picture alone."""
        return (self.picture,)


class Scorer:
    """Base of the scorers of all tasks.

    Attributes:
        name: of the task.
        settings: all that fixes a picture's result besides the picture and its features, as JSON values.
        probes: how many further probes it scores, trained on other draws of the training pictures; most have none.
    """

    name: str
    settings: dict[str, Any]
    probes: int = 0

    def prepare(self, source: FeatureSource, look: Look, item: Any) -> Any:
        """What all methods share for one picture; handed to `measure`."""
        raise NotImplementedError

    def measure(self, source: FeatureSource, look: Look, method: str, prepared: Any) -> Arrays:
        """Arrays of one picture and method, always of the same shapes; `seconds` is one of them."""
        raise NotImplementedError

    def score(self, rows: Arrays, counts: np.ndarray, probe: int = 0) -> Scores:
        """Scores of pictures that count `counts` [pictures] times, by the arrays of all pictures [pictures, ...].

        Undefined scores are left out. `probe` 0 is the main one. Here: the mean of each array of one number a picture.
        """
        return {name: float(np.average(row, weights=counts)) for name, row in rows.items() if name != "seconds"}

    def details(self, rows: Arrays) -> dict[str, Any]:
        """More facts about a method for the record, as JSON values."""
        return {}
