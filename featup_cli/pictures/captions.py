"""Lines below a picture: what it was made by, and what its colours may be compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

LOW, BOTH = "low", "both"
"""What colours are fitted to: the low-resolution features alone (FeatUp, section 4.1), or low and high resolution."""
LONGEST = 80  # characters of a name; files that anybody may have written hold them
PACKAGED = "packaged:"


def picture_lines(provenance: Mapping[str, Any], components: Sequence[int] = (), colours: str = "") -> list[str]:
    """Lines below the picture of a result.

    Args:
        provenance: of the features, as files record it; empty for those that other programs made.
        components: the numbers of those that are red, green and blue; none where no features are shown.
        colours: a sentence about these colours: `fitted` or `of_basis`.
    """
    backbone, method = provenance.get("backbone"), provenance.get("method")
    facts = [f"method {method_name(str(method), provenance.get('upsampler'))}"] if method else []
    if isinstance(backbone, Mapping) and backbone.get("name"):
        facts.append(f"backbone {backbone_name(backbone)}")
    if components:
        facts.append(components_name(components))
    text = "; ".join(facts)
    return [line for line in (f"{text[:1].upper()}{text[1:]}." if text else "", colours) if line]


def components_name(components: Sequence[int]) -> str:
    """Which components are shown."""
    return f"principal components {', '.join(map(str, components))} as red, green, blue"


def method_name(method: str, upsampler: Any) -> str:
    """A method, and its weights unless they are the package's own; `upsampler` is their record."""
    source = str(upsampler.get("source") or "") if isinstance(upsampler, Mapping) else ""
    if not source or source.startswith(PACKAGED):
        return plain(method)
    return f"{plain(method)} (weights {plain(PurePath(source).name)})"


def backbone_name(backbone: Mapping[str, Any]) -> str:
    """A backbone as its record names it, with the layer and what is unusual about it."""
    layer = backbone.get("layer")
    random = ", untrained" if backbone.get("weights_source") == "random" else ""
    return f"{plain(str(backbone.get('name')))}" + (f", layer {layer}" if isinstance(layer, int) else "") + random


def fitted(basis: str, count: int = 1, without: int = 0) -> str:
    """Of pictures whose colours fit them all.

    Args:
        basis: `LOW` or `BOTH`.
        count: of the pictures.
        without: how many of them have no low-resolution features, and are fitted by the features themselves.
    """
    maps = "low-resolution features" if basis == LOW else "low- and high-resolution features"
    what = "this picture" if count == 1 else f"{count} files"
    if without == count:
        to = f"the features of {what}, as there are no low-resolution ones"
    else:
        to = f"the {maps} of {what}" + (f" (of {without} without any, the features themselves)" if without else "")
    return f"Colours are fitted to {to}; those of separate runs can't be compared (--basis FILE makes them agree)."


def of_basis(name: str) -> str:
    """Of a picture in stored colours."""
    return f"Colours of {plain(name)}: all pictures with this basis can be compared."


def plain(text: str) -> str:
    """A name in one short line without control characters."""
    text = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
