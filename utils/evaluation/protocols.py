"""One set of frame scores, many figures: the evaluation protocols of the field (docs/EVALUATION.md)."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from utils import metrics
from utils.evaluation import bootstrap


class Frames(NamedTuple):
    """Frame scores of a mode before smoothing, in order of its videos."""

    scores: np.ndarray  # (F,)
    labels: np.ndarray  # (F,) bool
    names: list  # of the V videos
    counts: np.ndarray  # (V,) frames of each
    testing: np.ndarray  # (V,) bool: whether a video belongs to the testing set

    @property
    def video(self):
        """(F,) the video of each frame, from 0."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def split(self, values):
        """(F,) -> one array per video."""
        return np.split(np.asarray(values), np.cumsum(self.counts)[:-1])

    def map(self, function):
        """The same frames with scores changed video by video."""
        if not len(self.counts):
            return self
        return self._replace(scores=np.concatenate([function(part) for part in self.split(self.scores)]))

    def only(self, keep):
        """Those frames alone where keep (F,) is true, of the videos that have any."""
        counts = np.array([part.sum() for part in self.split(keep)])
        left = counts > 0
        return Frames(self.scores[keep], self.labels[keep], [name for name, stays in zip(self.names, left) if stays],
                      counts[left], self.testing[left])


def box_across(frames, size):
    """The official smoothing: a moving average over all videos in a row."""
    return frames._replace(scores=metrics.moving_average(frames.scores, size))


def box_within(frames, size):
    """The same moving average in each video by itself."""
    return frames.map(lambda scores: metrics.average_within(scores, size))


def hf2vad(frames):
    """HF2-VAD: a video's first 4 frames are left out, then a median over 17 frames, zeros beyond its ends."""
    first = np.concatenate([np.arange(count) >= 4 for count in frames.counts])
    return frames.only(first).map(lambda scores: median_filter(scores, 17, mode="constant"))


def ai_vad(frames):
    """AI-VAD: a Gaussian of 3 frames in each video."""
    return frames.map(lambda scores: gaussian_filter1d(scores, 3))


def stg_nf(frames):
    """STG-NF: Gaussians of 1, 2, ... 6 frames in each video, one after another."""
    def smooth(scores):
        for sigma in range(1, 7):
            scores = gaussian_filter1d(scores, sigma)
        return scores
    return frames.map(smooth)


def scaled(frames):
    """Each video's scores brought to 0..1; a video of equal scores to 0."""
    return frames.map(lambda scores: (scores - scores.min()) / (np.ptp(scores) or 1))


def empty_at_minimum(frames):
    """Frames without boxes at the lowest score of their video's other frames, in place of -20."""
    def fill(scores):
        empty = scores == metrics.NO_BOX
        return np.where(empty, scores[~empty].min(), scores) if 0 < empty.sum() < len(scores) else scores
    return frames.map(fill)


def testing_alone(frames):
    """The frames of the testing videos."""
    return frames.only(np.repeat(frames.testing, frames.counts))


def video_aurocs(frames, convention="none"):
    """AUROC of each video by itself, (V,), NaN where a video has none.

    convention: what is done for videos whose frames are all of one class. none: they have no AUROC; ssmtl: a normal frame
    of the lowest score (0 on a scale of 0..1) is put in front where a video has no normal one; sspcab: every video gets a
    normal frame of the lowest score in front and an abnormal one of the highest (0 and 1) behind; ai-vad: every video gets
    a normal frame of score 0 and an abnormal one of its own highest score.
    """
    low, high = frames.scores.min(), frames.scores.max()
    found = []
    for scores, labels in zip(frames.split(frames.scores), frames.split(frames.labels)):
        if convention == "ssmtl" and labels.all():
            scores, labels = np.append(low, scores), np.append(False, labels)
        elif convention == "sspcab":
            scores, labels = np.hstack([low, scores, high]), np.hstack([False, labels, True])
        elif convention == "ai-vad":
            scores, labels = np.hstack([0, scores, scores.max()]), np.hstack([False, labels, True])
        found.append(metrics.evaluate(scores, labels)["auroc"])
    return np.array(found, np.float64)


MACRO = {
    "none": "videos of one class left out",
    "ssmtl": "as SSMTL (padded where no frame is normal)",
    "sspcab": "as SSPCAB (padded: lowest, highest score)",
    "ai-vad": "as AI-VAD (padded: 0, own highest score)",
}


def variants(frames, window_size):
    """Name -> frames as a protocol wants them, the run's own (official) first."""
    found = {f"micro, average of {window_size} across videos" if window_size > 1 else "micro, no smoothing":
             box_across(frames, window_size)}
    found.setdefault("micro, no smoothing", frames)
    found.setdefault("micro, average of 10 across videos", box_across(frames, 10))
    if not frames.testing.all() and frames.testing.any():
        found["micro, this run's smoothing, testing frames alone"] = testing_alone(box_across(frames, window_size))
    found["micro, average of 10 within videos"] = box_within(frames, 10)
    found["micro, as HF2-VAD (4 frames out, median of 17)"] = hf2vad(frames)
    found["micro, as AI-VAD (Gaussian of 3)"] = ai_vad(frames)
    found["micro, as STG-NF (Gaussians of 1 to 6)"] = stg_nf(frames)
    found["micro, no smoothing, videos scaled to 0..1"] = scaled(frames)
    found["micro, average of 10 within, videos scaled to 0..1"] = scaled(box_within(frames, 10))
    if (frames.scores == metrics.NO_BOX).any():
        found["micro, no smoothing, empty frames at video's minimum"] = empty_at_minimum(frames)
    return found


def table(frames, window_size, times=bootstrap.TIMES):
    """The figures of all protocols: a list of dicts, the official row first and marked.

    Keys: name, official, auroc, eer, average_precision (0..1; None where a protocol has none), and low, high: the ends of
    the AUROC's 95% interval over videos, likewise eer_low, ...; videos: how many have an AUROC of their own (macro rows).
    Micro: all frames in one ROC curve; macro: the mean of the testing videos' own AUROC, with the run's smoothing.
    """
    rows = []
    for name, of_protocol in variants(frames, window_size).items():
        figures = metrics.evaluate(of_protocol.scores, of_protocol.labels)
        if figures["auroc"] is None:  # what a protocol leaves out can leave one class alone
            continue
        drawn = bootstrap.resamples(len(of_protocol.counts), times)
        resampled = bootstrap.resampled_figures(of_protocol.scores, of_protocol.labels, of_protocol.video, drawn)
        rows.append(_row(name, not rows, figures, resampled, len(of_protocol.counts)))
    smooth = box_across(frames, window_size)
    for convention, words in MACRO.items():
        found = video_aurocs(testing_alone(smooth) if frames.testing.any() else smooth, convention)
        found = found[np.isfinite(found)]
        if len(found):
            drawn = bootstrap.resamples(len(found), times)
            rows.append(_row(f"macro, {words}", False, {"auroc": float(found.mean())}, (drawn @ found / len(found))[:, None],
                             len(found)) | {"videos": len(found)})
    return rows


def _row(name, official, figures, resampled, videos):
    row = {"name": name, "official": official}
    for key, prefix, values in zip(("auroc", "eer", "average_precision"), ("", "eer_", "average_precision_"), resampled.T):
        row[key] = figures[key]
        row[f"{prefix}low"], row[f"{prefix}high"] = bootstrap.interval(figures[key], values, videos)
    return row


def of_dataset(dataset, scores, labels):
    """The Frames of a dataset's chosen videos. scores, labels: (F,) of their chosen frames."""
    counts, testing = np.array([[len(video.chosen), video.testing] for video in dataset.videos]).T
    return Frames(scores, labels, [video.name for video in dataset.videos], counts, testing.astype(bool))


def of_results(made, scores, labels):
    """The Frames that test.py scored; made: its metrics.json, scores and labels: its arrays (F,)."""
    names, _, counts = zip(*made["videos"])
    return Frames(scores, labels, list(names), np.array(counts), np.arange(len(counts)) >= made["training_videos"])


def figure(row, key, prefix=""):
    """"95.96% [93.13, 98.07]"."""
    return f"{row[key]:7.2%} [{100 * row[prefix + 'low']:6.2f}, {100 * row[prefix + 'high']:6.2f}]"


def lines(rows):
    """The table as text, the official row marked."""
    width = max(len(row["name"]) for row in rows) + 2
    shown = [f"{'':{width}}{'AUROC':25}{'EER':25}average precision   (95% intervals over videos)"]
    for row in rows:
        name = ("* " if row["official"] else "  ") + row["name"]
        parts = [figure(row, key, prefix) for key, prefix in
                 (("auroc", ""), ("eer", "eer_"), ("average_precision", "average_precision_")) if key in row]
        shown.append(f"{name:{width}}" + "".join(f"{part:25}" for part in parts).rstrip()
                     + (f"   {row['videos']} videos" if "videos" in row else ""))
    return [*shown, "* official: the protocol of this run's settings; docs/EVALUATION.md tells which paper uses which"]
