"""All export formats by name."""

from __future__ import annotations

from featup_kernels.plugins import collect

from featup_cli.exporting.format import Format

_HERE = "featup_cli.exporting"
_OWN = (
    Format("npy", "features C x H x W alone, for NumPy", ".npy", f"{_HERE}.arrays:write_npy", basis="pca.npz"),
    Format("npz", "features C x H x W, other maps and provenance, for NumPy", ".npz", f"{_HERE}.arrays:write_npz"),
    Format("pt", "the same for PyTorch", ".pt", f"{_HERE}.torch_file:write_pt", bfloat16=True),
    Format("hdf5", "the same as datasets", ".h5", f"{_HERE}.hdf5:write_hdf5", check=f"{_HERE}.hdf5:load_h5py"),
    Format(
        "feature-3dgs",
        "NAME_fmap_CxHxW.pt for each picture",
        ".pt",
        f"{_HERE}.fields:write_feature_3dgs",
        file_name=f"{_HERE}.fields:feature_3dgs_name",
        basis="pca_dict.pt",
        write_basis=f"{_HERE}.fields:write_pca_dict",
        dtype="float16",
        bfloat16=True,
    ),
    Format(
        "lerf",
        "dino.npy and dino.info for all pictures, N x H x W x C",
        ".npy",
        f"{_HERE}.fields:write_lerf",
        joins=True,
        file_name="dino.npy",
        beside=".info",
        basis="pca.npz",
    ),
    Format(
        "f3rm",
        "f3rm_dino_features.pt for all pictures, N x H x W x C",
        ".pt",
        f"{_HERE}.fields:write_f3rm",
        joins=True,
        file_name=f"{_HERE}.fields:f3rm_name",
        bfloat16=True,
    ),
)
FORMATS: dict[str, Format] = collect(_OWN, "featup.formats", Format)
"""By name: our own, then those of other packages (entry points `featup.formats`)."""
