"""FlowNet 2.0: optical flow between two images (Ilg et al., CVPR 2017), and the loader of its published weights."""

import torch
from torch import nn
from torch.nn.functional import interpolate

from utils.weights import load_published

from .networks import FlowNetC, FlowNetFusion, FlowNetS, FlowNetSD
from .ops import channelnorm, resample2d

DIV_FLOW = 20  # pixels to the unit of FlowNetC and FlowNetS
FIX = "python -m tools.download_weights flownet2"


class FlowNet2(nn.Module):
    """FlowNetC, refined by two FlowNetS; FlowNetSD in parallel; FlowNetFusion merges the two flows."""

    def __init__(self):
        super().__init__()
        self.flownetc = FlowNetC()
        self.flownets_1 = FlowNetS()
        self.flownets_2 = FlowNetS()
        self.flownets_d = FlowNetSD()
        self.flownetfusion = FlowNetFusion()

    def forward(self, images):
        """images: (B, 3, 2, H, W) float, BGR 0..255, first and second image. Returns the flow (B, 2, H, W), x first, in
        pixels from the first image to the second. Raises ValueError if H or W is not a multiple of 64.
        """
        check_shape(images)
        images = (images - images.mean(dim=(2, 3, 4), keepdim=True)) / 255
        first, second = images.unbind(dim=2)  # (B, 3, H, W) each
        pair = torch.cat((first, second), dim=1)  # (B, 6, H, W)

        flow = upsample(self.flownetc(pair) * DIV_FLOW, "bilinear")  # (B, 2, H, W)
        flow = upsample(self.flownets_1(with_error(pair, flow)) * DIV_FLOW, "bilinear")
        large = upsample(self.flownets_2(with_error(pair, flow)) * DIV_FLOW, "nearest")
        small = upsample(self.flownets_d(pair) / DIV_FLOW, "nearest")  # FlowNetSD's unit is 1/20 pixel

        inputs = [first, small, large, channelnorm(small), channelnorm(large)]
        inputs += [channelnorm(first - resample2d(second, each)) for each in (small, large)]
        return self.flownetfusion(torch.cat(inputs, dim=1))  # (B, 11, H, W) -> (B, 2, H, W)


def check_shape(images):
    shape = tuple(images.shape)
    if len(shape) != 5 or shape[1:3] != (3, 2) or 0 in shape or shape[3] % 64 or shape[4] % 64:
        raise ValueError(f"FlowNet2 needs images (B, 3, 2, H, W) with H and W multiples of 64, not {shape}")


def upsample(flow, mode):
    """(B, 2, H/4, W/4) -> (B, 2, H, W); bilinear with corners aligned, as PyTorch did when the weights were made."""
    return interpolate(flow, scale_factor=4, mode=mode, align_corners=True if mode == "bilinear" else None)


def with_error(pair, flow):
    """What a FlowNetS refines: pair (B, 6, H, W), flow (B, 2, H, W) in pixels -> (B, 12, H, W)."""
    first, second = pair.chunk(2, dim=1)
    warped = resample2d(second, flow)
    return torch.cat((pair, warped, flow / DIV_FLOW, channelnorm(first - warped)), dim=1)


def load_flownet2(path):
    """FlowNet2, frozen, with the weights of `FlowNet2_checkpoint.pth.tar`. Raises UserError (utils.weights.load_published)."""
    model = load_published(FlowNet2, path, FIX)
    return model.to(memory_format=torch.channels_last).requires_grad_(False)  # faster on the CPU, half the memory
