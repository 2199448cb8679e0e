"""The optical flow methods, each an object that prepares frames and turns pairs of them into flow.

`batch` is the number of pairs processed at once, `threaded` whether several threads may call it.
"""

import threading
from pathlib import Path

import cv2
import numpy as np

from utils import files
from utils.device import InParts, device_of
from utils.errors import UserError

WIDTH, HEIGHT = 512, 384  # frames are resized to this
FLOWNET2_WEIGHTS = Path(__file__).resolve().parent / "pretrained" / "FlowNet2_checkpoint.pth.tar"


class OpenCV:
    """Common to OpenCV's methods: grey images, one pair at a time, one object per thread."""

    batch, threaded = 1, True

    def __init__(self, weights, device):
        self.local = threading.local()  # the objects are not thread-safe

    def prepare(self, frame):
        """(H, W, 3) uint8 BGR -> (384, 512) uint8."""
        return cv2.cvtColor(cv2.resize(frame, (WIDTH, HEIGHT)), cv2.COLOR_BGR2GRAY)

    def flow(self, pairs):
        """Pairs of prepared images -> (384, 512, 2) float32 each."""
        if not hasattr(self.local, "method"):
            self.local.method = self.create()
        return [self.local.method.calc(first, second, None) for first, second in pairs]


class Dis(OpenCV):
    """Dense inverse search, medium preset."""

    def create(self):
        return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


class TvL1(OpenCV):
    """Dual TV-L1 (Zach et al., 2007): 14 times faster than with OpenCV's default settings, and as quiet where nothing moves."""

    def create(self):
        return cv2.optflow.DualTVL1OpticalFlow_create(nscales=4, warps=2, epsilon=0.05)


class Network:
    """Common to the two networks: batches of resized BGR images on the device."""

    threaded = False

    def __init__(self, weights, device):
        self.device = device_of(device)
        self.batch = 8 if self.device.type == "cuda" else 1
        self.network = self.load(weights).to(self.device)
        self.flow = InParts(self._flow, self.batch)

    def prepare(self, frame):
        """(H, W, 3) uint8 BGR -> (384, 512, 3) uint8 BGR."""
        return cv2.resize(frame, (WIDTH, HEIGHT))

    def _flow(self, pairs):
        """Pairs of prepared images -> (B, 384, 512, 2) float32."""
        import torch

        images = torch.from_numpy(np.stack([np.stack(pair) for pair in pairs]))  # (B, 2, 384, 512, 3)
        with torch.no_grad():
            flow = self.run(images.to(self.device).permute(0, 4, 1, 2, 3).float())
        return flow.permute(0, 2, 3, 1).cpu().numpy()


class FlowNet2(Network):
    """The official network with its published weights."""

    def load(self, weights):
        from FlowNet2_src import load_flownet2

        return load_flownet2(weights)

    def run(self, images):
        """(B, 3, 2, 384, 512) BGR 0..255 -> (B, 2, 384, 512)."""
        return self.network(images)


class Raft(Network):
    """torchvision's RAFT-large, with the library's weights or those of --flow_weights."""

    def load(self, weights):
        from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

        from utils.weights import load_into

        if weights:
            return load_into(raft_large, weights, "give torchvision's raft_large weights with --flow_weights")
        try:
            return raft_large(weights=Raft_Large_Weights.DEFAULT).eval()
        except OSError as error:
            raise UserError(f"torchvision could not download RAFT's weights ({error}): give a file with --flow_weights, "
                            f"from {Raft_Large_Weights.DEFAULT.url}") from None

    def run(self, images):
        """(B, 3, 2, 384, 512) BGR 0..255 -> (B, 2, 384, 512)."""
        rgb = images.flip(1) / 127.5 - 1
        return self.network(rgb[:, :, 0], rgb[:, :, 1])[-1]


METHODS = {"dis": Dis, "tvl1": TvL1, "flownet2": FlowNet2, "raft": Raft}


def stamp(weights):
    """The identity of a weights file: name and content."""
    return files.identity(weights) if weights else ""


def weights_file(method, given):
    """The weights file that a method reads, or None. Raises UserError if the official one is missing."""
    if given or method != "flownet2":
        return Path(given) if given else None
    if not FLOWNET2_WEIGHTS.is_file():
        raise UserError(f"{FLOWNET2_WEIGHTS}: no FlowNet2 weights: fetch them with "
                        "python -m tools.download_weights flownet2, or use --flow_method tvl1 or dis, which need none")
    return FLOWNET2_WEIGHTS
