"""Ground truth: which frames of the testing videos are abnormal. Labels are matched by name or number."""

import re
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import scipy.sparse

from utils import names, text
from utils.datasets import IMAGES, RAW, listing, times
from utils.errors import UserError
from utils.files import load_array, size
from utils.frames import decode_image
from utils.ranges import Range, abnormal, read_ranges


def read_labels(dataset, sizes):
    """Frame labels of a dataset's chosen videos. Training videos are normal.

    sizes: (H, W) of each chosen video. Returns labels (F,) bool over all frames of the mode (False outside the chosen
    videos) and where they come from; or None and why, if the dataset has none.
    Raises UserError if a video's labels are missing, damaged, or do not match its frames; the message says which video.
    """
    testing = [(video, size) for video, size in zip(dataset.videos, sizes) if video.testing]
    labels = np.zeros(dataset.num_frames, bool)
    if not testing:
        return labels, "training videos are normal"
    own, place = READERS[dataset.labels]
    for reader in (own, plain, one_vector, matlab_ranges, shanghaitech):  # the layout's own first
        found, source = reader(RAW / dataset.name, dataset, testing)
        if found is not None:
            break
    else:
        places = dict.fromkeys([place, "labels.csv", "frame_labels*.npy", "*.mat with ranges"])
        return None, f"no labels: {RAW / dataset.name} has none of {', '.join(places)}"
    for (video, _), flags in zip(testing, found):
        if len(flags) != len(video):
            raise UserError(f"{video.path}: video {video.name} has {len(video)} frames, but {len(flags)} labels "
                            f"({source}): restore the missing files or remove what does not belong there")
        labels[video.first:video.first + len(video)] = flags
    return labels, source


def read_masks(dataset, sizes):
    """Pixel masks of the chosen testing videos: per video a generator of (H, W) arrays, nonzero where abnormal.

    Raises UserError if a video has none, or (when they are read) if they are damaged, too few, or of another size.
    """
    return [_masks(dataset, video, size) for video, size in zip(dataset.videos, sizes) if video.testing]


# Readers: labels of the chosen testing videos, (video, its size) each, and where they come from; None, None without any.
def ucsd(root, dataset, testing):
    """Test/*_gt: pixel masks, one per frame, if all videos have them; else Test/NAME.m: frame ranges."""
    without = [video.name for video, _ in testing if not _mask_folder(video)]
    if not without:
        return _from_masks(dataset, testing), "pixel masks Test/*_gt"
    path = _one(root / "Test", r".*\.m")
    if not path and len(without) < len(testing):
        raise UserError(f"{root / 'Test'}: video {without[0]} has no masks in {without[0]}_gt, but other videos do: "
                        f"add them, or {root.name}.m with the abnormal frame ranges of all videos")
    return (_from_m(path, dataset, testing), f"frame ranges Test/{path.name}") if path else (None, None)


def avenue(root, dataset, testing):
    """ground_truth_demo/testing_label_mask/K_label.mat: variable volLabel, a 1xF cell array of masks; K: the video's number."""
    if not (root / "ground_truth_demo/testing_label_mask").is_dir():
        return None, None
    return _from_masks(dataset, testing), "pixel masks ground_truth_demo/testing_label_mask/*.mat"


def shanghaitech(root, dataset, testing):
    """Testing/test_frame_mask/NAME.npy, .txt or .csv: a 0 or 1 for each frame of a testing video."""
    folder = _part(root, "test_frame_mask")
    if folder is None:
        return None, None
    paths = [next((f for end in (".npy", ".txt", ".csv") if (f := folder / (video.bare + end)).is_file()),
                  folder / f"{video.bare}.npy") for video, _ in testing]
    return [_vector(path) for path in paths], f"frame labels {folder.relative_to(root)}/*{paths[0].suffix}"


def plain(root, dataset, testing):
    """labels.csv: see utils.ranges.read_ranges; a video without a line is normal."""
    path = root / "labels.csv"
    if not path.is_file():
        return None, None
    known = {names.same(word): {video.bare} for video in dataset.testing for word in (video.bare, video.path.name)}
    ranges = read_ranges(path, text.rows(path), known)
    return [abnormal(video.frames, [one for one in ranges if one.video == video.bare], times(video))
            for video, _ in testing], f"frame ranges {path.name}"


def one_vector(root, dataset, testing):
    """frame_labels*.npy: a 0 or 1 for each frame of all testing videos, in order of their names."""
    path, videos = _one(root, r"frame_labels.*\.npy"), sorted(dataset.testing, key=lambda video: video.bare)
    if not path:
        return None, None
    flags, ends = _vector(path), np.cumsum([len(video) for video in videos])
    if len(flags) != ends[-1]:
        raise UserError(f"{path}: has {len(flags):,} labels, the {len(videos)} testing videos have {ends[-1]:,} frames")
    parts = dict(zip((video.bare for video in videos), np.split(flags, ends[:-1])))
    return [parts[video.bare] for video, _ in testing], f"frame labels {path.name}"


def matlab_ranges(root, dataset, testing):
    """D.mat as of Liu et al. (CVPR 2018): variable gt, a cell for each testing video in order of names, in it two rows, the
    first and the last frame of each event, counted from 1, both included.
    """
    path, order = _one(root, r".*\.mat"), sorted(video.bare for video in dataset.testing)
    if not path:
        return None, None
    cells = [_plain_cell(cell) for cell in _variable(path, "gt").ravel()]
    if len(cells) != len(order):
        raise UserError(f"{path}: gt has {len(cells)} cells, but there are {len(order)} testing videos")
    ranges = {name: _ranges_in(cell, path, name) for name, cell in zip(order, cells)}
    return [abnormal(video.frames, ranges[video.bare]) for video, _ in testing], f"frame ranges {path.name}"


def _ranges_in(cell, path, name):
    """The events of a video in two rows, first and last; two that overlap are ambiguous and are refused."""
    pairs = np.atleast_2d(np.transpose(cell))  # (E, 2)
    if pairs.size and (pairs.dtype.kind not in "uif" or pairs.shape[1] != 2 or (pairs % 1 != 0).any()
                       or len(pairs) == 2 and (np.diff(pairs.ravel()) < 0).any()):
        raise UserError(f"{path}: the cell of video {name} must have two rows of whole numbers: first frames, last frames")
    return [Range(str(path), name, *pair) for pair in pairs.astype(int).tolist() if pair]


READERS = {  # layout -> its own reader, and the files that it reads
    "ucsd": (ucsd, "Test/*_gt"), "avenue": (avenue, "ground_truth_demo/testing_label_mask/K_label.mat"),
    "shanghaitech": (shanghaitech, "Testing/test_frame_mask/NAME.npy"), "plain": (plain, "labels.csv")}


def _from_m(path, dataset, testing):
    """TestVideoFile{end+1}.gt_frame = [61:180, 190]; one line per video, in order of their numbers."""
    lines, found = re.findall(r"gt_frame\s*=\s*\[([^\]]*)\]", re.sub(r"%.*", "", text.read(path))), []
    for video, _ in testing:
        number = _number(dataset, video)
        if not 1 <= number <= len(lines):
            raise UserError(f"{path}: has frame ranges for {len(lines)} videos, but none for video {video.name}")
        parts = [part for part in re.split(r"[,;\s]+", lines[number - 1]) if part]
        pairs = [re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", part) for part in parts]
        if not all(pairs):
            raise UserError(f"{path}: {lines[number - 1]} of video {video.name} must be frames such as 61:180")
        found.append(abnormal(video.frames, [Range(str(path), video.name, int(m[1]), int(m[2] or m[1])) for m in pairs]))
    return found


def _from_masks(dataset, testing):
    return [np.array([mask.any() for mask in _masks(dataset, *each)], bool) for each in testing]


def _masks(dataset, video, size):
    """Yields the masks of a video's frames, (H, W), nonzero where abnormal. Raises UserError if one is invalid."""
    if dataset.labels not in MASKS:
        raise UserError(f"{RAW / dataset.name}: its labels only mark frames: there are no pixel masks")
    (masks, path), count = MASKS[dataset.labels](RAW / dataset.name, dataset, video), 0
    for count, mask in enumerate(masks, 1):
        if getattr(mask, "shape", None) != tuple(size) or mask.dtype.kind not in "buif" or not np.isfinite(mask.sum()):
            what = f"{mask.shape} of {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise UserError(f"{path}: mask {count} is {what}: must be finite numbers of the frames' size {tuple(size)}")
        yield mask
    if count != len(video):
        raise UserError(f"{path}: {count} masks, but video {video.name} has {len(video)} frames")


def _ucsd_masks(root, dataset, video):
    folder = _mask_folder(video)
    if not folder:
        raise UserError(f"{root / 'Test' / video.bare}_gt: no pixel masks of video {video.name}")
    there = [e.name for e in listing(folder) if e.suffix.lower() in IMAGES]
    start = min(names.numbers_of(there) or [0])  # the frames of a film have no numbers of their own: from 0, or from 1
    frames = [f"{t + start}" for t in range(len(video))] if video.is_file and start in (0, 1) else video.frames
    return (_mask(folder / name) for name in names.match(frames, there, folder, "mask")), folder


def _mask(path):
    mask = decode_image(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)  # grey would lose dark colours, and low bits of 16
    if mask is None:
        raise UserError(f"{path}: this mask cannot be decoded")
    mask = mask.max(axis=2)
    return mask > mask.max() / 2 if path.suffix.lower() in (".jpg", ".jpeg") else mask  # JPEG leaves traces around


def _mask_folder(video):
    """Test001_gt next to the video, in lower or upper case; None if there is none with images."""
    return _one(video.path.parent, re.escape(names.same(f"{video.bare}_gt")),
                lambda e: e.is_dir() and any(mask.suffix.lower() in IMAGES for mask in listing(e)))


def _avenue_masks(root, dataset, video):
    folder, number = root / "ground_truth_demo" / "testing_label_mask", _number(dataset, video)
    path = _one(folder, rf"0*{number}_label\.mat")
    if not path:
        raise UserError(f"{folder}/{number}_label.mat: no such file; the labels of every testing video must be there")
    return map(_plain_cell, _variable(path, "volLabel").ravel()), path


def _shanghaitech_masks(root, dataset, video):
    path = (_part(root, "test_pixel_mask") or root / "testing" / "test_pixel_mask") / f"{video.bare}.npy"
    return np.atleast_1d(load_array(path, mmap=True)), path


MASKS = {"ucsd": _ucsd_masks, "avenue": _avenue_masks, "shanghaitech": _shanghaitech_masks}


def _number(dataset, video):
    """The number in a video's name. Raises UserError if it has none, or another testing video has the same one."""
    numbers, own = [names.parts(other.bare)[1] for other in dataset.testing], names.parts(video.bare)[1]
    if len(own) != 1 or numbers.count(own) != 1:
        raise UserError(f"{video.path}: labels are found by the number in the video's name: give it a unique number")
    return own[0]


def _one(folder, pattern, fits=Path.is_file):
    """The one entry of a folder whose lower-case name matches, or None. Raises UserError if two match."""
    paths = [e for e in listing(folder) if re.fullmatch(pattern, names.same(e.name)) and fits(e)]
    if len(paths) > 1:
        raise UserError(f"{paths[0]} and {paths[1]}: either could be the labels: remove one of them")
    return paths[0] if paths else None


def _part(root, name):
    return next((f for part in ("Testing", "testing") if (f := root / part / name).is_dir()), None)


def _variable(path, name):
    """A variable of a MATLAB file."""
    size(path)  # reading a named pipe would wait forever
    try:
        return np.asarray(scipy.io.loadmat(path)[name])
    except Exception as error:  # scipy raises many types for damaged files
        raise UserError(f"{path}: not a MATLAB file with a variable {name} ({error})") from None


def _plain_cell(content):
    """The content of a MATLAB cell: nested cells and sparse matrices are unpacked."""
    while isinstance(content, np.ndarray) and content.dtype == object and content.size == 1:
        content = content.item()
    return content.toarray() if scipy.sparse.issparse(content) else content


def _vector(path):
    """The 0 and 1 in a .npy or text file, (F,)."""
    try:
        found = load_array(path) if path.suffix == ".npy" else np.array(
            [cell for _, cells in text.rows(path) for cell in cells], float)
    except ValueError:
        found = np.array(np.nan)
    if found.size != max(found.shape, default=0) or not np.isin(found, (0, 1)).all():
        raise UserError(f"{path}: must be a vector of 0 and 1")
    return found.ravel()
