"""The record of an operation, and one call of it. Free of torch: `featup bench --help` lists all operations."""

from __future__ import annotations

from dataclasses import dataclass

BACKENDS = ("triton", "cpu", "reference")
"""Fastest first."""


@dataclass(frozen=True)
class Operation:
    """A per-pixel operation, declared once, in the `__init__.py` of its folder.

    The folder also holds `op.py` with the function of that name, `cases.py` with `CASES` for benchmarks and tests, and
    BACKEND_impl.py for each backend of `kernels`.

    Attributes:
        name: name of the function and of its operator featup::NAME.
        about: description in one line.
        source: paper and equation.
        package: the folder, as a package.
        kernels: backends that have kernels of their own; every operation has `reference`.
        gradients: backends that differentiate.
        scaled: whether the source has another size than the output.
    """

    name: str
    about: str
    source: str
    package: str
    kernels: tuple[str, ...] = ()
    gradients: tuple[str, ...] = BACKENDS
    scaled: bool = False


@dataclass(frozen=True)
class Case:
    """One call of one operation, as a benchmark makes it.

    Attributes:
        batch, height, width, channels: of the output; for weights made of keys, `channels` is their size.
        window: side k of the window, odd.
        operation: its name.
        scale: output pixels per low-resolution pixel, if the operation is `scaled`; a divisor of the size.
        dtype: float32, float16 or bfloat16.
        backward: measure the gradients instead of the forward pass.
    """

    batch: int
    height: int
    width: int
    channels: int
    window: int
    operation: str
    scale: int = 16
    dtype: str = "float32"
    backward: bool = False

    @property
    def shape(self) -> str:
        """Batch x height x width x channels x window, as `--shape` takes it."""
        return "x".join(str(n) for n in (self.batch, self.height, self.width, self.channels, self.window))

    @property
    def direction(self) -> str:
        """`forward` or `backward`."""
        return "backward" if self.backward else "forward"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the output."""
        return self.height, self.width

    @property
    def lr_size(self) -> tuple[int, int]:
        """(height, width) of the source of a `scaled` operation."""
        return self.height // self.scale, self.width // self.scale

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) of a source that is padded for the window."""
        return self.height + self.window - 1, self.width + self.window - 1
