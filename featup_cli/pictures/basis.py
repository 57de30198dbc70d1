"""Stored colours: a basis and its scale in a small file, so that pictures of separate runs can be compared.

The file is safetensors: `basis` [K, C], `mean` [C], `std` [K], `low` and `high` [3], float32; its metadata name the
components that are shown, the backbone, and where the colours come from. Free of torch until a file is read or written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featup_cli.core.errors import InputError, OutputError, UsageError
from featup_cli.io.atomic import atomic_path
from featup_cli.io.header import COLOUR_BASIS, described
from featup_cli.io.safetensors import read_tensors, refusing_others
from featup_cli.pictures.captions import BOTH, LOW, backbone_name

if TYPE_CHECKING:
    from torch import Tensor

    from featup_cli.pictures.panels import Colours

IDENTITY = ("resolved", "layer", "norm_applied", "weights_sha256")
"""Facts of a backbone on which its features depend; the kind of device and precision change them by rounding only."""
_NAMING = ("name", "weights_source")


@dataclass(frozen=True)
class ColourBasis:
    """Stored colours.

    Attributes:
        path: the file.
        colours: basis, components and scale.
        backbone: the facts of `IDENTITY` and its name; None if the features did not say.
    """

    path: Path
    colours: Colours
    backbone: dict[str, Any] | None

    def check(self, channels: int, provenance: Mapping[str, Any], name: str) -> None:
        """Refuse features that these colours were not made for.

        Args:
            channels: of the features.
            provenance: theirs; of a backbone that is not recorded only the channels are compared.
            name: of the features, for the message.
        Raises:
            InputError: another number of channels, or another backbone.
        """
        backbone, again = provenance.get("backbone"), "make a basis of these features with --save-basis"
        own = self.backbone
        if own is not None and isinstance(backbone, Mapping) and not same_backbone(own, backbone):
            ours, theirs = names_apart(own, backbone)
            raise InputError(f"{self.path}: is a basis for {ours}, but {name} has features of {theirs}; {again}")
        if channels != len(self.colours.pca.mean):
            held = len(self.colours.pca.mean)
            raise InputError(f"{self.path}: is a basis for {held} channels, but {name} has {channels}; {again}")


def stored_file(basis: Path | str) -> Path | None:
    """The file of stored colours that is meant; None for `LOW` and `BOTH`, which are fitted. A `Path` is a file."""
    return None if basis in (LOW, BOTH) else Path(basis)


def same_backbone(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records of backbones agree in all that fixes features."""
    return all(one.get(fact) == other.get(fact) for fact in IDENTITY)


def names_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str]:
    """Names of two backbones, with the facts that tell them apart."""
    apart = [fact for fact in IDENTITY if one.get(fact) != other.get(fact)]
    if backbone_name(one) != backbone_name(other):
        return backbone_name(one), backbone_name(other)
    first, second = (", ".join(f"{fact} {str(of.get(fact))[:12]}" for fact in apart) for of in (one, other))
    return f"{backbone_name(one)} ({first})", f"{backbone_name(other)} ({second})"


def basis_facts(path: Path) -> dict[str, Any]:
    """What a file of stored colours says of itself.

    Raises:
        InputError: the file is missing, damaged, or not such a file.
    """
    header, facts = described(path)
    if header.metadata.get("format") != COLOUR_BASIS:
        raise InputError(f"{path}: is not a colour basis; `featup visualize FILE... --save-basis BASIS` makes one")
    return facts


def load_basis(path: Path | str) -> ColourBasis:
    """Read stored colours; errors as `basis_facts`."""
    path = Path(path)
    facts = basis_facts(path)
    with refusing_others(path):
        tensors = read_tensors(path)
    try:
        colours = _assemble(tensors, facts["components"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is a damaged colour basis ({error}); make it again with --save-basis") from None
    backbone = facts.get("backbone")
    return ColourBasis(path, colours, backbone if isinstance(backbone, dict) else None)


def _assemble(tensors: Mapping[str, Tensor], components: Sequence[int]) -> Colours:
    from featup_cli.ops.pca import PCA
    from featup_cli.pictures.panels import Colours

    basis, mean, std, low, high = (tensors[name].float() for name in ("basis", "mean", "std", "low", "high"))
    shapes = [tuple(tensor.shape) for tensor in (basis, mean, std, low, high)]
    if basis.ndim != 2 or not basis.numel() or shapes[1:] != [basis.shape[1:], basis.shape[:1], (3,), (3,)]:
        raise ValueError(f"its tensors have the shapes {shapes}")
    if not all(bool(tensor.isfinite().all()) for tensor in (basis, mean, std, low, high)):
        raise ValueError("NaN or infinite values")
    red, green, blue = components
    if not all(isinstance(number, int) and 1 <= number <= max(len(basis), 3) for number in components):
        raise ValueError(f"components {components}")
    # How much of the variance the components held is not needed for colours, and not stored.
    pca = PCA(mean, basis, std, std.new_zeros(len(std)), 0.0)
    return Colours(pca, (red, green, blue), low, high)


def write_basis(path: Path | str, colours: Colours, sources: Sequence[tuple[Path, Mapping[str, Any]]]) -> Path:
    """Write colours for `load_basis`.

    Args:
        path: of the file, which may replace another such file.
        colours: to be kept.
        sources: the feature files that they were fitted to, with their provenance.
    Raises:
        InputError: the files are of several backbones.
        UsageError, OutputError: as `check_basis_name`, or the file can't be written.
    """
    from safetensors.torch import save_file

    from featup_cli.core.versions import versions

    check_basis_name(path)
    backbone = common_backbone(sources)
    pca = colours.pca
    tensors = {"basis": pca.basis, "mean": pca.mean, "std": pca.std, "low": colours.low, "high": colours.high}
    facts = {
        "components": colours.components,
        "backbone": None if backbone is None else {fact: backbone.get(fact) for fact in (*_NAMING, *IDENTITY)},
        "sources": [str(file) for file, _ in sources],
        "versions": versions(),
    }
    with atomic_path(path) as temporary:
        save_file(
            {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()},
            temporary,
            {"format": COLOUR_BASIS, "featup": json.dumps(facts)},
        )
    return Path(path)


def common_backbone(sources: Sequence[tuple[Path, Mapping[str, Any]]]) -> Mapping[str, Any] | None:
    """The backbone of all files; None if none is recorded.

    Raises:
        InputError: there are two.
    """
    known = [(file, facts["backbone"]) for file, facts in sources if isinstance(facts.get("backbone"), Mapping)]
    for file, backbone in known[1:]:
        if not same_backbone(known[0][1], backbone):
            first, other = names_apart(known[0][1], backbone)
            raise InputError(f"{file}: has features of {other} but {known[0][0]} of {first}; give a basis to each")
    return known[0][1] if known else None


def check_basis_name(path: Path | str) -> None:
    """Refuse a place for stored colours that holds something else.

    Raises:
        UsageError: the name has another suffix; OutputError: there is another file, which would be lost.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise UsageError(f"--save-basis {path}: give a name that ends in .safetensors")
    if not path.is_file():
        return  # a folder or device is refused by writing
    try:
        ours = described(path)[0].metadata.get("format") == COLOUR_BASIS
    except InputError:
        ours = False
    if not ours:
        raise OutputError(f"{path}: exists and is not a colour basis; give --save-basis another name")
