"""Ground truth: which frames of the testing videos are abnormal, matched to the videos by name."""

import csv
import re

import cv2
import numpy as np
import scipy.io

from utils.datasets import RAW
from utils.errors import UserError
from utils.files import load_array
from utils.frames import decode_image


def read_labels(dataset, sizes):
    """Frame labels of a dataset's chosen videos. Training videos are normal.

    sizes: (H, W) of each chosen video. Returns labels (F,) bool over all frames of the mode (False outside the chosen
    videos) and where they come from; or None and why, where the dataset has none.
    Raises UserError where a video's labels are missing, damaged, or do not fit its frames; the message names the video.
    """
    testing = [(video, size) for video, size in zip(dataset.videos, sizes) if video.testing]
    labels = np.zeros(dataset.num_frames, bool)
    if not testing:
        return labels, "training videos are normal"
    found, source = READERS[dataset.labels](RAW / dataset.name, testing)
    if found is None:
        return None, source
    for (video, _), abnormal in zip(testing, found):
        if len(abnormal) != len(video):
            raise UserError(f"{video.path}: video {video.name} has {len(video)} frames, but {len(abnormal)} labels "
                            f"({source}): put the missing files back or remove what does not belong there")
        labels[video.first:video.first + len(video)] = abnormal
    return labels, source


def read_masks(dataset, sizes):
    """Pixel masks of the chosen testing videos: per video a generator of (H, W) arrays, nonzero where abnormal.

    Raises UserError where a video has none, or (once they are read) where they are damaged or of another size.
    """
    root = RAW / dataset.name
    return [MASKS[dataset.labels](root, video, size) for video, size in zip(dataset.videos, sizes) if video.testing]


def ucsd(root, testing):
    """Pixel masks Test001_gt/*.bmp, one per frame in order of names, if all videos have them; else NAME.m."""
    masks = {video.name: _mask_files(video.path.with_name(video.name + "_gt")) for video, _ in testing}
    without = [name for name, files in masks.items() if not files]
    if not without:
        return [_from_masks(masks[video.name], size) for video, size in testing], "pixel masks Test/*_gt"
    ranges = sorted(path for path in (root / "Test").glob("[!.]*.m") if path.is_file())
    if ranges:
        return _from_ranges(ranges[0], testing), f"frame ranges {ranges[0].relative_to(root)}"
    if len(without) < len(testing):
        raise UserError(f"{root / 'Test'}: video {without[0]} has no masks in {without[0]}_gt, others have: "
                        f"add them, or {root.name}.m with the abnormal frame ranges of all videos")
    return None, f"no labels: no {root / 'Test'}/*_gt folders and no .m file there"


def avenue(root, testing):
    """K_label.mat: variable volLabel, a 1xF cell array of masks; K is the number in the video's name."""
    folder = root / "ground_truth_demo" / "testing_label_mask"
    if not folder.is_dir():
        return None, f"no labels: no folder {folder}"
    return ([_from_mat(_avenue_file(folder, video), size) for video, size in testing],
            "pixel masks ground_truth_demo/testing_label_mask/*.mat")


def shanghaitech(root, testing):
    """test_frame_mask/NAME.npy: one 0/1 vector per testing video."""
    folder = next((f for f in (root / "Testing" / "test_frame_mask", root / "testing" / "test_frame_mask") if f.is_dir()),
                  None)
    if folder is None:
        return None, f"no labels: no folder {root}/testing/test_frame_mask"
    vectors = [load_array(folder / f"{video.name}.npy") for video, _ in testing]
    for (video, _), vector in zip(testing, vectors):
        if vector.ndim != 1 or not np.isin(vector, (0, 1)).all():
            raise UserError(f"{folder / video.name}.npy: is no vector of 0 and 1")
    return vectors, f"frame labels {folder.relative_to(root)}/*.npy"


def plain(root, testing):
    """labels.csv: lines of video, first abnormal frame, last abnormal frame; a video without a line is normal."""
    path = root / "labels.csv"
    if not path.is_file():
        return None, f"no labels: no file {path}"
    ranges = read_ranges(path)
    known = {entry.name if entry.is_dir() else entry.stem for entry in (root / "videos").iterdir()}
    unknown = [name for name, _, _ in ranges if name not in known]
    if unknown:
        raise UserError(f"{path}: there is no video {unknown[0]} in {root / 'videos'}")
    found = []
    for video, _ in testing:
        abnormal = np.zeros(len(video), bool)
        for _, first, last in (line for line in ranges if line[0] == video.name):
            if last > len(video):
                raise UserError(f"{path}: frames {first} to {last} of video {video.name} do not fit its {len(video)} frames")
            abnormal[first - 1:last] = True
        found.append(abnormal)
    return found, f"frame ranges {path.name}"


def read_ranges(path):
    """Lines of video, first frame, last frame (from 1, both inclusive) of a CSV file, with or without a header.

    Returns a list of (name, first, last). Raises UserError that names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text ({error})") from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    ranges = []
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or number == 1 and not any(cell.isdecimal() for cell in cells[1:3]):
            continue  # an empty line, or the header
        if len(cells) < 3 or not (cells[1].isdecimal() and cells[2].isdecimal() and 1 <= int(cells[1]) <= int(cells[2])):
            raise UserError(f"{path}: line {number} is {', '.join(cells)}: must be video, first frame, last frame, "
                            "counted from 1 (a name with a comma in quotes)")
        ranges.append((cells[0], int(cells[1]), int(cells[2])))
    return ranges


READERS = {"ucsd": ucsd, "avenue": avenue, "shanghaitech": shanghaitech, "plain": plain}


def _mask_files(folder):
    return sorted(p for p in folder.glob("*.bmp") if not p.name.startswith(".")) if folder.is_dir() else []


def _avenue_file(folder, video):
    return folder / f"{int(re.sub('[^0-9]', '', video.name) or 0)}_label.mat"


def _from_masks(files, size):
    return np.array([mask.any() for mask in _bmp_masks(files, size)], bool)


def _bmp_masks(files, size):
    for path in files:
        mask = decode_image(path, cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise UserError(f"{path}: this mask cannot be decoded")
        if mask.shape != tuple(size):
            raise UserError(f"{path}: this mask is {mask.shape[0]}x{mask.shape[1]}, the video's frames are {size[0]}x{size[1]}")
        yield mask


def _from_ranges(path, testing):
    """TestVideoFile{end+1}.gt_frame = [61:180, 190]; one line per video, in order of their numbers."""
    text = re.sub(r"%.*", "", path.read_text(errors="replace"))
    ranges = re.findall(r"gt_frame\s*=\s*\[([^\]]*)\]", text)
    found = []
    for video, _ in testing:
        number = int(re.sub(r"\D", "", video.name) or 0)
        if not 1 <= number <= len(ranges):
            raise UserError(f"{path}: has frame ranges of {len(ranges)} videos, none for video {video.name}")
        abnormal = np.zeros(len(video), bool)
        for part in re.split(r"[,;\s]+", ranges[number - 1].strip()):
            match = re.fullmatch(r"(\d+)(?::(\d+))?", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
            if part and not 1 <= first <= last <= len(video):
                raise UserError(f"{path}: range {part} of video {video.name} does not fit its {len(video)} frames")
            abnormal[first - 1:last] |= bool(part)
        found.append(abnormal)
    return found


def _from_mat(path, size):
    return np.array([mask.any() for mask in _mat_masks(path, size)], bool)


def _mat_masks(path, size):
    if not path.is_file():
        raise UserError(f"{path}: no such file, but other videos' labels are expected there")
    try:
        cells = scipy.io.loadmat(path)["volLabel"].ravel()
    except Exception as error:  # scipy raises many types for damaged files
        raise UserError(f"{path}: no MATLAB file with a variable volLabel ({error})") from None
    for i, mask in enumerate(cells):
        if getattr(mask, "shape", None) != tuple(size):
            raise UserError(f"{path}: mask {i + 1} is {getattr(mask, 'shape', 'none')}, the frames are {tuple(size)}")
        yield mask


def _ucsd_masks(root, video, size):
    files = _mask_files(video.path.with_name(video.name + "_gt"))
    if not files:
        raise UserError(f"{video.path}_gt: no pixel masks of video {video.name}")
    return _bmp_masks(files, size)


def _avenue_masks(root, video, size):
    return _mat_masks(_avenue_file(root / "ground_truth_demo" / "testing_label_mask", video), size)


def _shanghaitech_masks(root, video, size):
    for folder in (root / "Testing", root / "testing"):
        path = folder / "test_pixel_mask" / f"{video.name}.npy"
        if path.is_file():
            masks = load_array(path, mmap=True)
            if masks.ndim != 3 or masks.shape[1:] != tuple(size):
                raise UserError(f"{path}: is {masks.shape}, the frames are {tuple(size)}")
            return masks
    raise UserError(f"{root}/testing/test_pixel_mask/{video.name}.npy: not there, so there are no pixel masks")


def _no_masks(root, video, size):
    raise UserError(f"{root}: labels.csv tells abnormal frames, not where in them: there are no pixel masks of {video.name}")


MASKS = {"ucsd": _ucsd_masks, "avenue": _avenue_masks, "shanghaitech": _shanghaitech_masks, "plain": _no_masks}
