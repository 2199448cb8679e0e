"""Fetch published weights to where the stages look for them.

    python -m tools.download_weights [flownet2] [yolov3] [yolox] [--from FOLDER_OR_URL] [--to FOLDER]

writes  FlowNet2_src/pretrained/FlowNet2_checkpoint.pth.tar                                 optical flow, 650 MB
        fore_det/obj_det_checkpoints/yolov3_d53_mstrain-608_273e_coco-139f5633.pth          boxes (UCSD), 250 MB
        fore_det/obj_det_checkpoints/yolov3_d53_320_273e_coco-421362b6.pth     boxes (Avenue, ShanghaiTech), 250 MB
        fore_det/obj_det_checkpoints/yolox_nano.onnx       boxes without a GPU (--detector onnx:THIS_FILE), 4 MB
        with --to the same files in one folder, for --from on another machine

FlowNet2 is on Google Drive: `pip install gdown` first, or download it by hand. A file is kept only if its SHA-256 (if one is
published) and its tensors are right. Valid existing files are left alone. Nothing is kept of an interrupted download.
"""

import argparse
import hashlib
import importlib
import re
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from utils import files
from utils.errors import UserError
from utils.locks import locked
from utils.run import SUITE, run

DRIVE = "https://drive.google.com/"
BOXES = "fore_det/obj_det_checkpoints/"
TIMEOUT = 30  # seconds without a byte


class Weights(NamedTuple):
    name: str  # on the command line
    url: str
    path: str  # in the suite's folder
    most: int  # bytes at most
    sha256: str  # its first digits, as many as are published
    check: Callable  # called with a path; raises UserError if it is not the network


def loader(module, function):
    """A check: the network's own loader must accept the file. Imported late, since a download needs no torch."""
    return lambda path: getattr(importlib.import_module(module), function)(path)


def yolov3(file):
    url = f"https://download.openmmlab.com/mmdetection/v2.0/yolo/{file.rpartition('-')[0]}/{file}"
    return Weights("yolov3", url, BOXES + file, 260_000_000, file[-12:-4], loader("fore_det.yolov3", "load_yolov3"))


WEIGHTS = (
    yolov3("yolov3_d53_mstrain-608_273e_coco-139f5633.pth"), yolov3("yolov3_d53_320_273e_coco-421362b6.pth"),
    Weights("yolox", "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx",
            BOXES + "yolox_nano.onnx", 3_659_407, "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
            loader("fore_det.yolo_onnx", "Yolo")),
    Weights("flownet2", DRIVE + "uc?id=1hF8vS6YeHkx3j2pfCeQqqZGwA_PJq_Da",
            "FlowNet2_src/pretrained/FlowNet2_checkpoint.pth.tar", 660_000_000, "", loader("FlowNet2_src", "load_flownet2")))


def main(argv=None, table=WEIGHTS):
    parser = argparse.ArgumentParser("python -m tools.download_weights", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*sorted({weights.name for weights in table}), "all"]
    parser.add_argument("names", nargs="*", default="all", choices=names, metavar="NAME",
                        help=f"{', '.join(names)} (default)")
    parser.add_argument("--from", dest="source", metavar="FOLDER_OR_URL", help="where to get files with these names")
    parser.add_argument("--to", metavar="FOLDER", help="a folder for the files, instead of the paths above")
    args = parser.parse_args(argv)
    code = 0
    for weights in [each for each in table if "all" in args.names or each.name in args.names]:
        path = Path(args.to, Path(weights.path).name) if args.to else SUITE / weights.path
        try:
            print(fetch(weights, path, args.source), flush=True)
        except UserError as error:  # the other files may still work
            print(f"error: {error}", file=sys.stderr)
            code = 2
    sys.exit(code)


def fetch(weights, path, source=None):
    """Puts weights at `path`, unless they are already there; returns a line about what was done.

    source: a folder, or the URL of one, with a file of this name, instead of `weights.url`.
    Raises UserError if the file cannot be fetched or written, or is the wrong one; then `path` is unchanged.
    """
    origin, start = f"{source.rstrip('/')}/{path.name}" if source else weights.url, time.monotonic()
    if path.is_file() and not problem(weights, path):
        return f"{path}: already there and valid"
    with locked(path.parent), files.whole(path) as file:
        try:
            bring(origin, file, weights.most)
            file.flush()
            wrong = problem(weights, Path(file.name))
        except Exception as error:  # from the network, gdown (whose own vary by version), or the disk
            wrong = one_line(error)
        if wrong:
            raise UserError(f"{path}: cannot be fetched from {origin} ({wrong}): run the same command again later, or download "
                            f"{weights.url} in a browser to this path, or use another source with --from")
    return f"wrote {path}: {path.stat().st_size / 1e6:,.1f} MB in {time.monotonic() - start:,.0f} s"


def problem(weights, path):
    """What is wrong with a file, in a few words, or ""."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(weights.sha256):
        return f"its SHA-256 is {found}, the published file's starts with {weights.sha256[:8]}"
    try:
        weights.check(path)
    except UserError as error:
        return str(error).partition(";")[0]  # without the suggested fix, which is this command
    return ""


def bring(origin, file, most):
    """Fills an open file from a URL or a path. Raises UserError if it is larger than `most` bytes."""
    if origin.startswith(DRIVE):
        try:
            import gdown  # handles the confirmation pages for large files
        except ImportError:
            raise UserError("Google Drive needs gdown: `pip install gdown` first") from None
        gdown.download(origin, file)
    elif re.match("https?://", origin, re.IGNORECASE):
        request = urllib.request.Request(origin, headers={"User-Agent": "download_weights"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            name = Path(file.name).stem
            with tqdm.wrapattr(response, "read", response.length, desc=name, leave=False, disable=None) as source:
                copy(source, file, most)
            if response.length:
                raise UserError(f"the connection was lost {response.length:,} bytes before the end")
    elif "://" in origin:
        raise UserError("--from must be a folder, or the http or https URL of one")
    else:
        with open(origin, "rb") as source:
            copy(source, file, most)


def copy(source, file, most):
    """Copies an open file to another, at most `most` bytes, since a server may send endlessly."""
    while block := source.read(1 << 16):
        if file.tell() + len(block) > most:
            raise UserError(f"it is larger than {most:,} bytes")
        file.write(block)


def one_line(error):
    """An error's text in one line, without control characters that a server may have put there."""
    return " ".join(re.sub(r"[^ -~]+", " ", str(error)).split())[:200] or type(error).__name__


if __name__ == "__main__":
    run(main)
