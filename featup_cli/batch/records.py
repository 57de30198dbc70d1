"""Input and result of a run for each picture. Plain values, as they travel between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Status = Literal["done", "skipped", "failed", "busy"]


class Item(NamedTuple):
    """A picture to upsample, the feature file to write, and the file of its mask, if it has one.

    Text, not Path: there may be a million of them.
    """

    picture: str
    target: str
    mask: str = ""


@dataclass(frozen=True)
class Record:
    """The result for a picture.

    Attributes:
        item: the picture and its feature file.
        status: `done`; `skipped`: up to date already; `failed`; `busy`: another run is processing it, ask again
            later (only inside a run).
        files: what was written or is up to date, by kind: `output`, and `picture` and `model` if they were asked for.
        shape: [C, H, W] of the features, if they were made.
        seconds: wall time of its features, if they were made.
        scores: numbers that the method reports about itself.
        notes: sentences that the user should read.
        error: the reason of a failure, in one line that names the file.
        exit_code: exit status of a process that fails for this reason only.
        kept: it failed because a file with something else in it would have been replaced.
    """

    item: Item
    status: Status
    files: dict[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    seconds: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""
    exit_code: int = 1
    kept: bool = False

    def as_json(self) -> dict[str, Any]:
        """The line of `--json`."""
        line: dict[str, Any] = {"input": self.item.picture, **self.files, "status": self.status}
        if self.status == "done":
            line |= {"shape": list(self.shape), "seconds": self.seconds, "scores": self.scores}
        if self.error:
            line["error"] = self.error
        return line
