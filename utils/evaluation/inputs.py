"""Frame scores and their labels, from this suite's runs or from other people's files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import files, record, text
from utils.errors import UserError

FORMS = (".npy", ".txt", ".csv")
MOST = 1 << 30  # bytes of an archive once it is unpacked


class Frames(NamedTuple):
    """Frame scores of a mode before smoothing, in video order."""

    scores: np.ndarray  # (F,) float64
    labels: np.ndarray  # (F,) bool, or int with -1 for frames that are smoothed but not evaluated
    names: list  # of the V videos
    counts: np.ndarray  # (V,) frames of each
    testing: np.ndarray  # (V,) bool: whether a video belongs to the testing set
    zero: float = None  # score of a box that is reconstructed without error, if known

    @property
    def video(self):
        """(F,) the video of each frame, from 0."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def split(self, values):
        """(F,) -> one array per video."""
        return np.split(np.asarray(values), np.cumsum(self.counts)[:-1])

    def map(self, function, *rest):
        """The same frames with the function applied to the scores of each video."""
        if not len(self.counts):
            return self
        return self._replace(scores=np.concatenate([function(part, *rest) for part in self.split(self.scores)]))

    def only(self, keep):
        """Only the frames where keep (F,) is true, and the videos that have any."""
        counts = np.bincount(self.video[keep], minlength=len(self.counts))
        left = counts > 0
        return self._replace(scores=self.scores[keep], labels=self.labels[keep], counts=counts[left],
                             names=[name for name, stays in zip(self.names, left) if stays], testing=self.testing[left])


def of_dataset(dataset, scores, labels, zero=None):
    """The Frames of a dataset's chosen videos. scores, labels: (F,) of their chosen frames; zero: see Frames."""
    counts, testing = np.array([[len(video.chosen), video.testing] for video in dataset.videos]).T
    return Frames(np.asarray(scores, np.float64), labels, [video.name for video in dataset.videos], counts,
                  testing.astype(bool), zero)


def of_results(results):
    """The Frames that test.py scored, and its window size; results: its folder. Raises UserError if they have changed since,
    or have no labels.
    """
    record.require(results / "test.json", "test")
    made = files.load_json(results / "metrics.json")
    if made["auroc"] is None:
        raise UserError(f"{results}: the labels do not have both classes ({made['labels']}), so there are no figures")
    scores, labels = (files.load_array(results / name) for name in ("frame_scores.npy", "labels.npy"))
    names, _, counts = zip(*made["videos"])
    testing = np.arange(len(counts)) >= made["training_videos"]
    return Frames(np.asarray(scores, np.float64), labels, list(names), np.array(counts), testing,
                  made.get("zero_score")), made["settings"]["window_size"]


def vector(source, path, what="score", each="frame"):
    """(n,) float64 from a .npy or text file, or an array in `path`. Raises UserError unless it is one number per `each`."""
    array, path = (source, path) if isinstance(source, np.ndarray) else (None, source)
    if array is None and (path.suffix == ".npy" or not path.is_file()):
        array = files.load_array(path)
    if array is None:
        rows = [cells for _, cells in text.rows(path)]
        try:
            array = np.array(rows[0] if len(rows) == 1 else [cell for (cell,) in rows], np.float64)
        except ValueError as error:
            raise UserError(f"{path}: not a column of numbers: must have one {what} per line, without a header, for all "
                            f"frames in order ({error})") from None
    numbers = array.ravel().astype(np.float64) if array.dtype.kind in "buif" else np.array([np.nan])
    if max(array.shape, default=1) != array.size or not (np.abs(numbers) < 1e30).all():  # larger sums overflow
        raise UserError(f"{path}: must have one finite {what} per {each}, has shape {array.shape} and type {array.dtype} "
                        "(numbers must be below 1e30)")
    return numbers


def listed(path):
    """{video: its file or array} from a folder or .npz archive, by name; {None: the file} for one array of all frames."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in FORMS and not file.name.startswith("."))
        if len({file.stem for file in found}) < len(found):
            raise UserError(f"{path}: two files for the same video: {', '.join(file.name for file in found)}")
        return {file.stem: file for file in found}
    if path.suffix != ".npz":
        return {None: path}
    try:
        with np.load(path, allow_pickle=False) as archive:
            if sum(info.file_size for info in archive.zip.infolist()) > MOST:  # a few bytes may stand for many
                raise ValueError(f"its arrays come to more than {MOST >> 30} GiB")
            return {name: archive[name] for name in sorted(archive)}
    except Exception as error:  # damaged archives raise many different types
        raise UserError(f"{path}: not a whole .npz file of plain arrays ({error})") from None


def labelled(path, lengths, named):
    """The Frames that labels without a dataset describe, with scores 0. Raises UserError if they are incomplete.

    path: see `listed`; lengths: if it is one array, the frames of each video as comma-separated numbers or a file of them;
    named: names from elsewhere for such videos, used if there are as many.
    """
    found = listed(path)
    labels = [vector(source, path, "label") for source in found.values()]
    counts, names, labels = np.array([len(part) for part in labels]), list(found), np.concatenate([*labels, []])
    if not {0, 1} <= set(labels) <= {-1, 0, 1}:
        raise UserError(f"{path}: must have 0 (normal) and 1 (abnormal), or -1 (ignored), has {np.unique(labels)[:9]}")
    if None in found:
        if not lengths:
            raise UserError(f"{path}: is one array of all frames: add the videos' --lengths 180,150,120 or a file of them")
        file = Path(lengths)
        try:
            counts = vector(file, file, "length") if file.is_file() else np.array(lengths.split(","), np.float64)
        except ValueError:
            counts = np.array([0.5])
        if (counts < 1).any() or (counts % 1).any() or counts.sum() != len(labels):
            raise UserError(f"--lengths {lengths}: must be each video's number of frames, {len(labels):,} in all, as "
                            "comma-separated numbers or a file of them")
        names = list(named) if len(named) == len(counts) else [str(number) for number in range(1, len(counts) + 1)]
    counts = counts.astype(np.int64)
    return Frames(np.zeros(len(labels)), labels.astype(np.int8), names, counts, np.ones(len(counts), bool))


def chosen(names, some, of):
    """(V,) bool: which videos have one of these names; all for None. Raises UserError if `of` has no such video."""
    if unknown := set(some or ()) - set(names):
        raise UserError(f"--videos: {of} has no video {min(unknown)}; it has {', '.join(names[:9])} (of {len(names)})")
    return np.isin(names, some or names)


def scored(frames, path, of, repeat=1, some=None):
    """The frames with a method's scores, or only those of some videos (names).

    path: see `listed`; of: where the frames come from, for messages; repeat: frames per score; a video's last score covers
    the rest. Raises UserError if scores are missing or do not fit the frames.
    """
    found, counts, keep = listed(path), frames.counts, chosen(frames.names, some, of)
    if None in found:
        whole = vector(path, path)
        clips = next((n for n in (-(-counts // repeat), counts // repeat) if n.sum() == len(whole)), None)
        if clips is None:
            raise UserError(f"{path}: has {len(whole):,} scores, {of} has {counts.sum():,} frames"
                            + f", {-(-counts // repeat).sum():,} clips" * (repeat > 1))
        parts = np.split(whole, np.cumsum(clips)[:-1])
    elif len(set(frames.names)) < len(frames.names):
        raise UserError(f"{path}: {of} has two videos with the same name: give the scores as one array of all frames")
    else:
        parts = [found.get(name) for name in frames.names]
        if more := sorted(found.keys() - set(frames.names)):
            print(f"note: {path}: ignored {len(more)} videos that {of} does not have, such as {more[0]}")
    scores = [spread(part, path, name, count, repeat) for part, name, count, stays in zip(parts, frames.names, counts, keep)
              if stays]
    return frames.only(np.repeat(keep, counts))._replace(scores=np.concatenate(scores))


def spread(part, path, name, count, repeat):
    """(count,) scores of a video's frames, from those of its clips: an array, a file, or None if there are none."""
    if part is None:
        raise UserError(f"{path}: no scores of video {name} (looked for {name}{', '.join(FORMS)}); --videos selects some")
    part = vector(part, path)
    if not len(part) or len(part) not in (count // repeat, -(-count // repeat)):
        raise UserError(f"{path}: has {len(part):,} scores, video {name} has {count:,} frames")
    return np.repeat(part, repeat)[np.minimum(np.arange(count), len(part) * repeat - 1)]
