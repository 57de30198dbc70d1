"""What a frozen probe reads off upsampled features: segmentation, depth, normals."""
