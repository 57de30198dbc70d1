"""A timm classifier with a linear head: its class probabilities, and the features that the head reads, unpooled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featup_cli.backbones.api import Backbone
from featup_cli.backbones.config import BackboneConfig
from featup_cli.backbones.grid import measure_grid, run_probe
from featup_cli.backbones.precision import Network
from featup_cli.backbones.registry import find_loader
from featup_cli.backbones.timm.loader import LOADER
from featup_cli.backbones.timm.model import open_model
from featup_cli.backbones.timm.overlap import TimmModel
from featup_cli.core.errors import UsageError
from featup_cli.core.shapes import Size

EXAMPLES = "use for example --backbone mobilenetv2, resnet50, efficientnet, swin or vit"


@dataclass(frozen=True, eq=False)
class Classifier:
    """A frozen classifier of pictures whose last step is linear.

    Attributes:
        backbone: its features are those before the pooling that the head reads, [B, C, h, w]. They may come after
            the last stage: MobileNetV2 has a 1x1 convolution in between.
        network: normalised pictures to logits [B, classes].
        weight: of the head, [classes, C].
        pooling: what the head reads: `mean` or `max` over positions, or the `class token`.
    """

    backbone: Backbone
    network: Network
    weight: Tensor
    pooling: str

    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax over classes, float64 [B, classes] on the CPU, of pictures [B, 3, H, W] in [0, 1]."""
        return self.backbone.run(self.network, images).cpu().double().softmax(1)


def load_classifier(config: BackboneConfig, device: torch.device) -> Classifier:
    """Load a timm classifier whose head is one linear layer on pooled features.

    A trial checks this: it compares the input of the head with each pooling of `forward_features`.

    Raises:
        UsageError: the network has no classifier, or one of another form.
        WeightsError: weights are unavailable, or lack the head.
    """
    if find_loader(config.name) is not LOADER:
        raise UsageError(f"{config.name} has no classifier, which class activation maps need; {EXAMPLES}")
    if "num_classes" in config.model_args and config.weights is None and not config.random_weights:
        raise UsageError(
            "--backbone-arg num_classes gives a new, untrained classifier; leave it out, or give --weights"
        )
    loaded = open_model(config, device, with_head=True)
    model = loaded.model.to(device)
    head = model.get_classifier()
    # CLIP's last layer projects to the space of its texts.
    projects = "clip" in loaded.reference and "_ft_" not in loaded.reference
    if not isinstance(head, nn.Linear) or projects:
        raise UsageError(
            f"{config.name} has no classifier of one linear layer, which class activation maps need; {EXAMPLES}"
        )

    network = _grid_features(model)
    grid = measure_grid(config.name, network, model.feature_info[-1]["reduction"], loaded.native_size, device)
    pooling = find_pooling(model, head, run_probe(lambda images: images, grid.probe_size, device))
    if pooling is None:
        raise UsageError(
            f"the classifier of {config.name} does more than pool the last features and map them linearly, so class "
            f"activation maps are not exact; {EXAMPLES}"
        )
    norm_applied = not isinstance(getattr(model, "norm", nn.Identity()), nn.Identity)
    layer = len(model.feature_info) - 1
    details = {"features": "before pooling"}
    backbone = loaded.backbone(network, _grid_features, grid, norm_applied, layer, details)
    return Classifier(backbone, model, head.weight.detach().float(), pooling)


def _grid_features(model: TimmModel) -> Network:
    def network(images: Tensor) -> Tensor:
        return split_positions(model, model.forward_features(images), (images.shape[2], images.shape[3]))[0]

    return network


def split_positions(model: TimmModel, features: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Output of a timm model's `forward_features` as a grid [B, C, h, w] and prefix tokens [B, P, C]; P may be 0."""
    if features.ndim == 3:
        count = getattr(model, "num_prefix_tokens", 0)
        tokens = features[:, count:].transpose(1, 2)
        return tokens.unflatten(2, model.patch_embed.dynamic_feat_size(size)), features[:, :count]
    grid = features.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else features
    return grid, features.new_zeros(len(features), 0, grid.shape[1])


@torch.no_grad()
def find_pooling(model: TimmModel, head: nn.Linear, images: Tensor) -> str | None:
    """What `head`, the last layer of a timm model, reads: `mean`, `max` or `class token` of the last features.

    Args:
        images: [B, 3, H, W], normalised, to try it with.
    Returns:
        None if it reads something else.
    """
    read: list[Tensor] = []
    features = model.forward_features(images)
    hook = head.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].flatten(1)))
    model.forward_head(features)
    hook.remove()
    grid, prefix = split_positions(model, features, (images.shape[2], images.shape[3]))
    pooled = {"mean": grid.mean((2, 3)), "max": grid.amax((2, 3))}
    if prefix.shape[1]:
        pooled["class token"] = prefix[:, 0]
    return next((name for name, value in pooled.items() if len(read) == 1 and _equal(value, read[0])), None)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * b.abs().max())
