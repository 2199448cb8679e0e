"""Every setting of the suite in one table: name, type, default, which stages read it, help."""

from configparser import ConfigParser
from typing import Any, NamedTuple

from utils.device import FORMATS


class Setting(NamedTuple):
    name: str
    type: Any  # int, float, str, bool, or a tuple of allowed words
    default: Any
    stages: str  # the stages that read it
    help: str
    low: float = float("-inf")
    high: float = float("inf")
    identity: bool = True  # whether another value makes another output

    def parse(self, text):
        """The value that a word of a config file or a command line stands for. Raises ValueError."""
        if self.type is bool:
            if text.lower() not in ConfigParser.BOOLEAN_STATES:
                raise ValueError("must be true or false")
            return ConfigParser.BOOLEAN_STATES[text.lower()]
        if isinstance(self.type, tuple):
            if text not in self.type:
                raise ValueError(f"must be one of {', '.join(self.type)}")
            return text
        value = self.type(text)
        if self.type in (int, float) and not (self.low <= value <= self.high and value < float("inf")):
            upper = f"to {self.high:,.15g}" if self.high < float("inf") else "or more"
            raise ValueError(f"must be {self.low:,.15g} {upper}")
        return value


S = Setting
SETTINGS = {s.name: s for s in (
    # data
    S("data_root_dir", str, "data", "flow boxes cubes train test", "folder of boxes, cubes and models", identity=False),
    S("results_dir", str, "results", "test", "folder of scores, figures and pictures", identity=False),
    S("flow_root_dir", str, "optical_flow", "flow boxes cubes", "folder of flow files", identity=False),
    S("videos", str, "", "flow boxes cubes train test",
      "only these videos of the mode, by position: 1,3-5 (for trials)"),
    S("limit_frames", int, 0, "flow boxes cubes train test",
      "only the first N frames of each video, 0 for all (for trials)", 0, 10 ** 9),
    S("frame_step", int, 1, "flow boxes cubes train test",
      "boxes, cubes and scores for every K-th frame alone; windows still reach the true neighbours (for trials)", 1, 10 ** 9),
    S("on_bad_frame", ("stop", "repeat"), "stop", "flow boxes cubes",
      "an unreadable frame ends the stage, or is replaced by the previous frame (with a warning)", identity=False),
    S("verify", bool, False, "flow boxes cubes train test",
      "check the contents of files as well: the first run records their SHA-256, later runs compare",
      identity=False),
    # 1 optical flow
    S("flow_method", ("flownet2", "raft", "tvl1", "dis"), "flownet2", "flow",
      "flownet2 (official), raft (torchvision's RAFT-large), or OpenCV's tvl1 or dis (6 times faster, noisier), which need no "
      "weights"),
    S("flow_weights", str, "", "flow", "weights file instead of the method's usual one", identity=False),
    S("flow_dtype", ("float16", "float32"), "float16", "flow", "number format of the flow files (official: float32)"),
    # 2 foreground boxes
    S("detector", str, "yolov3", "boxes",
      "yolov3 (official), torchvision:MODEL, onnx:FILE (YOLOX, YOLOv5, v8, v11), mmdet:CONFIG:CHECKPOINT, or none for motion "
      "boxes alone"),
    S("detector_weights", str, "", "boxes", "weights file instead of the detector's usual one", identity=False),
    S("detector_scale", int, 608, "boxes",
      "length to which yolov3 resizes a frame's long side: 608, or 320 (avenue, ShanghaiTech); also onnx, unless the network's "
      "input has a fixed size", 32, 4096),
    S("detector_tiles", int, 1, "boxes", "the detector sees each frame in so many overlapping tiles, for small objects", 1, 64),
    S("score_thr", float, 0.2, "boxes", "a detection is kept if its score is above this", 0),
    S("cover_thr", float, 0.6, "boxes", "a box is dropped if a larger one covers more than this share of it", 0),
    S("boxes_from", str, "", "boxes",
      "take the boxes in this .npy file: per frame an (n, 4) or (n, 5) array, or (N, 5) rows of frame x1 y1 x2 y2",
      identity=False),
    S("min_area", int, None, "boxes", "smallest box in pixels, with +1 on both sides", 1, 10 ** 9),
    S("motion_thr", float, 1.0, "boxes", "a pixel moves if u^2 + v^2 is above this", 0),
    S("global_motion", ("keep", "remove"), "keep", "boxes",
      "remove: the camera's motion, fitted to the flow, is taken from it before motion boxes are found"),
    S("noise_gate", ("off", "auto"), "off", "boxes",
      "auto: in noisy frames a pixel moves only where the next frame differs by more than the noise"),
    S("box_margin", int, 2, "boxes", "pixels around a box that motion boxes keep clear of, and grow by", 0, 10 ** 4),
    S("all_motion_quirk", bool, True, "boxes",
      "where every pixel of a frame moves, and no box covers any, there are no motion boxes, as in the official code"),
    S("drop_still_boxes", bool, False, "flow boxes",
      "drop boxes whose flow cube is all zero, as the code of the paper (2022) did"),
    # 3 spatio-temporal cubes
    S("border_mode", ("hard", "elastic", "predict"), "hard", "flow boxes cubes",
      "window at a video's ends: hard holds the end frame, elastic shifts inside, predict takes only i-c..i"),
    S("context_frame_num", int, 2, "cubes", "frames on either side of a cube's frame: T = 2c + 1", 0, 100),
    S("context_of_num", int, 2, "flow boxes cubes", "flow fields on either side, likewise", 0, 100),
    S("patch_size", int, 32, "boxes cubes", "height and width P of a cube, a multiple of 8", 16, 1024),
    S("use_flow", bool, False, "flow cubes train", "motion enhancement: a second autoencoder predicts the flow cube"),
    # 4 training
    S("h_block", int, 1, "train", "blocks down the image, one model each", 1, 1000),
    S("w_block", int, 1, "train", "blocks across the image", 1, 1000),
    S("epochs", int, 30, "train", "passes over all cubes of a block", 1, 10 ** 6),
    S("min_steps", int, 0, "train",
      "more epochs, and warm-up epochs in proportion, until a block has about N batches in all: for small sets", 0, 10 ** 9,
      identity=False),
    S("warmup_epoch", int, 5, "train", "epochs before self-paced weights come in", 0, 10 ** 6),
    S("batch_size", int, 256, "train", "cubes in a batch", 1, 10 ** 6),
    S("num_feature_root", int, 32, "train", "width f of the autoencoder's first level; then 2f, 4f, 8f", 1, 1024),
    S("lr", float, 0.001, "train", "Adam's learning rate", 0),
    S("lambda_raw", float, 1.0, "train", "weight of the raw loss (with use_flow)", 0),
    S("lambda_of", float, 1.0, "train", "weight of the flow loss (with use_flow)", 0),
    S("sp_mode", ("mixture", "hard", "linear", "huber", "none"), "mixture", "train",
      "self-paced weights (paper, section 3.3); none: the LBR baseline"),
    S("shrink_rate", float, 0.0001, "train",
      "upper threshold mean + max(1, 4 - t * shrink_rate) * std after t refined batches; "
      "0.005 in the configs of UCSDped2 and ShanghaiTech", 0),
    S("recalibrate_bn", bool, False, "train",
      "end with batch norm's running statistics re-estimated over all cubes (official: as the last batches left them)"),
    S("average_last", int, 0, "train",
      "end with the mean of the weights after the last K epochs, recalibrated; 0: with the last ones (official)", 0, 10 ** 4),
    S("keep_epochs", int, 0, "train",
      "keep the weights after the last N epochs, so that a done training can be ended otherwise without a new one", 0, 10 ** 4,
      identity=False),
    S("score_every", int, 0, "train", "also keep every cube's score after each N-th epoch, 0 for none", 0, 10 ** 6),
    S("seed", int, 0, "train", "fixes initial weights and the order of cubes", 0, 2 ** 63 - 1),
    S("sync_bn", bool, False, "train",
      "under torchrun on GPUs: batch norm over the whole batch (official: over each GPU's share of it)"),
    S("precision", ("auto", *FORMATS), "fp32", "train",
      "fp32 (official), bf16 by autocast (nearly the same), tf32 (cards), or auto: bf16 where the device has instructions for "
      "it and is faster with it, else fp32, and as a training that is there already; scoring follows the model"),
    # 5 scoring
    S("model", str, "", "test", "score with this folder of models, or this official D_model.npy"),
    S("w_raw", float, 0.5, "test", "weight of the raw z-score (with use_flow)", 0),
    S("w_of", float, 1.0, "test", "weight of the flow z-score", 0),
    S("window_size", int, 10, "test events", "frames of the moving average over the frame scores, 1 for none", 1, 10 ** 4),
    S("event_z", float, 2.0, "test events",
      "an event is where the score, averaged within its video, is above this z-score; of cubes that were trained on a tenth "
      "cannot exceed 3, a fifth not 2"),
    S("event_share", float, 0.0, "test events",
      "an event is where the score is among this share of the highest (0: by --event_z)", 0, 1),
    # how it runs
    S("device", str, "auto", "flow boxes train test",
      "auto, cpu, cuda (under torchrun each process's own), cuda:N, or mps (a Mac's GPU)", identity=False),
    S("threads", int, 0, "flow boxes train test",
      "threads of networks on the CPU; 0: OMP_NUM_THREADS, else one per core; -1: as many as cores are free now (Linux), for "
      "two on one free core are far slower than one", -1, 1024, identity=False),
    S("num_workers", int, -1, "flow boxes cubes", "threads that read and prepare frames; -1: one per core, 0: none",
      -1, 1024, identity=False),
)}

END = ("recalibrate_bn", "average_last", "score_every")  # training settings that leave the weights of every epoch alone
