"""The convolutional autoencoders that reconstruct a spatio-temporal cube (paper, section 3.2).

Module names match the released model files, so that those load unchanged.
"""

from collections import OrderedDict

import torch
from torch import nn


def named(**parts):
    return nn.Sequential(OrderedDict(parts))


def double_conv(cin, cout):
    """Two times 3x3 convolution, batch norm, ReLU: (B, cin, H, W) -> (B, cout, H, W)."""
    return named(conv=nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace=True),
        nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)))


def down(cin, cout):
    """(B, cin, H, W) -> (B, cout, H/2, W/2)."""
    return named(mpconv=nn.Sequential(nn.MaxPool2d(2), double_conv(cin, cout)))


def up(cin, cout):
    """(B, cin, H, W) -> (B, cout, 2H, 2W)."""
    return named(up=nn.ConvTranspose2d(cin, cin, 3, stride=2, padding=1, output_padding=1), conv=double_conv(cin, cout))


def autoencoder(cin, cout, f):
    """(B, cin, P, P) -> (B, cout, P, P); widths f, 2f, 4f, 8f and back, no skip connections; P a multiple of 8."""
    return nn.Sequential(
        named(conv=double_conv(cin, f)), down(f, 2 * f), down(2 * f, 4 * f), down(4 * f, 8 * f),
        up(8 * f, 4 * f), up(4 * f, 2 * f), up(2 * f, f), named(conv=nn.Conv2d(f, cout, 1)))


class ReconCAE(nn.Module):
    """One autoencoder for a block, or a pair: the second maps the *raw* cube to its optical flow (motion enhancement).

    features_root: width f of the first level (32); tot_frame_num: frames T of a cube (5); use_flow: build the pair;
    flow_frame_num: flow fields of a cube, if not as many as its frames.
    """

    def __init__(self, features_root=32, tot_frame_num=5, use_flow=False, flow_frame_num=None):
        super().__init__()
        self.args = {"features_root": features_root, "tot_frame_num": tot_frame_num, "use_flow": use_flow,
                     "flow_frame_num": flow_frame_num}
        self.raw_ae = autoencoder(3 * tot_frame_num, 3 * tot_frame_num, features_root)
        if use_flow:
            self.of_ae = autoencoder(3 * tot_frame_num, 2 * (flow_frame_num or tot_frame_num), features_root)
        self.use_flow, self.tot_frame_num = use_flow, tot_frame_num
        self.flow_frame_num = (flow_frame_num or tot_frame_num) if use_flow else None

    def forward(self, raw):
        """raw (B, 3T, P, P) in 0..1 -> its reconstruction, and the predicted flow (B, 2T, P, P) or None."""
        return self.raw_ae(raw), self.of_ae(raw) if self.use_flow else None

    def errors(self, raw, flow=None):
        """Each cube's reconstruction loss: the sum of squared errors over the cube, in float32.

        raw (B, 3T, P, P) in 0..1, flow (B, 2T, P, P) -> (B,) of the raw cubes, (B,) of the flow cubes or None.
        """
        return errors(self(raw), raw, flow)

    def raw_errors(self, raw):
        """(B, 3T, P, P) -> (B,): only the raw cubes' losses, which is all that self-paced weights need."""
        return squared_error(self.raw_ae(raw), raw)


def errors(outputs, raw, flow):
    """Losses (B,), (B,) or None of a network's outputs (raw, flow or None)."""
    return squared_error(outputs[0], raw), None if outputs[1] is None else squared_error(outputs[1], flow)


def squared_error(output, target):
    """(B, C, P, P) twice -> (B,) sums of squared differences, in float32 or better."""
    exact = torch.promote_types(output.dtype, torch.float32)
    return (output.to(exact) - target.to(exact)).square().sum(dim=(1, 2, 3))
