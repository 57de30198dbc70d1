"""Zero-shot super-resolution behind the call that all upsamplers share."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featup_cli.core.shapes import Size
from featup_cli.ops.pca import PCA
from featup_cli.upsamplers.api import FLOAT, Details
from featup_cli.upsamplers.components import ComponentFit, output_grid
from featup_cli.upsamplers.method import Making
from featup_cli.upsamplers.zssr.config import ZSSRConfig
from featup_cli.upsamplers.zssr.method import METHOD

TURNS = 8  # of a map: four rotations, mirrored or not


class Refiner(nn.Module):
    """Convolutions with ReLU that add what interpolation lacks; at first nothing."""

    def __init__(self, config: ZSSRConfig, channels: int) -> None:
        super().__init__()
        widths = [channels, *[config.width] * (config.depth - 1), channels]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, padding_mode="replicate") for before, after in pairwise(widths)
        )
        for values in self.layers[-1].parameters():
            nn.init.zeros_(values)

    def forward(self, enlarged: Tensor) -> Tensor:
        """Refine a map [1, K, H, W] that interpolation has enlarged."""
        maps = enlarged
        for layer in self.layers[:-1]:
            maps = layer(maps).relu()
        return enlarged + self.layers[-1](maps)


class ZSSRUpsampler(ComponentFit):
    """Zero-shot super-resolution (Shocher, Cohen and Irani, *Zero-Shot Super-Resolution using Deep Internal Learning*,
    2018, section 3), a rival in FeatUp's figure 8.

    A network learns to undo the halving of the features themselves: turned, scaled and cropped copies are halved,
    enlarged bicubically and refined, with an L1 loss. Then it doubles the features: it is applied to all eight turns,
    each is corrected by back-projection, and their median is corrected again. Doublings follow each other; each trains
    on, with the result so far as a further example (the paper's gradual increase). It does not see the picture.
    """

    method = METHOD
    config: ZSSRConfig

    def fit_bytes(self, size: Size) -> int:
        """A training step, and all turns of the last doubling with a layer's maps."""
        config = self.config
        step = 3 * config.depth * config.width * config.crop**2
        return FLOAT * (step + size[0] * size[1] * ((TURNS + 6) * config.components + 4 * config.width))

    def fit(self, pca: PCA, lr_feats: Tensor, output_size: Size) -> Tensor:
        """Train and double until the size of `output_grid`."""
        target = pca.project(lr_feats[0].float())[None]
        spread = target.square().mean().sqrt().clamp_min(1e-6)
        maps = [target / spread]
        size = output_grid((target.shape[2], target.shape[3]), output_size, self.config.max_pixels)
        doublings = (size[0] // target.shape[2]).bit_length() - 1
        accelerators = [target.device.index] if target.device.type == "cuda" else []
        with torch.random.fork_rng(devices=accelerators):
            torch.manual_seed(self.seed)
            network = Refiner(self.config, target.shape[1]).to(target.device)
            scores = {"pair_error_bicubic": pair_error(network, maps[0])}
            for number in range(doublings):
                with torch.enable_grad():
                    network = self._train(network, maps, (number, doublings))
                if number == 0:
                    scores["pair_error"] = pair_error(network, maps[0])
                maps.append(self._double(network, maps[-1]))
        explained = float(pca.explained_ratio.sum())
        steps = float(doublings * self.config.steps)
        self.details = Details(scores | {"pca_explained_variance": explained, "steps": steps})
        return maps[-1] * spread

    def _train(self, network: Refiner, sources: list[Tensor], place: tuple[int, int]) -> Refiner:
        """The network whose error on the last of the sources was least, the one it was given included."""
        config, (number, count) = self.config, place
        optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        best, least = copy.deepcopy(network), pair_error(network, sources[-1])
        for step in range(1, config.steps + 1):
            father = self._example(sources)
            loss = F.l1_loss(network(enlarge(halve(father), father)), father)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step % config.check_interval == 0 or step == config.steps:
                error = pair_error(network, sources[-1])
                if error < least:
                    best, least = copy.deepcopy(network), error
            self.progress(
                "fit", number * config.steps + step, count * config.steps, f"doubling {number + 1} of {count}"
            )
        return best

    def _example(self, sources: list[Tensor]) -> Tensor:
        """A source, turned, made smaller half of the time, and cropped."""
        config = self.config
        draws = torch.rand(4).tolist()
        father = turn(sources[int(torch.randint(len(sources), ()))], int(torch.randint(TURNS, ())))
        if draws[0] < 0.5:
            scale = config.min_scale + draws[1] * (1 - config.min_scale)
            smaller = [max(1, round(side * scale)) for side in father.shape[2:]]
            father = F.interpolate(father, size=smaller, mode="bicubic", antialias=True)
        for axis, draw in ((2, draws[2]), (3, draws[3])):
            side = min(father.shape[axis], config.crop)
            father = father.narrow(axis, int(draw * (father.shape[axis] - side + 1)), side)
        return father

    def _double(self, network: Refiner, maps: Tensor) -> Tensor:
        """The median over all turns, and back-projection before and after it."""
        count = self.config.back_projections
        turned = []
        for number in range(TURNS):
            seen = turn(maps, number)
            doubled = network(F.interpolate(seen, scale_factor=2, mode="bicubic"))
            turned.append(turn_back(project_back(doubled, seen, count), number))
        return project_back(torch.stack(turned).median(0).values, maps, count)


def halve(maps: Tensor) -> Tensor:
    """[1, K, h, w] at half the sides, rounded up."""
    size = [-(-side // 2) for side in maps.shape[2:]]
    return F.interpolate(maps, size=size, mode="bicubic", antialias=True)


def enlarge(maps: Tensor, like: Tensor) -> Tensor:
    """Maps at the sides of others, bicubically."""
    return F.interpolate(maps, size=like.shape[2:], mode="bicubic")


def project_back(doubled: Tensor, maps: Tensor, count: int) -> Tensor:
    """Correct a doubled map so that halved it is nearer to what was doubled (Irani and Peleg, 1991)."""
    for _ in range(count):
        doubled = doubled + enlarge(maps - halve(doubled), doubled)
    return doubled


def turn(maps: Tensor, number: int) -> Tensor:
    """One of the `TURNS` of a map."""
    turned = maps.rot90(number % 4, (2, 3))
    return turned.flip(3) if number >= 4 else turned


def turn_back(maps: Tensor, number: int) -> Tensor:
    """Undo `turn`."""
    return (maps.flip(3) if number >= 4 else maps).rot90(-(number % 4), (2, 3))


@torch.no_grad()
def pair_error(network: Refiner, maps: Tensor) -> float:
    """Mean squared error of a map that was halved, enlarged and refined; that of interpolation before a training."""
    return float(F.mse_loss(network(enlarge(halve(maps), maps)), maps))


def build(making: Making) -> ZSSRUpsampler:
    """Zero-shot super-resolution of one picture."""
    return ZSSRUpsampler(making.config, making.seed, making.progress)
