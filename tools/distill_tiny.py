"""Train `tiny` by distilling a larger backbone's features: `python -m tools.distill_tiny --help`.

The target of a student token is the teacher's deepest stage on the same picture at twice the size: there a
stride-32 teacher has stride 16, with a receptive field that is semantically richer than its own stride-16 stage.
Teacher features are reduced by PCA and cached on disk once; each training crop is then a slice of that cache.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from featup_cli.backbones.tiny.network import TINY_CHANNELS, TINY_STRIDE, TinyNet
from featup_cli.pictures.find import find_files
from featup_cli.pictures.read import load_image


@dataclass(frozen=True)
class Sample:
    """One cached picture: `image` uint8 [3, 16 h, 16 w] and the teacher's `target` float16 [C, h, w]."""

    image: Tensor
    target: Tensor


class Teacher(torch.nn.Module):
    """A frozen timm model that maps pictures [B, 3, H, W] in [0, 1] to its deepest feature map."""

    def __init__(self, name: str, weights: Path | None, args: dict[str, Any], mean: float, std: float) -> None:
        super().__init__()
        overlay = {"file": str(weights)} if weights else {}
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **args)
        self.model: Any = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.mean, self.std = mean, std

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H / 32, W / 32] for a network of stride 32."""
        return self.model.forward_intermediates((image - self.mean) / self.std, indices=1, intermediates_only=True)[0]


def random_view(path: Path, generator: random.Random, max_tokens: int) -> Tensor:
    """Read a picture at a random scale, offset and flip: uint8 [3, H, W], sides multiples of the stride."""
    image = load_image(path).tensor()[None]
    height, width = image.shape[-2:]
    limit = (max_tokens * TINY_STRIDE**2 / (height * width)) ** 0.5
    scale = min(0.65 * (1.7 / 0.65) ** generator.random(), limit)
    scale = max(scale, 10.5 * TINY_STRIDE / min(height, width))
    image = F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True, recompute_scale_factor=True)
    height, width = image.shape[-2:]
    rows, cols = height // TINY_STRIDE * TINY_STRIDE, width // TINY_STRIDE * TINY_STRIDE
    top, left = generator.randint(0, height - rows), generator.randint(0, width - cols)
    view = image[0, :, top : top + rows, left : left + cols]
    if generator.random() < 0.5:
        view = view.flip(-1)
    return (view.clamp(0, 1) * 255).round().to(torch.uint8)


def teacher_target(teacher: torch.nn.Module, view: Tensor) -> Tensor:
    """The teacher's features of a uint8 view [3, H, W] at double size: [C_teacher, H / 16, W / 16]."""
    double = F.interpolate(view[None].float() / 255, scale_factor=2, mode="bicubic", antialias=True).clamp(0, 1)
    return teacher(double.contiguous(memory_format=torch.channels_last))[0]


def fit_projection(targets: list[Tensor], components: int) -> dict[str, Tensor]:
    """PCA of teacher tokens: `mean` [C], `basis` [K, C], `std` [K] and the share of variance explained."""
    tokens = torch.cat([t.flatten(1).T for t in targets]).double()
    mean = tokens.mean(0)
    centred = tokens - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    order = variances.argsort(descending=True)[:components]
    return {
        "mean": mean.float(),
        "basis": vectors[:, order].T.float().contiguous(),
        "std": variances[order].clamp_min(1e-12).sqrt().float(),
        "explained": (variances[order].sum() / variances.sum()).float(),
    }


def build_cache(
    cache: Path, sources: list[list[Path]], teacher: torch.nn.Module, versions: int, max_tokens: int, seed: int
) -> None:
    """Write PROJECTION.safetensors and one file per picture and version; pictures done before are kept."""
    cache.mkdir(parents=True, exist_ok=True)
    projection_file = cache / "PROJECTION.safetensors"
    if not projection_file.exists():
        generator = random.Random(seed)
        chosen = [p for paths in sources for p in generator.sample(paths, min(80, len(paths)))]
        targets = [teacher_target(teacher, random_view(p, generator, max_tokens)) for p in chosen]
        save_file(fit_projection(targets, TINY_CHANNELS), projection_file)
    projection = load_file(projection_file)
    typer.echo(f"projection keeps {projection['explained']:.1%} of the teacher's variance", err=True)
    for version in range(versions):
        for group, paths in enumerate(sources):
            for index, path in enumerate(paths):
                out = cache / f"{group}_{index:05d}_{version}.safetensors"
                if out.exists():
                    continue
                view = random_view(path, random.Random(f"{seed}/{path.name}/{version}"), max_tokens)
                target = teacher_target(teacher, view)
                reduced = torch.einsum("kc,chw->khw", projection["basis"], target - projection["mean"][:, None, None])
                partial = out.with_suffix(".part")
                save_file({"image": view.contiguous(), "target": reduced.half().contiguous()}, partial)
                partial.rename(out)
        typer.echo(f"cached version {version + 1} of {versions}", err=True)


def load_cache(cache: Path) -> list[list[Sample]]:
    """The cached samples, grouped by image source."""
    groups: dict[str, list[Sample]] = {}
    for path in sorted(cache.glob("[0-9]*.safetensors")):
        groups.setdefault(path.name.split("_")[0], []).append(Sample(**load_file(path)))
    return [groups[key] for key in sorted(groups)]


def colour_jitter(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast, saturation and gamma for each picture of [B, 3, H, W] in [0, 1]."""

    def factor(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(batch), 1, 1, 1, generator=generator)

    batch = batch.clamp(0, 1) ** factor(0.75, 1.3)
    grey = batch.mean(1, keepdim=True)
    batch = grey + (batch - grey) * factor(0.5, 1.4)
    centre = batch.mean((1, 2, 3), keepdim=True)
    return ((batch - centre) * factor(0.7, 1.3) + centre * factor(0.8, 1.2)).clamp(0, 1)


def draw_batch(groups: list[list[Sample]], tokens: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random crops on the token grid: images [B, 3, 16 n, 16 n] in [0, 1], targets [B, C, n, n].

    Every source gets the same share of the batch, however many pictures it has.
    """

    def draw(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    images, targets = [], []
    for position in range(size):
        group = groups[position % len(groups)]
        sample = group[draw(len(group))]
        while min(sample.target.shape[-2:]) < tokens:
            sample = group[draw(len(group))]
        rows, cols = sample.target.shape[-2:]
        top, left = draw(rows - tokens + 1), draw(cols - tokens + 1)
        y, x, side = top * TINY_STRIDE, left * TINY_STRIDE, tokens * TINY_STRIDE
        image = sample.image[:, y : y + side, x : x + side].float() / 255
        target = sample.target[:, top : top + tokens, left : left + tokens].float()
        if draw(2):
            image, target = image.flip(-1), target.flip(-1)
        images.append(image)
        targets.append(target)
    return colour_jitter(torch.stack(images), generator), torch.stack(targets)


def distill(
    groups: list[list[Sample]],
    std: Tensor,
    *,
    minutes: float,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.02,
    checkpoint: Path | None = None,
    seed: int = 0,
) -> TinyNet:
    """Fit `TinyNet` to the cached targets for a given time; the schedule follows the clock, not a step count.

    The loss is the squared error per component divided by the square root of its variance: half way between the
    raw loss, in which a few components drown the rest, and the whitened one, in which noise counts like signal.

    Args:
        groups: cached samples by source.
        std: [K] standard deviation of the target components.
        minutes: training time; a checkpoint resumes with the time that it had left.
        checkpoint: written every two minutes and read at the start when it exists.
    Returns:
        The exponentially averaged network, in eval mode.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = TinyNet(channels=len(std)).to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    spent, step = 0.0, 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        spent, step = state["spent"], state["step"]
    weight = (1.0 / std).view(1, -1, 1, 1)
    baseline = float(std.mean())  # the loss of predicting the mean
    shapes = [(10, 24), (14, 12), (18, 9)]  # (tokens a side, batch size), each about as dear as the others
    recent, last_save, tick = [], time.monotonic(), time.monotonic()
    while spent < 60 * minutes:
        progress = spent / (60 * minutes)
        rate = learning_rate * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * torch.cos(torch.tensor(progress * torch.pi)))
        for group in optimizer.param_groups:
            group["lr"] = max(float(rate), 1e-6)
        fitting = [s for s in shapes if any(min(x.target.shape[-2:]) >= s[0] for x in groups[0])]
        tokens, size = fitting[step % len(fitting)]
        images, targets = draw_batch(groups, tokens, size, generator)
        loss = (weight * (network(images.contiguous(memory_format=torch.channels_last)) - targets).square()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        average.update_parameters(network)
        recent.append(loss.item() / baseline)
        step += 1
        now = time.monotonic()
        spent, tick = spent + now - tick, now
        if step % 100 == 0:
            typer.echo(f"step {step}  {spent / 60:.1f} min  unexplained {sum(recent) / len(recent):.4f}", err=True)
            recent.clear()
        if checkpoint is not None and (now - last_save > 120 or spent >= 60 * minutes):
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "generator": generator.get_state(),
                "spent": spent,
                "step": step,
            }
            partial = checkpoint.with_suffix(".part")
            torch.save(state, partial)
            partial.rename(checkpoint)
            last_save = now
    network.load_state_dict(average.module.state_dict())
    return network.eval()


def save_tiny(network: TinyNet, path: Path, card: dict[str, Any]) -> None:
    """Write weights in half precision and batch-norm tensors in float32, with `card` as JSON metadata."""
    norms = {n for n, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    state = {
        name: (t if name.rsplit(".", 1)[0] in norms else t.half()).contiguous()
        for name, t in network.state_dict().items()
    }
    save_file(state, path, metadata={"model_card": json.dumps(card)})


def list_pictures(folder: Path) -> list[Path]:
    """Every picture below `folder`, sorted; see `find_files`."""
    # A cache numbers the pictures, so they come in the order of paths, which is not that of their texts.
    return [folder / name for name in sorted(map(Path, find_files(folder, recursive=True)))]


def main(
    images: Annotated[list[Path], typer.Option(help="Folder of training pictures; give several for several sources.")],
    output: Annotated[Path, typer.Option("-o", help="Where to write the weights.")],
    cache: Annotated[Path, typer.Option(help="Folder for teacher features; reused when it exists.")],
    teacher: Annotated[str, typer.Option(help="timm name of the teacher.")] = "mobilenetv2_100",
    teacher_weights: Annotated[Path | None, typer.Option(help="Local weights; else the model hub.")] = None,
    pad_type: Annotated[str, typer.Option(help="Padding of the teacher's convolutions; empty: its default.")] = "same",
    mean: Annotated[float, typer.Option(help="Channel mean of the teacher's input.")] = 0.5,
    std: Annotated[float, typer.Option(help="Channel standard deviation of the teacher's input.")] = 0.5,
    minutes: Annotated[float, typer.Option(help="Training time.")] = 60.0,
    versions: Annotated[int, typer.Option(help="Random scales and offsets cached for each picture.")] = 3,
    max_tokens: Annotated[int, typer.Option(help="Largest cached picture, in tokens of 16x16 pixels.")] = 600,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    cache_only: Annotated[bool, typer.Option(help="Stop when the cache is complete.")] = False,
) -> None:
    """Distil a teacher into `tiny` on folders of pictures."""
    if threads:
        torch.set_num_threads(threads)
    args = {"pad_type": pad_type} if pad_type else {}
    with torch.inference_mode():
        build_cache(
            cache,
            [list_pictures(f) for f in images],
            Teacher(teacher, teacher_weights, args, mean, std),
            versions,
            max_tokens,
            seed,
        )
    if cache_only:
        return
    projection = load_file(cache / "PROJECTION.safetensors")
    network = distill(
        load_cache(cache), projection["std"], minutes=minutes, checkpoint=cache / "checkpoint.pt", seed=seed
    )
    card = {"name": "tiny", "teacher": teacher, "minutes": minutes, "sources": [f.name for f in images], "seed": seed}
    save_tiny(network, output, card)


if __name__ == "__main__":
    typer.run(main)
