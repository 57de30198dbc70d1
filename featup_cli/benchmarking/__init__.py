"""Benchmarks of the kernels, the upsamplers and the main job; docs/benchmarks.md defines every number."""
