"""FlowNet 2.0 in plain PyTorch (Ilg et al., CVPR 2017)."""

from .flownet2 import FlowNet2, load_flownet2

__all__ = ["FlowNet2", "load_flownet2"]
