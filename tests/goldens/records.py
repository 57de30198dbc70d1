"""Records of JSON, files and states: what other programs and later versions rely on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import featup_cli as featup
from tests.goldens.compare import file_facts, file_tensors, structure, tensors
from tests.goldens.inputs import FIT_OPTIONS, Inputs, run
from tests.goldens.names import build_upsampler, packaged_weights, trained_methods

Record = Callable[[Inputs], Any]
SMALL = ("--resize", "64", "--device", "cpu", "--json")


def _upsample(inputs: Inputs) -> Any:
    bad = inputs.folder / "bad.jpg"
    bad.write_text("no picture")
    command = ("upsample", inputs.photo, bad, "-o", inputs.folder / "plain", "--method", "bilinear", *SMALL)
    first, again = run(*command, status=1), run(*command, status=1)
    assert [line["status"] for line in (*first, *again)] == ["done", "failed", "skipped", "failed"]
    names = {"done": first[0], "failed": first[1], "skipped": again[0], "fitted": inputs.fitted}
    return {name: structure(line) for name, line in names.items()} | {
        "dry run": structure(run(*command, "--dry-run")[0]),
        "provenance": structure(file_facts(first[0]["output"])),
        "provenance of a fit": structure(file_facts(inputs.fitted["output"])),
    }


def _render(inputs: Inputs) -> Any:
    (line,) = run("render", inputs.fitted["model"], "-o", inputs.folder / "rendered", "--json")
    return {
        "line": structure(line),
        "provenance": structure(file_facts(line["output"])),
        "provenance of the model": structure(file_facts(inputs.fitted["model"])),
    }


def _visualize(inputs: Inputs) -> Any:
    return structure(run("visualize", inputs.fitted["output"], "-o", inputs.folder / "shown.png", "--json"))


def _export(inputs: Inputs) -> Any:
    files = (inputs.fitted["output"], inputs.photo)
    lines = run("export", *files, "--to", "npy", "-o", inputs.folder / "exported", "--json", status=1)
    return [structure(line) for line in lines]


def _info(inputs: Inputs) -> Any:
    files = {"features": inputs.fitted["output"], "model": inputs.fitted["model"], "weights": inputs.trained["output"]}
    records = {kind: structure(run("info", path, "--json")[0]) for kind, path in files.items()}
    return records | {"installation": structure(run("info", "--json")[0])}


def _bench(inputs: Inputs) -> Any:
    arguments = ("--repeat", 1, "--budget", 0.1, "--baselines", "none", "--backend", "reference", "--device", "cpu")
    return structure(run("bench", "--shape", "1x4x6x2x3", "-q", *arguments)[0])


def _compare(inputs: Inputs) -> Any:
    target = inputs.folder / "compared.png"
    return structure(run("compare", inputs.photo, "--methods", "bilinear,nearest", "-o", target, *SMALL)[0])


def _evaluate(*arguments: object, data: str = "", methods: str = "nearest,bilinear") -> Record:
    def record(inputs: Inputs) -> Any:
        where = inputs.boxes / data if data else inputs.boxes
        return structure(run("eval", arguments[0], where, *arguments[1:], "--no-cache", "-m", methods, *SMALL)[0])

    return record


def _matches(inputs: Inputs) -> Any:
    pictures = sorted((inputs.boxes / "images" / "val").iterdir())
    options = ("--at", "30,30", "-o", inputs.folder / "found.png", "-m", "nearest,bilinear", *SMALL)
    return structure(run("eval", "retrieval", *pictures, *options)[0])


def _train(inputs: Inputs) -> Any:
    return {
        "line": structure(inputs.trained),
        "weights": structure(file_facts(inputs.trained["output"])),
        "run folder": sorted(path.name for path in Path(inputs.trained["run_folder"]).iterdir()),
    }


def _import(inputs: Inputs) -> Any:
    return {"line": structure(inputs.imported), "weights": structure(file_facts(inputs.imported["output"]))}


JSON_KEYS: dict[str, Record] = {
    "upsample": _upsample,
    "render": _render,
    "visualize": _visualize,
    "export": _export,
    "info": _info,
    "bench": _bench,
    "compare": _compare,
    "eval consistency": _evaluate(
        "consistency", "--set", "heldout_views=2", *FIT_OPTIONS, data="images/val", methods="bilinear,implicit"
    ),
    "eval probe seg": _evaluate("probe", "--task", "seg", "--seeds", 1),
    "eval probe depth": _evaluate("probe", "--task", "depth", "--seeds", 1),
    "eval boundary": _evaluate("boundary"),
    "eval cam": _evaluate("cam", "--backbone", "test_resnet", "--random-weights", data="images/val"),
    "eval retrieval": _evaluate("retrieval", "--points", 3),
    "eval retrieval of points": _matches,
    "train": _train,
    "import-weights": _import,
}


def _modules(inputs: Inputs) -> Any:
    released = {
        "jbu-released": build_upsampler("jbu-released", {"channels": 96}),
        "jbu-released, normed": build_upsampler("jbu-released", {"channels": 96, "norm": True}),
        "tiny": featup.load_backbone(featup.BackboneConfig("tiny"), torch.device("cpu")).network,
    }
    return {name: tensors(module.state_dict()) for name, module in (trained_methods() | released).items()}


def _packaged(inputs: Inputs) -> Any:
    return {name: file_tensors(path) for name, path in packaged_weights().items()}


def _packaged_settings(inputs: Inputs) -> Any:
    """Modules with the settings of packaged files, which an older or newer program must still build alike."""
    paths = {name: path for name, path in packaged_weights().items() if name != "tiny.safetensors"}
    return {
        name: {"metadata": structure(file_facts(path)), "state": tensors(featup.load_upsampler(path)[0].state_dict())}
        for name, path in paths.items()
    }


def _checkpoint(inputs: Inputs) -> Any:
    """What `featup train --resume` reads; of the optimizer's part, which is PyTorch's, the number of parameters."""
    path = Path(inputs.trained["run_folder"]) / "checkpoint.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    trainer = state["trainer"]
    return {
        "settings": structure(state["settings"]),
        "trainer": list(trainer),
        "model": tensors(trainer["model"]),
        "average": tensors(trainer["average"]),
        "best": tensors(trainer["best"]["state"]),
        "row": len(trainer["rows"][0]),
        "groups": [len(group["params"]) for group in trainer["optimizer"]["param_groups"]],
    }


STATE_DICTS: dict[str, Record] = {
    "modules": _modules,
    "packaged files": _packaged,
    "settings of packaged files": _packaged_settings,
    "fitted model": lambda inputs: file_tensors(inputs.fitted["model"]),
    "feature file": lambda inputs: file_tensors(inputs.fitted["output"]),
    "trained": lambda inputs: file_tensors(inputs.trained["output"]),
    "imported": lambda inputs: file_tensors(inputs.imported["output"]),
    "checkpoint": _checkpoint,
}


def training_cache(inputs: Inputs) -> Any:
    """What the files of the training cache hold, and their names: keys of picture, backbone and settings."""
    files = sorted((Path(inputs.trained["run_folder"]) / "cache").iterdir())
    return {"files": [path.name for path in files], "tensors": file_tensors(files[0])}
