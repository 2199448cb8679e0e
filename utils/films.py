"""Video files, decoded by FFmpeg (PyAV): how many frames they contain, when each is shown, and the frames.

A frame is identified by its time stamp: its number is the position of the stamp among those of the file's packets. So the
count does not depend on the header, and a lost frame does not shift the others.
"""

import contextlib
import functools
import os
from collections import deque
from typing import NamedTuple

import numpy as np

from utils.errors import UserError

MAX_PIXELS = 2 ** 26  # of a frame; twice the pixels of 8K video


class Film(NamedTuple):
    stamps: tuple | None  # of its frames, ascending; None if the packets have no reliable ones
    times: np.ndarray | None  # (count + 1,) float64: second at which each frame begins, from 0; then the end of the last
    count: int
    header: int  # frames according to the header, 0 if it does not say


def read(path):
    """The Film in a file. Raises UserError if it cannot be read as a video."""
    known = os.stat(path)
    return _read(os.path.realpath(path), known.st_size, known.st_mtime_ns)


@functools.cache
def _read(path, size, changed):
    with _opened(path) as (container, stream):
        every = [p for p in container.demux(stream) if p.size]
        packets = [(p.pts, p.dts, p.is_keyframe, p.duration) for p in every if not p.is_discard]  # by an edit list
        unit, rate = stream.time_base, stream.average_rate or stream.guessed_rate
        header = max(0, stream.frames - (len(every) - len(packets)))
        guessed = container.format.name == "avi" and stream.codec_context.has_b_frames  # AVI has no display times
    start = next((k for k, packet in enumerate(packets) if packet[2]), 0)  # nothing before it can be decoded
    packets = packets[start:]
    if not packets:
        raise UserError(f"{path}: this video has no frames")
    stamps = [pts for pts, *_ in packets if pts is not None and (packets[0][0] is None or pts >= packets[0][0])]
    order = [dts for _, dts, *_ in packets if dts is not None]
    if len(set(stamps)) < len(stamps) or None in [pts for pts, *_ in packets] or order != sorted(order):  # or joined
        times = np.arange(len(packets) + 1) / float(rate) if rate else None
        return Film(None, times, len(packets), header)
    stamps = order if guessed else sorted(stamps)
    last = not guessed and packets[-1][3] or (np.median(np.diff(stamps)) if len(stamps) > 1 else 1 / (rate or 1) / unit)
    times = (np.array([*stamps, stamps[-1] + float(last)]) - stamps[0]) * float(unit)
    return Film(None if guessed else tuple(stamps), times, len(stamps), header)


def note(path):
    """A line if the header gives a wrong number of frames, or ""."""
    film = read(path)
    return "" if film.header in (0, film.count) else (
        f"note: {path}: its header says {film.header:,} frames, but it has {film.count:,}")


def size(path):
    """(H, W) of a video's first frame that can be decoded, or None."""
    return next((image.shape[:2] for _, image in decode(path, quiet=True)), None)


def decode(path, wanted=None, quiet=False):
    """Yields (number, (H, W, 3) uint8 BGR) of a video's frames, in order; frames that cannot be decoded are left out.

    wanted: numbers of the frames to yield, None for all. Interlaced frames are deinterlaced by bwdif, one for one. Prints a
    note about that and about damaged frames, unless `quiet`. Raises UserError if more frames come out than there are packets.
    """
    damaged = []
    with _opened(path) as (container, stream):
        stream.thread_type = "SLICE"  # with threads over frames PyAV loses the last ones of a truncated file
        for number, frame in _progressive(_numbered(container, stream, read(path), path), path, quiet):
            if frame.is_corrupt:
                damaged.append(number + 1)
            if wanted is None or number in wanted:
                image = frame.to_ndarray(format="bgr24", interpolation="BICUBIC")  # as OpenCV does
                yield number, np.ascontiguousarray(np.rot90(image, frame.rotation // 90)) if frame.rotation else image
    if damaged and not quiet:
        print(f"warning: {path}: {len(damaged):,} frames are damaged, the first is frame {damaged[0]:,}; what could be "
              "decoded of them is used")


def _numbered(container, stream, film, path):
    """Pairs of number and decoded frame."""
    import av

    place, number = {stamp: k for k, stamp in enumerate(film.stamps or ())}, 0
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            number += 1
            continue
        for frame in decoded:
            if film.stamps and frame.pts in place:
                yield place[frame.pts], frame
            elif not film.stamps:
                yield number, frame
            number += 1
    if not film.stamps and number > film.count:
        raise UserError(f"{path}: has more frames than packets: convert it with {conversion(path)}")


def _progressive(numbered, path, quiet):
    """The same pairs, with interlaced frames deinterlaced."""
    graph, size, waiting = None, None, deque()
    for number, frame in numbered:
        if graph is None and not frame.interlaced_frame:
            yield number, frame
            continue
        if graph is None:
            graph, size = _deinterlacer(frame), (frame.width, frame.height)
            if not quiet:
                print(f"note: {path}: interlaced; its frames are deinterlaced (bwdif)")
        if (frame.width, frame.height) != size:
            raise UserError(f"{path}: frame {number + 1:,} is {frame.width}x{frame.height} (width x height), earlier frames "
                            f"are {size[0]}x{size[1]}: split the video there")
        waiting.append(number)
        graph.push(frame)
        yield from _pulled(graph, waiting)
    if graph:
        graph.push(None)
        yield from _pulled(graph, waiting)


def _deinterlacer(frame):
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")).configure()
    return graph


def _pulled(graph, waiting):
    with contextlib.suppress(BlockingIOError, EOFError):  # it needs the next frame first, or has no more
        while True:
            frame = graph.pull()
            yield waiting.popleft(), frame


@contextlib.contextmanager
def _opened(path):
    """A video's container and its video stream. Only this file is read, not others that it may refer to."""
    import av  # here because only video files need it

    if not os.path.isfile(path):  # reading a named pipe would wait forever
        raise UserError(f"{path}: cannot be read (not a file)")
    try:
        with (open(path, "rb") as file,
              av.open(file, options={"protocol_whitelist": ""}, metadata_errors="replace") as container):
            stream = container.streams.best("video")
            if stream is None or stream.disposition & av.stream.Disposition.attached_pic:  # the cover of an audio file
                raise UserError(f"{path}: this video has no frames")
            require_size(stream.height, stream.width, path)
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # a later frame may be larger
            yield container, stream
    except av.FFmpegError as error:
        raise UserError(f"{path}: cannot be read as a video ({error.strerror}): convert it with {conversion(path)}, or "
                        "remove it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def require_size(height, width, path):
    """Raises UserError for a frame that is too large to decode."""
    if height * width > MAX_PIXELS:
        raise UserError(f"{path}: is {height}x{width} (height x width), more than {MAX_PIXELS:,} pixels: scale the video down")


def conversion(path):
    """The command that makes a video that any program can read."""
    return f'ffmpeg -i "{path}" -c:v libx264 -crf 16 NEW.mp4'
