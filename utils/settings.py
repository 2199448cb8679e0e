"""All settings of the suite in one table: name, type, default, the stages that read it, help."""

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
    identity: bool = True  # whether a different value gives a different output

    def parse(self, text):
        """The value of a word from a config file or command line. Raises ValueError."""
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
      "boxes, cubes and scores only for every N-th frame; windows still use the true neighbours (for trials)", 1, 10 ** 9),
    S("on_bad_frame", ("stop", "repeat"), "stop", "flow boxes cubes",
      "on an unreadable frame stop the stage, or replace it by the previous frame (with a warning)", identity=False),
    S("verify", bool, False, "flow boxes cubes train test",
      "also check the contents of files: the first run records their SHA-256, later runs compare",
      identity=False),
    # 1 optical flow
    S("flow_method", ("flownet2", "raft", "tvl1", "dis"), "flownet2", "flow",
      "flownet2 (official), raft (torchvision's RAFT-large), or tvl1 or dis (OpenCV, no weights; dis is 6 times faster and "
      "noisier)"),
    S("flow_weights", str, "", "flow", "weights file instead of the method's default", identity=False),
    S("flow_dtype", ("float16", "float32"), "float16", "flow", "number format of the flow files (official: float32)"),
    # 2 foreground boxes
    S("detector", str, "yolov3", "boxes",
      "yolov3 (official), torchvision:MODEL, onnx:FILE (YOLOX, YOLOv5, v8, v11), mmdet:CONFIG:CHECKPOINT, or none (only "
      "motion boxes)"),
    S("detector_weights", str, "", "boxes", "weights file instead of the detector's default", identity=False),
    S("detector_scale", int, 608, "boxes",
      "long side of the frame as yolov3 sees it: 608, or 320 (avenue, ShanghaiTech); onnx uses it too, unless the network's "
      "input size is fixed", 32, 4096),
    S("detector_tiles", int, 1, "boxes", "show the detector each frame in N overlapping tiles (for small objects)", 1, 64),
    S("score_thr", float, 0.2, "boxes", "keep detections with a score above this", 0),
    S("cover_thr", float, 0.6, "boxes", "drop a box if a larger one covers more than this share of it", 0),
    S("boxes_from", str, "", "boxes",
      "use the boxes in this .npy file: per frame an (n, 4) or (n, 5) array, or (N, 5) rows of frame x1 y1 x2 y2",
      identity=False),
    S("min_area", int, None, "boxes", "smallest box in pixels, as (width + 1) * (height + 1)", 1, 10 ** 9),
    S("motion_thr", float, 1.0, "boxes", "a pixel is moving if u^2 + v^2 is above this", 0),
    S("global_motion", ("keep", "remove"), "keep", "boxes",
      "remove: fit the camera's motion to the flow and subtract it before looking for motion boxes"),
    S("noise_gate", ("off", "auto"), "off", "boxes",
      "auto: in noisy frames a pixel is moving only if the next frame differs by more than the noise"),
    S("box_margin", int, 2, "boxes", "pixels that motion boxes keep away from other boxes, and grow by", 0, 10 ** 4),
    S("all_motion_quirk", bool, True, "boxes",
      "if every pixel of a frame is moving and no box covers any, find no motion boxes (as in the official code)"),
    S("drop_still_boxes", bool, False, "flow boxes",
      "drop boxes whose flow cube is all zero, as the paper's code (2022) did"),
    # 3 spatio-temporal cubes
    S("border_mode", ("hard", "elastic", "predict"), "hard", "flow boxes cubes",
      "window at a video's ends: hard repeats the end frame, elastic shifts inward; predict always uses i-c..i"),
    S("context_frame_num", int, 2, "cubes", "frames on each side of a cube's frame: T = 2c + 1", 0, 100),
    S("context_of_num", int, 2, "flow boxes cubes", "flow fields on each side, likewise", 0, 100),
    S("patch_size", int, 32, "boxes cubes", "height and width P of a cube, a multiple of 8", 16, 1024),
    S("use_flow", bool, False, "flow cubes train", "motion enhancement: a second autoencoder predicts the flow cube"),
    # 4 training
    S("h_block", int, 1, "train", "rows of image blocks, one model per block", 1, 1000),
    S("w_block", int, 1, "train", "columns of image blocks", 1, 1000),
    S("epochs", int, 30, "train", "passes over all cubes of a block", 1, 10 ** 6),
    S("min_steps", int, 0, "train",
      "add epochs, and warm-up epochs in proportion, until a block gets about N batches in all: for small sets", 0, 10 ** 9,
      identity=False),
    S("warmup_epoch", int, 5, "train", "epochs before self-paced weights apply", 0, 10 ** 6),
    S("batch_size", int, 256, "train", "cubes in a batch", 1, 10 ** 6),
    S("num_feature_root", int, 32, "train", "channels f of the autoencoder's first level; then 2f, 4f, 8f", 1, 1024),
    S("lr", float, 0.001, "train", "Adam's learning rate", 0),
    S("lambda_raw", float, 1.0, "train", "weight of the raw loss (with use_flow)", 0),
    S("lambda_of", float, 1.0, "train", "weight of the flow loss (with use_flow)", 0),
    S("sp_mode", ("mixture", "hard", "linear", "huber", "none"), "mixture", "train",
      "self-paced weights (paper, section 3.3); none: the LBR baseline"),
    S("shrink_rate", float, 0.0001, "train",
      "upper threshold mean + max(1, 4 - t * shrink_rate) * std after t refined batches; "
      "0.005 in the configs of UCSDped2 and ShanghaiTech", 0),
    S("recalibrate_bn", bool, False, "train",
      "at the end re-estimate batch norm's running statistics over all cubes (official: as the last batches left them)"),
    S("average_last", int, 0, "train",
      "at the end average the weights of the last N epochs and recalibrate; 0: keep the last weights (official)", 0, 10 ** 4),
    S("keep_epochs", int, 0, "train",
      "keep the weights of the last N epochs, so that the training can be ended differently without retraining", 0, 10 ** 4,
      identity=False),
    S("score_every", int, 0, "train", "also save every cube's score after each N-th epoch, 0 for none", 0, 10 ** 6),
    S("seed", int, 0, "train", "determines the initial weights and the order of cubes", 0, 2 ** 63 - 1),
    S("sync_bn", bool, False, "train",
      "under torchrun on GPUs: batch norm over the whole batch (official: over each GPU's part of it)"),
    S("precision", ("auto", *FORMATS), "fp32", "train",
      "fp32 (official), bf16 by autocast (nearly the same), tf32 (NVIDIA), or auto: that of an existing training, else bf16 if "
      "the device has instructions for it, else fp32; scoring uses the model's"),
    # 5 scoring
    S("model", str, "", "test", "score with this folder of models, or this official D_model.npy"),
    S("w_raw", float, 0.5, "test", "weight of the raw z-score (with use_flow)", 0),
    S("w_of", float, 1.0, "test", "weight of the flow z-score", 0),
    S("window_size", int, 10, "test events", "frames in the moving average of the frame scores, 1 for none", 1, 10 ** 4),
    S("event_z", float, 2.0, "test events",
      "an event is where the score, averaged within its video, is above this z-score; if the scored cubes were trained on, at "
      "most a tenth of them can exceed 3, a fifth 2"),
    S("event_share", float, 0.0, "test events",
      "an event is where the score is in this top share of all scores (0: use --event_z)", 0, 1),
    # how it runs
    S("device", str, "auto", "flow boxes train test",
      "auto, cpu, cuda (under torchrun each process uses its own), cuda:N, or mps (a Mac's GPU)", identity=False),
    S("threads", int, 0, "flow boxes train test",
      "CPU threads of the networks; 0: OMP_NUM_THREADS, else one per core; -1: one per core that is free now (Linux), because "
      "two threads on one free core are far slower than one", -1, 1024, identity=False),
    S("num_workers", int, -1, "flow boxes cubes", "threads that read and prepare frames; -1: one per core, 0: none",
      -1, 1024, identity=False),
)}

END = ("recalibrate_bn", "average_last", "score_every")  # training settings that do not affect the weights of any epoch
