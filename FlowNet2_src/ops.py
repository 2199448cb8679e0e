"""The three operators of FlowNet 2.0 that PyTorch lacks, as pure functions on any device and floating-point type.

FlowNet 2.0: Evolution of Optical Flow Estimation with Deep Networks, Ilg et al., CVPR 2017; the correlation is that
of FlowNet: Learning Optical Flow with Convolutional Networks, Dosovitskiy et al., ICCV 2015.
"""

from itertools import product

import torch
import torch.nn.functional as F

MAX_DISPLACEMENT = 20  # pixels of the feature map, in every direction
STEP = 2
SHIFTS = 2 * MAX_DISPLACEMENT // STEP + 1  # 21 in each direction


def correlation(first, second):
    """Compares every pixel of one feature map with its neighbourhood in another (Dosovitskiy et al., section 3).

    first, second: (B, C, H, W). Returns (B, 441, H, W): channel 21 i + j is the mean over C of the first map times the
    second at a displacement of (2 i - 20) rows and (2 j - 20) columns, with zeros outside the map.
    """
    batch, channels, height, width = first.shape
    first = (first / channels).permute(0, 2, 3, 1)  # (B, H, W, C)
    second = F.pad(second.permute(0, 2, 3, 1), (0, 0) + (MAX_DISPLACEMENT,) * 4)  # (B, H + 40, W + 40, C)
    result = first.new_empty(batch, SHIFTS, SHIFTS, height, width)
    # With steps of 2 a pixel is only compared with pixels of its own parity: four separate sub-grids, each with steps
    # of 1. There row y meets the 21 padded rows from y on, which are contiguous in memory, so one matrix product does
    # a whole row of pixels; it compares each with whole rows, and a strided view picks the 21 relevant columns.
    for sample, top, left in product(range(batch), range(STEP), range(STEP)):
        pixels = first[sample, top::STEP, left::STEP].contiguous()  # (h, w, C)
        others = second[sample, top::STEP, left::STEP].contiguous()  # (h + 20, w + 20, C)
        rows, columns = pixels.shape[:2]
        span = others.shape[1]
        windows = others.as_strided((rows, SHIFTS * span, channels), (span * channels, channels, 1))
        products = torch.bmm(windows, pixels.mT)  # (h, 21 (w + 20), w)
        result[sample, :, :, top::STEP, left::STEP] = products.as_strided(
            (SHIFTS, SHIFTS, rows, columns), (span * columns, columns, SHIFTS * span * columns, columns + 1)
        )
    return result.flatten(1, 2)  # (B, 441, H, W)


def resample2d(image, flow):
    """Warps an image backwards: each pixel is sampled bilinearly where the flow points, clamped to the border.

    image: (B, C, H, W); flow: (B, 2, H, W) in pixels, x first. Returns (B, C, H, W) in the image's type.
    """
    height, width = image.shape[-2:]
    # At least float32: bfloat16 cannot tell column 400 from column 401.
    y = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None] + flow[:, 1]  # (B, H, W)
    x = torch.arange(width, device=flow.device, dtype=torch.float32) + flow[:, 0]  # (B, H, W)
    grid = torch.stack((x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1), dim=-1)  # (B, H, W, 2)
    warped = F.grid_sample(image.to(grid.dtype), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return warped.to(image.dtype)


def channelnorm(x):
    """Euclidean norm over the channels: (B, C, H, W) -> (B, 1, H, W)."""
    return x.square().sum(dim=1, keepdim=True).sqrt()  # far faster on the CPU than linalg.vector_norm
