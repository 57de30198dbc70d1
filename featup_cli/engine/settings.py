"""What is to be made of pictures, and which files: plain values, free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featup_cli.backbones.config import BackboneConfig
from featup_cli.core.checks import checked
from featup_cli.core.errors import UsageError
from featup_cli.core.settings import recorded
from featup_cli.core.shapes import DEFAULT_MAX_PIXELS, Size
from featup_cli.io.digest import file_sha256
from featup_cli.io.files import check_readable
from featup_cli.io.header import STORAGES, WRITTEN
from featup_cli.pictures.basis import stored_file
from featup_cli.pictures.captions import LOW
from featup_cli.upsamplers.implicit.config import ImplicitConfig
from featup_cli.upsamplers.registry import DEFAULT_METHOD, find_method

SUFFIX = ".safetensors"


@checked
@dataclass(frozen=True)
class Upsampling:
    """What to do with each picture; fields are those of `featup upsample`."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: str = DEFAULT_METHOD
    implicit: ImplicitConfig = field(default_factory=ImplicitConfig)
    resize: str | int | Size | None = None
    output_size: str | int | Size | None = None
    device: str = "auto"
    seed: int = 0
    max_pixels: int = DEFAULT_MAX_PIXELS
    upsampler: str = "auto"
    allow_other_backbone: bool = False
    memory: int | None = None
    config: Any = None

    @property
    def method_config(self) -> Any:
        """Settings of the method: `config`, or `implicit` if they are of this method; None for its defaults."""
        fits = type(self.implicit) is find_method(self.method).config
        return self.implicit if self.config is None and fits else self.config

    @property
    def short_side(self) -> str | int | Size | None:
        """Size of the network's input: `resize`, or what the method's settings ask for; None for the backbone's own."""
        return getattr(self.method_config, "load_size", None) or None if self.resize is None else self.resize

    @property
    def method_settings(self) -> dict[str, Any]:
        """The same as JSON values."""
        return recorded(self.method_config) if self.method_config is not None else {}


@checked
@dataclass(frozen=True)
class Output:
    """Which files are written for a picture, and how.

    Attributes:
        dtype: float16, bfloat16 or float32.
        storage: `full`, or `factored` for coefficients and basis.
        model: write STEM.model.safetensors too, of methods that fit one.
        picture: write STEM.png too.
        basis: what the picture's colours are fitted to: `low` or `both` (`visualize`), or a file with stored colours.
    """

    dtype: str = "float16"
    storage: str = "full"
    model: bool = False
    picture: bool = True
    basis: Path | str = LOW

    def __post_init__(self) -> None:
        for name, value, choices in (("dtype", self.dtype, WRITTEN), ("storage", self.storage, STORAGES)):
            if value not in choices:
                raise UsageError(f"{name} {value}: choose from {', '.join(choices)}")
        if self.basis != LOW and not self.picture:
            raise UsageError(f"--basis {self.basis}: gives the colours of a picture, and none is asked for")

    def record(self) -> dict[str, Any]:
        """What is asked for, as JSON values: of a basis that is a file the digest, and nothing of the default."""
        facts = asdict(self)
        if facts["basis"] == LOW:
            del facts["basis"]
        elif (basis := stored_file(self.basis)) is not None:
            check_readable(basis, "a colour basis")
            facts["basis"] = file_sha256(basis)
        return facts

    def files(self, target: str) -> dict[str, str]:
        """The files that belong to a feature file, itself included, by kind."""
        stem, files = target.removesuffix(SUFFIX), {"output": target}
        if self.model:
            files["model"] = f"{stem}.model{SUFFIX}"
        if self.picture:
            files["picture"] = f"{stem}.png"
        return files
