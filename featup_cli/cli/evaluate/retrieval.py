"""`featup eval retrieval SOURCE TARGET`: the feature at a point of one picture is matched in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featup_cli.cli.console import Console
from featup_cli.cli.evaluate.options import EvaluationOptions, refuse_given
from featup_cli.core.errors import UsageError
from featup_cli.core.options import INPUT, argument, declared, like, option
from featup_cli.evaluation.retrieval.task import RetrievalOptions
from featup_cli.io.replace import refuse_replacing


@dataclass(frozen=True)
class PointOptions:
    """A second picture, and points of the first."""

    target: Path | None = argument("Picture to search, if SOURCE is a picture.", metavar="[TARGET]", default=None)
    at: tuple[str, ...] = option(
        (),
        "With two pictures: a point of SOURCE, in pixels from the upper left corner. Repeatable.",
        metavar="X,Y",
        panel=INPUT,
        common=True,
    )
    output: Path | None = like(
        EvaluationOptions,
        "output",
        help="With two pictures: the PNG to write (default: retrieval.png). With a folder: the run as JSON.",
    )


def show_matches(given: Mapping[str, Any], shared: EvaluationOptions, console: Console) -> bool:
    """With two pictures: write the picture of figure 15 and report every match."""
    source, target = given["source"], given["target"]
    if target is None:
        refuse_given({"at": given["at"]}, "needs a second picture: SOURCE TARGET")
        return False
    of_folder = {each.name: given[each.name] for each in declared(RetrievalOptions) if not each.option.positional}
    refuse_given(of_folder, "is for a folder of labelled pictures, not for two pictures")
    keywords = shared.keywords()
    points = parse_points(given["at"])
    output = shared.output or Path("retrieval.png")
    refuse_replacing(output, shared.overwrite, inputs=(source, target))
    console.loading(shared.backbone.backbone)

    from featup_cli.evaluation.retrieval.matches import find_matches
    from featup_cli.pictures.panels import save_png

    with console.progress() as progress:
        found = find_matches(source, target, points, progress=progress, note=console.note, **keywords)
    save_png(output, found.rgb)
    for row in found.rows:
        at, match = (",".join(str(v) for v in row[key]) for key in ("at", "match"))
        console.note(f"{row['method']}: {at} matches {match}, similarity {row['similarity']:.3f}")
    record = {"source": str(source), "target": str(target), "picture": str(output), "matches": found.rows}
    console.result(str(output), record)
    return True


def parse_points(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Points (x, y) from texts `x,y`.

    Raises:
        UsageError: no point, or one with an invalid form.
    """
    points = []
    for text in texts:
        parts = text.split(",")
        if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise UsageError(f"--at {text}: expected X,Y in pixels, for example --at 120,80")
        points.append((int(parts[0]), int(parts[1])))
    if not points:
        raise UsageError("give a point of the first picture, for example --at 120,80")
    return points
