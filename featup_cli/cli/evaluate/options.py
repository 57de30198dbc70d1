"""Options that all evaluations share, and the library keywords that they set."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featup_cli.cli.groups import (
    BackboneOptions,
    ConsoleOptions,
    InputOptions,
    MethodsOptions,
    ReplaceOptions,
    RunOptions,
)
from featup_cli.cli.unread import refuse_unread
from featup_cli.core.errors import UsageError
from featup_cli.core.options import OUTPUT, RUN, group, like, option
from featup_cli.upsamplers.registry import check_method, method_names


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of the `featup eval` commands; each command offers those that its tasks use."""

    PANEL = RUN

    input: InputOptions = group()
    backbone: BackboneOptions = group()
    methods: MethodsOptions = group()
    output: Path | None = option(
        None, "Write the run as JSON, for `featup eval report`.", "-o", "--output", panel=OUTPUT, common=True
    )
    overwrite: bool = like(ReplaceOptions, "overwrite", panel=OUTPUT)
    seed: int = like(RunOptions, "seed")
    fast: bool = option(
        True, "For methods that are linear in the features, upsample the readout instead: the same result, faster."
    )
    cache: Path = option(
        Path("~/.cache/featup/eval"),
        "Folder for cached results of single pictures; an interrupted run resumes from it.",
    )
    no_cache: bool = option(False, "Don't use the cache.")
    device: str = like(RunOptions, "device")
    quiet: bool = like(ConsoleOptions, "quiet")
    as_json: bool = like(ConsoleOptions, "as_json", help="Print the run as JSON on stdout; no table, no progress bars.")

    def keywords(self, besides: Collection[str] = ()) -> dict[str, Any]:
        """Keywords of the library's calls but `cache`; arguments and errors as `keywords`."""
        asked = keywords(self.input, self.backbone, self.methods, besides)
        return asked | dict(seed=self.seed, fast=self.fast, device=self.device)


def keywords(
    input: InputOptions, backbone: BackboneOptions, methods: MethodsOptions, besides: Collection[str] = ()
) -> dict[str, Any]:
    """Keywords of the library for these options: fields of `evaluation.source.Request`.

    Args:
        besides: names of options for methods that the task reads itself.
    Raises:
        UsageError: an option has an invalid form, or none of the methods reads it.
    """
    asked = method_names(methods.methods)
    refuse_unread(asked, MethodsOptions, besides=besides)
    implicit, chosen, upsamplers = methods.implicit.config(), backbone.config(), {}
    for text in methods.upsampler:
        method, equals, weights = text.partition("=")
        if not (method and equals and weights):
            raise UsageError(f"--upsampler {text}: expected METHOD=WEIGHTS, for example jbu=upsampler.safetensors")
        check_method(method, weights)
        if method not in asked:
            raise UsageError(f"--upsampler {text}: {method} is not among --methods {methods.methods}; add it there")
        upsamplers[method] = weights
    other = methods.allow_other_backbone
    shared = dict(methods=methods.methods, implicit=implicit, upsamplers=upsamplers, allow_other_backbone=other)
    return dict(backbone=chosen, resize=input.resize, **shared)


def refuse_given(values: Mapping[str, Any], reason: str) -> None:
    """Raise UsageError with the reason for the first of these fields that was given."""
    for name, value in values.items():
        if value not in (None, ()):
            raise UsageError(f"--{name.replace('_', '-')} {reason}")
