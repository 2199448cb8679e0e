"""The networks that FlowNet 2.0 stacks (Ilg et al., CVPR 2017, section 3 and supplement).

Attribute names match the published weights. All maps are (B, C, H, W); "level n" is 2^n times smaller than the
image. Each network returns its finest flow, in its own unit, as (B, 2, h, w).
"""

import torch
from torch import nn
from torch.nn.functional import leaky_relu

from .ops import correlation

SLOPE = 0.1


def conv(inputs, outputs, kernel=3, stride=1):
    """Convolution and LeakyReLU; stride 2 halves the size."""
    padding = (kernel - 1) // 2
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.LeakyReLU(SLOPE, inplace=True))


def deconv(inputs, outputs):
    """Transposed convolution to twice the size and LeakyReLU."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True))


class CoarseToFine(nn.Module):
    """The decoder of all networks: level by level it refines the flow with the encoder's map of that level.

    top, channels: level and channels of the coarsest map; levels: (encoder channels, deconvolution channels) of every
    finer level in turn. `inter_conv` adds a convolution before each finer flow.
    """

    def __init__(self, top, channels, levels, inter_conv=False, upsample_bias=True):
        super().__init__()
        self.top = top
        self.finer = [top - 1 - i for i in range(len(levels))]
        self.inter_conv = inter_conv
        self.predict_layer(top, channels)
        for level, (encoder, deconvolution) in zip(self.finer, levels, strict=True):
            upsample = nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=upsample_bias)
            self.add_module(f"upsampled_flow{level + 1}_to_{level}", upsample)
            self.add_module(f"deconv{level}", deconv(channels, deconvolution))
            channels = encoder + deconvolution + 2
            if inter_conv:
                # a Sequential of one, to match the published names
                self.add_module(f"inter_conv{level}", nn.Sequential(nn.Conv2d(channels, deconvolution, 3, padding=1)))
            self.predict_layer(level, deconvolution if inter_conv else channels)

    def predict_layer(self, level, channels):
        self.add_module(f"predict_flow{level}", nn.Conv2d(channels, 2, 3, padding=1))

    def decode(self, maps):
        """maps: {level: encoder's map}, from the coarsest level to the finest. Returns the finest level's flow."""
        x = maps[self.top]
        flow = self.get_submodule(f"predict_flow{self.top}")(x)
        for level in self.finer:
            up_flow = self.get_submodule(f"upsampled_flow{level + 1}_to_{level}")(flow)
            x = torch.cat((maps[level], self.get_submodule(f"deconv{level}")(x), up_flow), dim=1)
            refined = self.get_submodule(f"inter_conv{level}")(x) if self.inter_conv else x
            flow = self.get_submodule(f"predict_flow{level}")(refined)
        return flow


class FlowNet(CoarseToFine):
    """Common to FlowNetC, FlowNetS and FlowNetSD: the encoder from level 3 on and the decoder back to level 2."""

    def __init__(self, inter_conv=False, upsample_bias=True):
        super().__init__(6, 1024, [(512, 512), (512, 256), (256, 128), (128, 64)], inter_conv, upsample_bias)
        self.conv4, self.conv4_1 = conv(256, 512, stride=2), conv(512, 512)
        self.conv5, self.conv5_1 = conv(512, 512, stride=2), conv(512, 512)
        self.conv6, self.conv6_1 = conv(512, 1024, stride=2), conv(1024, 1024)

    def flow_from(self, level2, level3):
        """(B, 128, H/4, W/4), (B, 256, H/8, W/8) -> (B, 2, H/4, W/4)."""
        level4 = self.conv4_1(self.conv4(level3))  # (B, 512, H/16, W/16)
        level5 = self.conv5_1(self.conv5(level4))  # (B, 512, H/32, W/32)
        level6 = self.conv6_1(self.conv6(level5))  # (B, 1024, H/64, W/64)
        return self.decode({2: level2, 3: level3, 4: level4, 5: level5, 6: level6})


class FlowNetC(FlowNet):
    """Features of both images, compared by correlation: (B, 6, H, W) -> (B, 2, H/4, W/4)."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 64, 7, 2), conv(64, 128, 5, 2), conv(128, 256, 5, 2)
        self.conv_redir = conv(256, 32, 1)
        self.conv3_1 = conv(32 + 441, 256)

    def forward(self, pair):
        both = torch.cat(pair.chunk(2, dim=1))  # (2B, 3, H, W), first images first
        level2 = self.conv2(self.conv1(both))  # (2B, 128, H/4, W/4)
        first, second = self.conv3(level2).chunk(2)  # (B, 256, H/8, W/8) each
        matches = leaky_relu(correlation(first, second), SLOPE)  # (B, 441, H/8, W/8)
        level3 = self.conv3_1(torch.cat((self.conv_redir(first), matches), dim=1))  # (B, 256, H/8, W/8)
        return self.flow_from(level2[: len(pair)], level3)


class FlowNetS(FlowNet):
    """Refines a flow from the pair, the warped second image, the flow and the error: (B, 12, H, W) -> (B, 2, H/4, W/4).

    The published weights have no bias in its upsampling layers.
    """

    def __init__(self):
        super().__init__(upsample_bias=False)
        self.conv1, self.conv2, self.conv3 = conv(12, 64, 7, 2), conv(64, 128, 5, 2), conv(128, 256, 5, 2)
        self.conv3_1 = conv(256, 256)

    def forward(self, x):
        level2 = self.conv2(self.conv1(x))  # (B, 128, H/4, W/4)
        return self.flow_from(level2, self.conv3_1(self.conv3(level2)))


class FlowNetSD(FlowNet):
    """For small displacements: small kernels, starting at full size: (B, 6, H, W) -> (B, 2, H/4, W/4)."""

    def __init__(self):
        super().__init__(inter_conv=True)
        self.conv0 = conv(6, 64)
        self.conv1, self.conv1_1 = conv(64, 64, stride=2), conv(64, 128)
        self.conv2, self.conv2_1 = conv(128, 128, stride=2), conv(128, 128)
        self.conv3, self.conv3_1 = conv(128, 256, stride=2), conv(256, 256)

    def forward(self, pair):
        level1 = self.conv1_1(self.conv1(self.conv0(pair)))  # (B, 128, H/2, W/2)
        level2 = self.conv2_1(self.conv2(level1))  # (B, 128, H/4, W/4)
        return self.flow_from(level2, self.conv3_1(self.conv3(level2)))


class FlowNetFusion(CoarseToFine):
    """Merges the flows for large and for small displacements: (B, 11, H, W) -> (B, 2, H, W)."""

    def __init__(self):
        super().__init__(2, 128, [(128, 32), (64, 16)], inter_conv=True)
        self.conv0 = conv(11, 64)
        self.conv1, self.conv1_1 = conv(64, 64, stride=2), conv(64, 128)
        self.conv2, self.conv2_1 = conv(128, 128, stride=2), conv(128, 128)

    def forward(self, x):
        level0 = self.conv0(x)  # (B, 64, H, W)
        level1 = self.conv1_1(self.conv1(level0))  # (B, 128, H/2, W/2)
        level2 = self.conv2_1(self.conv2(level1))  # (B, 128, H/4, W/4)
        return self.decode({0: level0, 1: level1, 2: level2})
