"""Decoding: every frame once, in order, ahead of its use."""

import io
import itertools
import math
import sys
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from PIL import Image, ImageFile

from utils import films
from utils.errors import UserError
from utils.files import load_array, whole

Image.MAX_IMAGE_PIXELS = None  # Pillow reads headers only here
ImageFile.LOAD_TRUNCATED_IMAGES = True  # and skips text chunks in them that are too large
warnings.filterwarnings("ignore", module="PIL")
cv2.setNumThreads(1)  # frames run in parallel instead: with threads inside OpenCV, DIS results would depend on their number


def parallel(function, items, workers):
    """Like map(function, items), by a thread pool that stays a few items ahead; results are in order."""
    if workers < 1:
        yield from map(function, items)
        return
    pool, ahead = ThreadPoolExecutor(workers), deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def load(video, wanted, workers=0, on_bad_frame="stop", repeated=None):
    """Yields the frames `wanted` (ascending numbers within the video) as (H, W, 3) uint8 BGR arrays.

    Raises UserError for a frame that cannot be decoded, unless on_bad_frame is "repeat": then the previous frame is
    used, with a warning, and the frame's name is added to the set `repeated`. Raises UserError for a frame whose size
    differs from the others.
    """
    frames = _of_film(video, wanted) if video.is_file else parallel(
        lambda t: decode_image(video.path / video.frames[t]), wanted, workers)
    last, blank = None, len(wanted) > 1
    for t, frame in zip(wanted, frames):
        if frame is None:
            frame = _replacement(video, t, last, on_bad_frame)
            if repeated is not None:
                repeated.add(video.frames[t])
        if last is not None and frame.shape != last.shape:
            name = f"{t + 1:,}" if video.is_file else video.frames[t]
            raise UserError(f"{video.path}: frame {name} is {frame.shape[0]}x{frame.shape[1]} (height x width), earlier "
                            f"frames are {last.shape[0]}x{last.shape[1]}")
        last, blank = frame, blank and frame.min() == frame.max()
        yield frame
    if blank:
        print(f"warning: {video.path}: every frame has a single colour: is the video decoded correctly?", file=sys.stderr)


def decode_image(path, flags=None):
    """The image in a file, or None if it is damaged; without flags a frame, (H, W, 3) uint8 BGR.

    Raises UserError if there is no file, or the image is huge; for a frame also if there are several, or it is not 8 bits.
    """
    if not path.is_file():  # reading a named pipe would wait forever
        raise UserError(f"{path}: cannot be read (not a file)")
    try:
        data = np.fromfile(path, np.uint8)  # imread cannot tell a missing file from a damaged one
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not _has_header(data, path):
        return None
    try:
        image = cv2.imdecode(data, flags or cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        return None
    return image if flags or image is None or image.dtype == np.uint8 else _in_8_bits(image, path)


def save_image(path, image, *quality):
    """Writes an image, (H, W) or (H, W, 3) uint8 BGR, in the form of its suffix, whole or not at all; quality: for OpenCV."""
    with whole(path) as file:
        file.write(cv2.imencode(path.suffix, image, quality)[1].data)


def _has_header(data, path):
    """Whether an image header can be read. Raises UserError for a huge image or a file of several images."""
    try:
        header = Image.open(io.BytesIO(data))
    except Exception:  # a hostile header can raise any type; an image without a size is not decoded
        return False
    films.require_size(*header.size[::-1], path)
    try:
        several = header.format == "TIFF" and header.seek(1) is None
    except Exception:  # there is no second one, or it cannot be read
        several = False
    if several:
        raise UserError(f"{path}: has several images: split it into one file per frame")
    return True


def _in_8_bits(image, path):
    """The high bytes of a frame of 16 bits, which the official code uses. Raises UserError if they are almost empty."""
    if image.dtype != np.uint16 or 0 < image.max() < 4096:
        raise UserError(f"{path}: has {image.dtype} values up to {image.max():g}: convert the frames to 8 bits (10 or "
                        "12 bits in 16 would become nearly black)")
    return (image >> 8).astype(np.uint8)


def _of_film(video, wanted):
    """A video file's frames, each an array, or None if it is lost."""
    decoded = films.decode(video.path, set(wanted))
    number, image = next(decoded, (math.inf, None))
    for t in wanted:
        while number < t:
            number, image = next(decoded, (math.inf, None))
        yield image if number == t else None
    next(decoded, None)  # to the end, where it prints what was damaged


def _replacement(video, t, last, on_bad_frame):
    where = video.path if video.is_file else video.path / video.frames[t]
    what = f"{where}: frame {t + 1} of {len(video)} cannot be decoded (damaged or truncated)"
    if on_bad_frame == "stop":
        raise UserError(f"{what}: replace it, or use the previous frame with --on_bad_frame repeat")
    earlier = iter([last]) if video.is_file else (decode_image(video.path / video.frames[k]) for k in range(t - 1, -1, -1))
    before = next((frame for frame in earlier if frame is not None), None)
    if before is None:
        raise UserError(f"{what}, and there is no previous frame to repeat: replace it")
    print(f"warning: {what}; replaced by the previous frame", file=sys.stderr)
    return before


def size_of(video):
    """(H, W) of a video's frames, read from its first decodable one."""
    sizes = [films.size(video.path)] if video.is_file else (
        None if frame is None else frame.shape[:2] for frame in (decode_image(video.path / name) for name in video.frames))
    for size in filter(None, sizes):
        films.require_size(*size, video.path)
        return size
    raise UserError(f"{video.path}: none of its {len(video)} frames can be decoded")


def load_flow(video, wanted, size, workers=0):
    """Yields the flow of the frames `wanted` as (H, W, 2) float16 or float32 arrays.

    Raises UserError if a flow file is missing, damaged, not of the frames' size, or has values that are not finite.
    """
    def read(t):
        path = video.flow_file(t)
        if not path.is_file():
            raise UserError(f"{path}: no such flow file: run calc_optical_flow.py first (with the same --use_flow)")
        flow = load_array(path)
        if flow.shape != (*size, 2):
            raise UserError(f"{path}: is {flow.shape}, but the frames need {(*size, 2)}: run calc_optical_flow.py again")
        if flow.dtype not in (np.float16, np.float32) or not np.isfinite(flow.sum(dtype=np.float64)):
            raise UserError(f"{path}: has values that are not finite numbers: remove it and run calc_optical_flow.py again")
        return flow

    return parallel(read, wanted, workers)


def slide(numbers, items, windows):
    """Collects windows from a stream that is read once.

    numbers: ascending numbers; items: one item for each of them; windows: lists of numbers, whose starts and ends
    never go back. Yields each window's list of items.
    """
    stream, held = zip(numbers, items), {}
    for window in windows:
        while window[-1] not in held:
            number, item = next(stream)
            held[number] = item
        for old in [n for n in held if n < window[0]]:
            del held[old]
        yield [held[n] for n in window]


def batched(items, count):
    """Lists of `count` consecutive items; the last one may be shorter."""
    items = iter(items)
    while batch := list(itertools.islice(items, count)):
        yield batch
