"""What is taken for granted of other packages, each point in a test of its own: a release that breaks it is named here.

The versions that were tested are in `.ci/lowest.txt` and `.ci/newest.txt`.
"""

from __future__ import annotations

import inspect
import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any

import numba
import pytest
import timm
import timm.layers
import torch
import torch.nn.functional as F
import typer
import typer.main
from huggingface_hub import constants as hub_constants
from huggingface_hub import get_session
from packaging.requirements import Requirement
from packaging.version import Version
from safetensors import SafetensorError, safe_open
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typer.testing import CliRunner

from featup_cli.benchmarking.upsamplers import flop_formulas
from featup_cli.cli.console import ClickException
from featup_cli.core.errors import is_out_of_memory
from tests.versions import LOWEST, NEWEST, declared_requirements, pins


class Operators(TorchDispatchMode):
    """Notes which operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


def operators(call: Callable[[], Any]) -> set[Any]:
    """The operators, with their overloads, that a call runs."""
    with Operators() as mode:
        call()
    return mode.seen


MAPS = torch.zeros(1, 2, 3, 3)


@pytest.mark.parametrize(
    "resize",
    [
        lambda: F.interpolate(MAPS, (6, 6), mode="nearest-exact"),
        lambda: F.interpolate(MAPS, (6, 6), mode="bilinear", align_corners=False),
        lambda: F.interpolate(MAPS, (6, 6), mode="bicubic", align_corners=False),
        lambda: F.grid_sample(MAPS, torch.zeros(1, 6, 6, 2), align_corners=False),
    ],
    ids=["nearest-exact", "bilinear", "bicubic", "grid_sample"],
)
def test_torch_resizes_by_operators_that_are_counted(resize: Callable[[], Any]) -> None:
    assert {operator.overloadpacket for operator in operators(resize)} & set(flop_formulas())


def test_torch_has_formulas_of_operations_by_operator() -> None:
    left, right = torch.zeros(2, 3), torch.zeros(3, 5)
    assert flop_registry[torch.ops.aten.mm](left, right, out_val=left @ right) == 2 * 2 * 3 * 5


def test_torch_reads_a_number_by_an_operator_of_its_own() -> None:
    assert operators(lambda: float(MAPS.sum())) >= {torch.ops.aten._local_scalar_dense.default}


def test_torch_lets_attention_be_replaced() -> None:
    class Replace(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return "replaced" if func is F.scaled_dot_product_attention else func(*args, **(kwargs or {}))

    with Replace():
        assert F.scaled_dot_product_attention(MAPS, MAPS, MAPS) == "replaced"


def test_torch_files_name_the_function_that_rebuilds_tensors() -> None:
    stream = io.BytesIO()
    torch.save(MAPS, stream)
    with zipfile.ZipFile(stream) as archive:
        (data,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        arguments = [argument for _, argument, _ in pickletools.genops(archive.read(data))]
    assert "torch._utils _rebuild_tensor_v2" in arguments
    assert callable(torch._utils._rebuild_tensor_v2)


def test_torch_says_when_memory_is_lacking() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_torch_marks_functions_that_its_compiler_takes_as_constant() -> None:
    def choose() -> str:
        return "cpu"

    assert torch.compiler.assume_constant_result(choose)._dynamo_marked_constant is True  # type: ignore[attr-defined]


def test_torch_refuses_to_run_code_from_files() -> None:
    stream = io.BytesIO()
    torch.save({"x": print}, stream)
    stream.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(stream, weights_only=True)


def test_timm_gives_features_of_any_block_at_any_size() -> None:
    model = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True)
    wanted = {"indices", "norm", "output_fmt", "intermediates_only"}
    assert wanted <= set(inspect.signature(model.forward_intermediates).parameters)
    assert isinstance(model.patch_embed, timm.layers.PatchEmbed)
    assert isinstance(timm.layers.RotaryEmbeddingDinoV3, type)


def test_the_hub_has_one_address_and_one_client() -> None:
    assert hub_constants.ENDPOINT.startswith("http")
    assert callable(get_session().head)


def test_safetensors_refuses_other_files_by_an_error_of_its_own(tmp_path: Any) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{no json here   }")
    with pytest.raises(SafetensorError), safe_open(path, "pt"):
        pass


def test_numba_says_when_there_is_no_place_for_its_cache() -> None:
    names: dict[str, Any] = {}
    exec(compile("def twice(x):\n    return 2 * x\n", "no such file", "exec"), names)
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(names["twice"], cache=True)


def test_typer_keeps_the_two_streams_apart_and_passes_on_the_exit_status() -> None:
    app = typer.Typer()

    @app.command()
    def command(number: int) -> None:
        typer.echo("result")
        typer.echo("note", err=True)
        raise typer.Exit(number)

    result = CliRunner().invoke(app, ["3"])
    assert (result.exit_code, result.stdout, result.stderr) == (3, "result\n", "note\n")
    assert CliRunner().invoke(app, ["x"]).exit_code == 2


def test_typer_says_what_is_wrong_with_a_command_line() -> None:
    app = typer.Typer()

    @app.command()
    def command(number: str = "") -> None:
        pass

    made = typer.main.get_command(app)
    for words, option, likely in ((["--numer"], "--numer", ["--number"]), (["-z"], "-z", None)):
        with pytest.raises(ClickException) as raised:
            made.main(words, prog_name="toy", standalone_mode=False)
        assert (raised.value.exit_code, raised.value.option_name) == (2, option)
        assert (raised.value.possibilities or None) == likely
    assert made.main(["--help"], prog_name="toy", standalone_mode=False) == 0


def test_the_lowest_versions_that_are_tested_are_those_declared() -> None:
    lowest = pins(LOWEST)
    for requirement in declared_requirements():
        floors = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
        assert floors == [lowest[requirement.name]], requirement


def test_the_newest_versions_that_are_tested_are_of_the_same_packages() -> None:
    lowest, newest = pins(LOWEST), pins(NEWEST)
    assert lowest.keys() == newest.keys()
    assert all(lowest[name] <= newest[name] for name in newest)


def test_constraints_pin_one_version_of_each_package() -> None:
    for path in (LOWEST, NEWEST):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert all(len(Requirement(line).specifier) == 1 for line in lines)
        assert len(pins(path)) == len(lines)
