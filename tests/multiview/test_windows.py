from __future__ import annotations

import pytest
import torch

from featup_cli.multiview.windows import half_window, lattice_offsets, stratified_offsets, window_positions


def test_offsets_are_stratified() -> None:
    offsets = stratified_offsets(50, 16, torch.Generator().manual_seed(0))
    cells = ((offsets + 1) * 2).floor().long()
    assert cells.min() == 0
    assert cells.max() == 3
    assert all(len({tuple(c) for c in token.tolist()}) == 16 for token in cells)


def test_windows_surround_their_tokens_and_are_mirrored_at_the_border() -> None:
    half = torch.tensor(half_window(32, 16, (64, 128)))
    assert half.tolist() == [0.25, 0.125]
    offsets = torch.tensor([[0.0, 0.0], [1.0, -1.0]]).expand(2, -1, -1)
    positions = window_positions(torch.tensor([1, 3]), torch.tensor([2, 0]), offsets, (4, 8), half)
    expected = [[[0.375, 0.3125], [0.625, 0.1875]], [[0.875, 0.0625], [0.875, 0.0625]]]
    torch.testing.assert_close(positions, torch.tensor(expected))


def test_a_lattice_is_centred() -> None:
    offsets = lattice_offsets(9, torch.device("cpu"))
    assert offsets.shape == (9, 2)
    torch.testing.assert_close(offsets, -offsets.flip(0))
    assert float(offsets.max()) == pytest.approx(2 / 3)
