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
import http.client
import importlib
import os
import re
import shutil
import sys
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib import request

from tqdm import tqdm

from utils.errors import UserError
from utils.run import locked, run

SUITE = Path(__file__).resolve().parent.parent
DRIVE = "https://drive.google.com/"
TIMEOUT = 30       # seconds without a byte after which a connection counts as broken
WAITS = (1, 3, 9)  # seconds before the next try, while tries bring nothing new
NETWORK_ERRORS = (OSError, http.client.HTTPException)


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


class Broken(Exception):
    """A connection failed or ended too early: another try may go on."""


def download(url, part):
    """Fetches a URL behind what is in `part` already; returns whether the file was joined from several responses.

    Raises UserError if the server has no such file, or connections fail again and again; OSError is of the disk alone.
    """
    have = longest = size(part)
    tries = 0  # since something new came
    version = None, None  # length and ETag, as far as known, of the file that `part` is the beginning of
    while True:
        try:
            response = connect(url, have)
            if response is None:  # nothing lies beyond what is here: it is whole, or of another file
                return True
            with response:
                span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
                total = int(span[2]) if span else response.length
                now = total, response.headers.get("ETag")
                if response.status != 206:
                    have = 0
                elif not span or int(span[1]) != have or any(a and b and a != b for a, b in zip(version, now)):
                    part.unlink(missing_ok=True)
                    raise Broken("the file on the server has changed")
                version = now
                save(response, part, have, total)
            if total in (None, size(part)):
                return have > 0
            raise Broken(f"the connection broke off at {size(part):,} of {total:,} bytes")
        except Broken as error:
            have = size(part)
            longest, tries = max(longest, have), 1 if have > longest else tries + 1
            if tries > len(WAITS):
                raise UserError(f"{url}: {error}, {tries} times in a row; run this again later to go on") from None
            time.sleep(WAITS[tries - 1])


def size(part):
    return part.stat().st_size if part.is_file() else 0


def connect(url, have):
    """The response to a request for the bytes from `have` on; None if there are none. Raises Broken or UserError."""
    opener = request.OpenerDirector()  # the usual one would also open file:, ftp: and data:, for instance redirected
    for handler in (request.ProxyHandler, request.UnknownHandler, request.HTTPHandler, request.HTTPSHandler,
                    request.HTTPRedirectHandler, request.HTTPErrorProcessor, request.HTTPDefaultErrorHandler):
        opener.add_handler(handler())
    headers = {"User-Agent": "download_weights", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        return opener.open(request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return None
        reply = f"the server answers {error.code} {one_line(error.reason)}"
        if error.code in (408, 429) or error.code >= 500:
            raise Broken(reply) from None
        raise UserError(f"{url}: {reply}; name another place that has the file with --from") from None
    except (ValueError, http.client.InvalidURL) as error:
        raise UserError(f"{url}: no URL to fetch from ({one_line(error)})") from None
    except NETWORK_ERRORS as error:
        raise Broken(f"no connection ({one_line(getattr(error, 'reason', error))})") from None


def save(response, part, have, total):
    """Writes a response behind the first `have` bytes of `part`. Raises Broken (the network) or OSError (the disk)."""
    terminal = sys.stderr.isatty()
    with open(part, "ab" if have else "wb") as file, tqdm(
            desc=part.stem, total=total, initial=have, unit="B", unit_scale=True, leave=False, file=sys.stderr,
            dynamic_ncols=terminal, mininterval=0.2 if terminal else 30) as bar:
        while True:
            try:
                block = response.read(1 << 16)
            except NETWORK_ERRORS as error:
                raise Broken(f"the connection broke off ({one_line(error)})") from None
            if not block:
                return
            file.write(block)
            bar.update(len(block))


def one_line(error):
    """An error's text in one line, without control characters that a server may have put there."""
    return " ".join(re.sub(r"[^ -~]+", " ", str(error)).split())[:200] or type(error).__name__


if __name__ == "__main__":
    run(main)
