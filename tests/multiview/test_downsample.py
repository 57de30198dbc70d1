from __future__ import annotations

import pytest
import torch

from featup_cli.multiview.downsample import AttentionDownsampler, SimpleDownsampler, kernel_lookup, ordered_lookup

OFFSETS = torch.rand(5, 9, 2) * 2 - 1


def make(kind: str) -> SimpleDownsampler:
    torch.manual_seed(0)
    if kind == "simple":
        return SimpleDownsampler(7, 0.5)
    downsampler = AttentionDownsampler(4, 7, 0.5)
    torch.nn.init.normal_(downsampler.saliency.weight)
    return downsampler


@pytest.mark.parametrize("kind", ["simple", "attention"])
def test_weights_are_positive_sum_to_one_and_keep_a_constant(kind: str) -> None:
    downsampler = make(kind)
    weights = downsampler.weights(torch.randn(5, 9, 4), OFFSETS)
    assert bool((weights > 0).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones(5))
    constant = torch.tensor([1.0, -2.0, 3.0, 0.5]).expand(5, 9, 4)
    torch.testing.assert_close(downsampler(constant, OFFSETS), constant[:, 0])


def test_attention_follows_the_formula() -> None:
    downsampler = make("attention").eval()
    features = torch.randn(5, 9, 4)
    weight, bias = (kernel_lookup(k[None], OFFSETS)[..., 0] for k in (downsampler.weight, downsampler.bias))
    logits = weight * downsampler.saliency(features)[..., 0] + bias
    expected = (logits.exp() / logits.exp().sum(-1, keepdim=True))[..., None] * features
    torch.testing.assert_close(downsampler(features, OFFSETS), expected.sum(1))


def test_attention_is_random_in_training_and_deterministic_outside() -> None:
    downsampler, features = make("attention"), torch.randn(5, 9, 4)
    assert not torch.equal(downsampler(features, OFFSETS), downsampler(features, OFFSETS))
    downsampler.eval()
    assert torch.equal(downsampler(features, OFFSETS), downsampler(features, OFFSETS))


def test_salient_positions_dominate_the_token() -> None:
    downsampler = AttentionDownsampler(1, 7, 10.0).eval()
    torch.nn.init.constant_(downsampler.saliency.weight, 5.0)
    features = torch.zeros(1, 9, 1)
    features[0, 3] = 1.0
    assert downsampler(features, OFFSETS[:1]).item() > 0.9


def test_kernel_lookup_reads_cell_centres_exactly() -> None:
    kernel = torch.arange(9.0).view(1, 3, 3)
    centres = torch.tensor([[-2 / 3, -2 / 3], [0.0, 0.0], [2 / 3, 0.0]])
    torch.testing.assert_close(kernel_lookup(kernel, centres)[:, 0], torch.tensor([0.0, 4.0, 7.0]))


def test_the_look_up_of_fixed_order_is_the_same_and_so_is_its_gradient() -> None:
    kernel = torch.randn(2, 15, 15, dtype=torch.float64, requires_grad=True)
    twin = kernel.detach().clone().requires_grad_()
    offset = torch.rand(7, 9, 2, dtype=torch.float64) * 2 - 1
    expected, found = kernel_lookup(kernel, offset), ordered_lookup(twin, offset)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(twin.grad, kernel.grad)
