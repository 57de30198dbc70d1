"""Names of timm models, checked without importing timm, which takes seconds."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.registry import ALIASES, resolve_alias
from featup_cli.core.errors import UsageError, WeightsError


def check(config: BackboneConfig) -> None:
    """Raise UsageError or WeightsError for a name that can't be loaded, as far as timm's source files tell.

    Once timm is imported, its registry knows more: other packages may have added models.
    """
    reference = resolve_alias(config.name)
    if is_location(reference) or "timm" in sys.modules:
        return
    source = models_source()
    models = listed_models(source)
    if models and reference.partition(".")[0] not in spelled_names(source):
        raise unknown(reference, close_names(reference, models))


def listed_models(source: str) -> list[str]:
    """The architectures that timm's source lists."""
    return re.findall(r"^@register_model\ndef (\w+)", source, re.MULTILINE)


def spelled_names(source: str) -> set[str]:
    """The names of its functions and what begins its strings: old names, for example, are keys of a dict."""
    return set(re.findall(r"""(?:\bdef |["'])(\w+)""", source))


def models_source() -> str:
    """All of timm's models as text; nothing if it isn't installed in folders."""
    spec = find_spec("timm")
    folders = (spec and spec.submodule_search_locations) or ()
    files = (file for folder in folders for file in Path(folder, "models").glob("*.py"))
    return "\n".join(file.read_text("utf-8") for file in files)


def is_location(reference: str) -> bool:
    """Whether a reference is a place on the hub or a folder, and no timm name.

    Raises:
        UsageError: it has another form.
        WeightsError: the folder holds no model.
    """
    source, separator, location = reference.partition(":")
    if not separator:
        return False
    if source not in ("hf-hub", "local-dir") or not location:
        raise UsageError(f"unknown backbone '{reference}': a reference is hf-hub:OWNER/NAME or local-dir:FOLDER")
    if source == "local-dir" and not (Path(location) / "config.json").is_file():
        raise WeightsError(f"{reference}: the folder has no config.json")
    return True


def close_names(reference: str, models: Iterable[str]) -> list[str]:
    """Aliases and models that `reference` may stand for."""
    return get_close_matches(reference, {*ALIASES, *models}, 3)


def unknown(reference: str, close: Iterable[str]) -> UsageError:
    """The error for a name that timm doesn't know, with names that were perhaps meant."""
    if "/" in reference:
        return UsageError(
            f"unknown backbone '{reference}': write hf-hub:{reference} for the hub, local-dir:{reference} for a folder"
        )
    hint = ", ".join(close)
    hint = f"; did you mean {hint}?" if hint else "; `featup info` lists the short names"
    return UsageError(f"unknown backbone '{reference}'{hint}")
