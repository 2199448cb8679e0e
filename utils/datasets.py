"""The datasets under raw_datasets/: their videos, frames and windows of frames."""

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import films, names, text
from utils.errors import UserError

RAW = Path("raw_datasets")
IMAGES = {".tif", ".tiff", ".jpg", ".jpeg", ".png", ".bmp"}
VIDEOS = {".avi", ".mp4", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".webm", ".flv", ".3gp", ".ts", ".mts", ".m2ts",
          ".ogv", ".vob", ".asf", ".h264", ".264", ".hevc", ".h265", ".265", ".mjpeg", ".gif"}
MASK_NAME = re.compile(r"(.*[ _.-])?(gt|masks?|annotations?|labels?|ground_?truth)", re.IGNORECASE)  # folders beside videos


class Layout(NamedTuple):
    """Where the videos are: alternatives, of which the first that has any is used; video names must match `pattern`."""

    train: tuple  # of alternatives, each a tuple of folders in order
    test: tuple
    labels: str  # a reader in utils/labels.py
    pattern: str = r".*"
    beside: str = r"(?!)"  # what else may be there: names of labels


LAYOUTS = {
    "ucsd": Layout((("Train",),), (("Test",),), "ucsd", r"(Train|Test)\d+", r".*_gt|.*\.m"),
    "avenue": Layout((("training/frames",), ("training_videos",)), (("testing/frames",), ("testing_videos",)), "avenue"),
    "shanghaitech": Layout(
        (("training/videosFrame",), ("training/frames",), ("training/videos",)),
        (("Testing/frames_part1", "Testing/frames_part2"), ("testing/frames_part1", "testing/frames_part2"),
         ("testing/frames",), ("Testing/frames",)), "shanghaitech"),
    "plain": Layout((("training",),), (("videos",),), "plain"),  # what tools.prepare_videos creates
}

# What differs between the paper's datasets. min_area in pixels; totals: published (videos, frames).
DATASETS = {
    "UCSDped1": dict(layout="ucsd", min_area=100, train_total=(34, 6800), test_total=(36, 7200)),
    "UCSDped2": dict(layout="ucsd", min_area=100, train_total=(16, 2550), test_total=(12, 2010)),
    "avenue": dict(layout="avenue", min_area=1600, detector_scale=320, train_total=(16, 15328), test_total=(21, 15324)),
    "ShanghaiTech": dict(layout="shanghaitech", min_area=900, detector_scale=320, train_total=(330, 274515),
                         test_total=(107, 40791)),
}


@dataclass(frozen=True)
class Video:
    name: str  # "Test001"; where a training and a testing video of the mode share it, "Train/01" and "Test/01"
    path: Path  # a folder of frames, or one video file
    frames: tuple  # file names of the frames; for a video file, their numbers as text: "000000", ...
    testing: bool  # whether it belongs to the testing set
    flow_folder: Path = Path()  # of its flow files: its own path, below optical_flow/ instead of raw_datasets/
    first: int = 0  # number of its first frame in the mode
    chosen: tuple = ()  # which of its frames are scored, counted from 0
    fps: float | None = None  # frames per second as listed in videos.csv

    def __len__(self):
        return len(self.frames)

    @property
    def bare(self):
        """Its name without Train/ or Test/, as its file or folder is called; labels are found by it."""
        return self.name.rpartition("/")[2]

    @property
    def is_file(self):
        return self.path.is_file()

    def flow_file(self, t):
        """Flow file of frame t."""
        return self.flow_folder / (Path(self.frames[t]).stem + ".npy")

    def frame_files(self):
        """The image files of its frames, or the one video file."""
        return [self.path] if self.is_file else [self.path / name for name in self.frames]

    def flow_files(self):
        """The existing flow files, by name."""
        return sorted(self.flow_folder.glob("*.npy"))


@dataclass(frozen=True)
class Dataset:
    """The videos of one mode, in order. Frames are numbered across all of them, whatever part a trial uses."""

    name: str
    videos: tuple  # of Video, the chosen ones
    num_frames: int  # F, of all videos of the mode
    labels: str
    notes: tuple  # lines that the user should read
    testing: tuple = ()  # all testing videos of the mode, chosen or not

    @property
    def chosen(self):
        """Numbers of the frames to be scored, (S,) int64, ascending."""
        return np.concatenate([np.asarray(v.chosen, np.int64) + v.first for v in self.videos])

    @property
    def contents(self):
        """Name of each video -> its image files."""
        return {video.name: video.frame_files() for video in self.videos}

    @property
    def spans(self):
        """Each video's part of `chosen`: list of (start, stop)."""
        ends = np.cumsum([0, *(len(v.chosen) for v in self.videos)]).tolist()
        return list(zip(ends[:-1], ends[1:]))


def window(i, context, first, last, border_mode="hard"):
    """Numbers of the frames around frame i of a video whose frames are first..last: 2 * context + 1 of them.

    hard (and any unknown word): numbers beyond the video's ends are clamped; elastic: the window is shifted inside
    the video (clamped if the video is shorter than a window); predict: only i - context .. i, clamped at the start.
    """
    if border_mode == "predict":
        return [max(j, first) for j in range(i - context, i + 1)]
    if border_mode == "elastic":
        i = max(first + context, min(i, last - context))
    return [min(max(j, first), last) for j in range(i - context, i + context + 1)]


def find(name, mode, layout, videos=frozenset(), limit_frames=0, frame_step=1, flow_root="optical_flow"):
    """The Dataset `name` for a mode, or the part of it that a trial uses.

    videos: positions (from 1) in the mode's list, empty for all; limit_frames: of each video, 0 for all;
    frame_step: every K-th frame. Raises UserError if a folder or its frames are missing.
    """
    root, layout = RAW / name, LAYOUTS[layout]
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: put or link the dataset there (raw_datasets/README.md shows the layout)")
    found, notes = [], []
    for part, testing in (("train", False), ("test", True)):
        if mode in (part, "merge"):
            listed = _videos(root, getattr(layout, part), layout, testing, notes)
            notes += _compare(name, part, listed)
            found += listed
    if videos and max(videos) > len(found):
        raise UserError(f"--videos: there is no video {max(videos)}; {name} has {len(found)} in mode {mode}")
    first, fps = np.cumsum([0, *map(len, found)]), _listed_rates(root)
    shared = Counter(names.same(v.name) for v in found)  # Train/01 and Test/01
    found = [replace(v, name=f"{('Train', 'Test')[v.testing]}/{v.name}" if shared[names.same(v.name)] > 1 else v.name,
                     first=int(f), flow_folder=Path(flow_root) / v.path.relative_to(RAW),
                     chosen=tuple(range(0, min(len(v), limit_frames or len(v)), frame_step))) for v, f in zip(found, first)]
    found = [replace(v, fps=fps.get(names.same(v.name), fps.get(names.same(v.bare)) if v.testing else None)) for v in found]
    chosen = tuple(v for position, v in enumerate(found, 1) if not videos or position in videos)
    return Dataset(name, chosen, int(first[-1]), layout.labels, tuple(notes + _numbering(found)),
                   tuple(v for v in found if v.testing))


def _compare(name, part, videos):
    """A line if the numbers of videos and frames are not the published ones."""
    known = DATASETS.get(name, {}).get(f"{part}_total")
    counts = (len(videos), sum(map(len, videos)))
    if known in (None, counts):
        return []
    return [f"note: {name} should have {known[0]} {part}ing videos with {known[1]} frames in total; "
            f"found {counts[0]} with {counts[1]}"]


def _numbering(videos):
    """Lines about frame numbers: an order other than by name, and gaps."""
    videos = [v for v in videos if not v.is_file]
    natural = [v.name for v in videos if list(v.frames) != sorted(v.frames)]
    more = f" and {len(natural) - 1} more" if natural[1:] else ""
    notes = [f"note: {natural[0]}{more}: frames are sorted by number, 9 before 10 (the official code sorts them "
             "by name)"] if natural else []
    for video in (v for v in videos if names.gap(v.frames)):
        numbers = names.numbers_of(video.frames)
        first = next(name for name, a, b in zip(video.frames[1:], numbers, numbers[1:]) if b > a + 1)
        notes.append(f"note: {video.name}: {names.gap(video.frames)} of the numbers {Path(video.frames[0]).stem} to "
                     f"{Path(video.frames[-1]).stem} are missing, the first before {Path(first).stem}; the frames around a "
                     "gap are treated as neighbours")
    return notes


def _videos(root, alternatives, layout, testing, notes):
    for folders in alternatives:
        if all((root / folder).is_dir() for folder in folders):
            entries = [e for folder in folders for e in listing(root / folder)]
            if dead := [e for e in entries if e.is_symlink() and not e.exists()]:
                raise UserError(f"{dead[0]}: links to {os.readlink(dead[0])}, which does not exist: restore it, or remove "
                                "the link")
            videos = [v for e in entries if re.fullmatch(layout.pattern, e.stem, re.DOTALL) and not MASK_NAME.fullmatch(e.stem)
                      and (v := _video(e, testing))]
            if videos:
                _require_names(videos)
                notes += filter(None, (films.note(v.path) for v in videos if v.is_file))
                rest = {e.name for e in entries if not re.fullmatch(layout.beside, e.name, re.I)}
                rest -= {v.path.name for v in videos}
                notes += [f"note: {root}: {len(rest)} entries are not videos: {', '.join(sorted(rest)[:9])}"] if rest else []
                return videos
    wanted = " or ".join(" with ".join(folders) for folders in alternatives)
    raise UserError(f"{root}: no videos in {wanted} (raw_datasets/README.md shows the layout)")


def _require_names(videos):
    """Raises UserError if two videos of a set share a name, or a name is not one line of UTF-8 text."""
    known = {}
    for video in videos:
        if bad := re.search("[^/]*[\0-\x1f\x7f\ud800-\udfff][^/]*", "/".join([str(video.path), *video.frames])):
            raise UserError(f"{str(video.path)!a}: the name {bad[0]!a} has a control character or is not UTF-8: rename it (or "
                            "set the environment variable PYTHONUTF8=1, if it looks right in other programs)")
        other = known.setdefault(names.same(video.name), video)
        if other is not video:
            raise UserError(f"{video.path} and {other.path}: two videos with the same name: rename one of them")


def listing(folder):
    """Entries of a folder by name, without what file managers leave behind."""
    try:
        return sorted((e for e in folder.iterdir() if not e.name.startswith(".") and e.name != "Thumbs.db"),
                      key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def images_in(folder):
    """File names of the images in a folder, in frame order. Raises UserError if the order is ambiguous."""
    return names.order_of([e.name for e in listing(folder) if e.suffix.lower() in IMAGES], folder)


def _video(path, testing):
    if path.is_dir():
        frames = images_in(path)
        if not frames:
            raise UserError(f"{path}: no frames in it (looked for {', '.join(sorted(IMAGES))})")
    elif path.is_file() and path.suffix.lower() in VIDEOS:
        frames = tuple(f"{t:06d}" for t in range(films.read(path).count))
    else:
        return None
    return Video(path.name if path.is_dir() else path.stem, path, frames, testing)


def times(video):
    """(len(video) + 1,) seconds at which its frames begin and the last one ends, or None if unknown.

    For a file these are its own time stamps; for a folder of frames the rate is from raw_datasets/D/videos.csv.
    """
    if video.is_file:
        return films.read(video.path).times
    return np.arange(len(video) + 1) / video.fps if video.fps else None


def rates(dataset):
    """Average frames per second of each video, or None if unknown."""
    ends = [(len(video), times(video)) for video in dataset.videos]
    return [None if end is None or not end[-1] else count / end[-1] for count, end in ends]


def _listed_rates(root):
    """Name of a video, normalised by `names.same` -> frames per second, from videos.csv if it exists."""
    path, known = root / "videos.csv", {}
    lines = text.rows(path) if path.is_file() else []
    for number, cells in lines[1:]:
        row = dict(zip(lines[0][1], cells))
        rate = row.get("fps", "").replace(",", ".") or "0"
        if not {"video", "fps"} <= row.keys() or not re.fullmatch(r"\d{1,3}(\.\d{1,20})?", rate):
            raise UserError(f"{path}: line {number}: must have columns video and fps; fps must be a number or empty")
        if known.setdefault(names.same(row["video"]), float(rate)) != float(rate):
            raise UserError(f"{path}: line {number}: video {row['video']} has two rates: remove one")
    return known


def fingerprint(video):
    """The names and sizes of the video's files: a list that changes when a frame is added, renamed or replaced."""
    if video.is_file:
        return [video.path.name, video.path.stat().st_size]
    frames = set(video.frames)
    with os.scandir(video.path) as entries:
        sizes = {e.name: e.stat().st_size for e in entries if e.name in frames}
    return [[name, sizes.get(name)] for name in video.frames]
