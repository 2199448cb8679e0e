"""Fetch the published weights of FlowNet2 and YOLOv3 to where the stages look for them.

    python -m tools.download_weights [flownet2] [yolov3] [--from FOLDER_OR_URL] [--to FOLDER]

writes  FlowNet2_src/pretrained/FlowNet2_checkpoint.pth.tar                                 optical flow, 650 MB
        fore_det/obj_det_checkpoints/yolov3_d53_mstrain-608_273e_coco-139f5633.pth          boxes (UCSD), 250 MB
        fore_det/obj_det_checkpoints/yolov3_d53_320_273e_coco-421362b6.pth     boxes (Avenue, ShanghaiTech), 250 MB
        with --to the same files side by side in a folder, which --from takes on another machine

FlowNet2 lies on Google Drive: `pip install gdown` first, or fetch it by hand. A broken download leaves NAME.part and is
resumed. A file gets its name when its tensors, and the hash in its name, are right; one that is there is left alone.
"""

import argparse
import hashlib
import importlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from utils.download import download, one_line
from utils.errors import UserError
from utils.locks import locked
from utils.run import SUITE, run

DRIVE = "https://drive.google.com/"


class Weights(NamedTuple):
    name: str  # on the command line
    url: str
    path: str  # in the suite's folder
    check: Callable  # of a path; raises UserError if the file does not hold the tensors of the network


def loader(module, function):
    """A check: the network's own loader must take the file. Imported late, since a download needs no torch."""
    return lambda path: getattr(importlib.import_module(module), function)(path)


def yolov3(file):
    url = f"https://download.openmmlab.com/mmdetection/v2.0/yolo/{file.rpartition('-')[0]}/{file}"
    return Weights("yolov3", url, f"fore_det/obj_det_checkpoints/{file}", loader("fore_det.yolov3", "load_yolov3"))


WEIGHTS = (yolov3("yolov3_d53_mstrain-608_273e_coco-139f5633.pth"), yolov3("yolov3_d53_320_273e_coco-421362b6.pth"),
           Weights("flownet2", DRIVE + "uc?id=1hF8vS6YeHkx3j2pfCeQqqZGwA_PJq_Da",
                   "FlowNet2_src/pretrained/FlowNet2_checkpoint.pth.tar", loader("FlowNet2_src", "load_flownet2")))


def main(argv=None, table=WEIGHTS):
    parser = argparse.ArgumentParser("python -m tools.download_weights", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*sorted({weights.name for weights in table}), "all"]
    parser.add_argument("names", nargs="*", default="all", choices=names, metavar="NAME",
                        help=f"{', '.join(names)} (default)")
    parser.add_argument("--from", dest="source", metavar="FOLDER_OR_URL", help="where files of these names lie")
    parser.add_argument("--to", metavar="FOLDER", help="a folder for the files, instead of the places above")
    args = parser.parse_args(argv)
    code = 0
    for weights in [each for each in table if "all" in args.names or each.name in args.names]:
        path = Path(args.to, Path(weights.path).name) if args.to else SUITE / weights.path
        try:
            print(fetch(weights, path, args.source), flush=True)
        except UserError as error:  # the other files can be had nevertheless
            print(f"error: {error}", file=sys.stderr)
            code = 2
    sys.exit(code)


def fetch(weights, path, source=None):
    """Puts weights at `path`, unless they are there; returns the line that says what was done.

    source: the folder, or the URL of one, that holds a file of this name, instead of `weights.url`.
    Raises UserError if the file can't be had or written, or is not the right one; what was at `path` is then untouched.
    """
    origin = f"{source.rstrip('/')}/{path.name}" if source else weights.url
    part, start, replaced = path.with_name(path.name + ".part"), time.monotonic(), ""
    try:
        if path.is_file():
            try:
                verify(weights, path)
                return f"{path}: already there and valid"
            except UserError:
                replaced = ", in place of a file that was not valid"
        with locked(path.parent):
            for last in (False, True):
                joined = bring(origin, part)
                try:
                    verify(weights, part)
                    break
                except UserError as error:
                    part.unlink(missing_ok=True)
                    if last or not joined:  # else the pieces may be of two versions of the file
                        reason = str(error).partition("; mend it with:")[0]  # with this very command
                        raise UserError(f"{origin}: not the published weights, nothing is kept ({reason}); try again "
                                        "later, or take them from elsewhere with --from") from None
            os.replace(part, path)
    except OSError as error:  # of the disk: those of the network never come here
        raise UserError(f"{path}: cannot be written from {origin} ({error.strerror or error}); "
                        "make room or mend the permissions, and run this again") from None
    return f"wrote {path}: {path.stat().st_size / 1e6:,.1f} MB in {time.monotonic() - start:,.0f} s{replaced}"


def hash_of(path):
    """The first 8 hex digits of the SHA-256 that a published file, or its part, carries in its name, or None."""
    found = re.search(r"-([0-9a-f]{8})\.pth(\.part)?$", path.name)
    return found and found[1]


def verify(weights, path):
    """Raises UserError unless a file has the hash of its name and the tensors of its network."""
    wanted = hash_of(path)
    if wanted and (found := hashlib.sha256(path.read_bytes()).hexdigest()[:8]) != wanted:
        raise UserError(f"{path}: its SHA-256 starts with {found}, not with {wanted}")
    weights.check(path)


def bring(origin, part):
    """Fills `part` from a URL or a path; returns whether it was joined from several responses."""
    if not hash_of(part):  # which would tell in the end whether what an earlier run left here fits
        part.unlink(missing_ok=True)
    if origin.startswith(DRIVE):
        try:
            import gdown  # knows the cookies and confirmations that a large file takes there
            gdown.download(origin, str(part), resume=True)
        except Exception as error:  # it is not installed, or any of its own, which change from version to version
            raise UserError(f"{part.with_suffix('')}: comes from Google Drive, and gdown fails ({one_line(error)}): "
                            f"`pip install gdown`, or fetch {origin} in a browser and put the file there") from None
    elif re.match("https?://", origin, re.IGNORECASE):
        return download(origin, part)
    elif "://" in origin or not Path(origin).is_file():
        raise UserError(f"{origin}: no such file; --from takes a folder, or the http or https URL of one, that has it")
    else:
        shutil.copyfile(origin, part)
    return False


if __name__ == "__main__":
    run(main)
