from __future__ import annotations

from pathlib import Path

import numpy as np

from featup_cli.evaluation.comparison import compare


def test_panels_share_one_basis_so_that_nearest_looks_like_the_low_resolution(photo: Path) -> None:
    rgb = compare(photo, methods="nearest", resize="64x80", device="cpu").rgb
    # Find the panels by their hairlines: rows and columns that are wholly frame-coloured or outside are left out.
    height, width = 224, 280  # of a 64x80 map as a panel
    margin = (rgb.shape[1] - 3 * width) // 4
    top = next(y for y in range(rgb.shape[0]) if (rgb[y, margin : margin + width] == 224).all()) + 1
    panels = [rgb[top : top + height, margin + k * (width + margin) :][:, :width].astype(int) for k in (1, 2)]
    assert panels[0].std() > 10
    assert np.abs(panels[0] - panels[1])[2:-2, 2:-2].max() <= 1


def test_time_and_memory_are_reported_for_each_method(photo: Path) -> None:
    rows = compare(photo, methods=["bilinear", "bicubic"], resize=64, device="cpu", output_size="image").rows
    assert [row["method"] for row in rows] == ["bilinear", "bicubic"]
    assert all(set(row) == {"method", "seconds", "peak_mib"} for row in rows)
