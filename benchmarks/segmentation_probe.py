"""Segmentation by a frozen linear probe, for each upsampling method: FeatUp, section 4.2.

A probe is fitted to convergence on the low-resolution features of the training pictures (class mixes), frozen, and
applied to the features that each method upsamples to the size of the labels.

    python benchmarks/segmentation_probe.py CAMVID --split val --frames 12 --backbone mobilenetv2_100 --layer 3 \
        --weights WEIGHTS -o benchmarks/probe.json

DATA holds SPLIT.txt files of `picture label` lines and classes.json, as CamVid's folder in the SegNet tutorial.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor

from featup_cli.backbones import BackboneConfig
from featup_cli.backbones.aliases import parse_model_args
from featup_cli.config import implicit_config
from featup_cli.environment import describe_device, versions
from featup_cli.evaluation.probe import (
    boundary_band,
    class_mixes,
    confusion_matrix,
    fit_probe,
    iou,
    segmentation_scores,
)
from featup_cli.pipeline import Pipeline, Upsampling

THIN_CLASSES = ("pole", "sign_symbol", "pedestrian")
BAND_RADIUS = 3


def read_pairs(data: Path, split: str) -> list[tuple[Path, Path]]:
    """(picture, label) paths of a split."""
    lines = (data / f"{split}.txt").read_text().split("\n")
    return [(data / a, data / b) for a, b in (line.split() for line in lines if line.strip())]


def read_labels(path: Path) -> Tensor:
    """Class ids [H, W]."""
    return torch.from_numpy(np.array(Image.open(path)))


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train.txt, SPLIT.txt and classes.json.")],
    split: Annotated[str, typer.Option(help="Split to score.")] = "val",
    frames: Annotated[int, typer.Option(help="Frames to score, evenly spaced; 0: all.")] = 12,
    methods: Annotated[str, typer.Option(help="Comma-separated.")] = "nearest,bilinear,bicubic,implicit",
    backbone: Annotated[str, typer.Option()] = "tiny",
    layer: Annotated[int | None, typer.Option()] = None,
    weights: Annotated[Path | None, typer.Option()] = None,
    backbone_arg: Annotated[list[str] | None, typer.Option()] = None,
    resize: Annotated[str, typer.Option(help="Network input, HEIGHTxWIDTH.")] = "352x480",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Settings of implicit.")] = None,
    preset: Annotated[str, typer.Option()] = "default",
    output: Annotated[Path | None, typer.Option("-o", help="Write the scores as JSON.")] = None,
) -> None:
    """Score upsampling methods by a frozen linear probe."""
    classes = json.loads((data / "classes.json").read_text())["classes"]
    thin = [classes.index(name) for name in THIN_CLASSES]
    config = BackboneConfig(backbone, layer, weights=weights, model_args=parse_model_args(backbone_arg or []))
    implicit = implicit_config(preset, {}, settings or [])

    def pipeline_for(method: str, output_size: str | None) -> Pipeline:
        return Pipeline(Upsampling(config, method, implicit, resize, output_size, device="cpu"), base.backbone)

    base = Pipeline(Upsampling(config, "nearest", implicit, resize, "1x", device="cpu"))
    tokens, mixes, shares = [], [], []
    for picture, label in read_pairs(data, "train"):
        low = base.run(picture).lr_features
        mix, share = class_mixes(read_labels(label), (low.shape[1], low.shape[2]), len(classes))
        tokens.append(low.flatten(1).T)
        mixes.append(mix.flatten(0, 1))
        shares.append(share.flatten())
    probe = fit_probe(torch.cat(tokens), torch.cat(mixes), torch.cat(shares))

    pairs = read_pairs(data, split)
    if frames:
        pairs = [pairs[i * len(pairs) // frames] for i in range(frames)]
    report = {
        "split": split, "frames": [p.stem for p, _ in pairs], "backbone": base.backbone.describe(),
        "resize": resize, "implicit": vars(implicit), "device": describe_device(torch.device("cpu")),
        "versions": versions(), "methods": {},
    }  # fmt: skip
    typer.echo(f"{'method':10} {'mIoU':>6} {'thin':>6} {'acc':>6} {'band':>6} {'s/frame':>8}")
    for method in methods.split(","):
        pipeline = pipeline_for(method, "image")
        whole, band = (torch.zeros(len(classes), len(classes), dtype=torch.long) for _ in range(2))
        seconds, explained = 0.0, []
        for picture, label in pairs:
            labels = read_labels(label)
            start = time.perf_counter()
            result = pipeline.run(picture)
            seconds += time.perf_counter() - start
            explained.append(result.scores)
            prediction = probe.predict(result.features)
            whole += confusion_matrix(prediction, labels, len(classes))
            band += confusion_matrix(prediction, labels, len(classes), boundary_band(labels, BAND_RADIUS))
        scores = segmentation_scores(whole, thin)
        scores["band_miou"] = segmentation_scores(band)["miou"]
        scores["seconds_per_frame"] = seconds / len(pairs)
        typer.echo(
            f"{method:10} {scores['miou']:6.2f} {scores['thin_miou']:6.2f} {scores['accuracy']:6.2f} "
            f"{scores['band_miou']:6.2f} {scores['seconds_per_frame']:8.1f}"
        )
        report["methods"][method] = {
            **scores, "iou": {n: round(100 * float(v), 2) for n, v in zip(classes, iou(whole), strict=True)},
            "per_picture": explained,
        }  # fmt: skip
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
