"""ReSFU's fine-grained neighbour step."""

from featup_kernels.neighbor_mix.op import neighbor_mix

__all__ = ["neighbor_mix"]
