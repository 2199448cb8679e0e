"""Protocols, intervals, regions and tracks against scikit-learn and cases worked out by hand."""

import re

import numpy as np
import pytest
from conftest import SUITE
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import metrics
from utils.evaluation import bootstrap, protocols, regions
from utils.evaluation.protocols import Frames

pytestmark = pytest.mark.numeric

# The example of docs/EVALUATION.md: three videos, the second all abnormal.
EXAMPLE = Frames(np.array([1, 2, 5, 4, 2, 0, 3, 3, 1, 2, 0, 4, 1, 3, 2.0]),
                 np.array([0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0], bool),
                 ["A", "B", "C"], np.array([6, 4, 5]), np.ones(3, bool))


def test_the_example_by_hand():
    rows = {row["name"]: row for row in protocols.table(EXAMPLE, 2, times=200)}
    wanted = {"micro, average of 2 across videos": 42 / 56, "micro, no smoothing": 41 / 56,
              "macro, videos of one class left out": (1 + 4 / 6) / 2,
              "macro, as SSMTL (padded where no frame is normal)": (1 + 1 + 4 / 6) / 3,
              "macro, as SSPCAB (padded: lowest, highest score)": (1 + 1 + 10 / 12) / 3,
              "macro, as AI-VAD (padded: 0, own highest score)": (1 + 1 + 9.5 / 12) / 3}
    for name, auroc in wanted.items():
        assert rows[name]["auroc"] == pytest.approx(auroc), name
        assert rows[name]["low"] <= rows[name]["auroc"] <= rows[name]["high"]
    assert [row["official"] for row in rows.values()] == [True] + [False] * (len(rows) - 1)
    assert list(rows)[0] == "micro, average of 2 across videos"
    page = (SUITE / "docs" / "EVALUATION.md").read_text(encoding="utf-8")
    for name, auroc in wanted.items():
        assert re.search(rf"\| {re.escape(name)} \|.*\| {auroc:.2%} \|", page), name


def test_smoothings():
    np.testing.assert_allclose(protocols.box_within(EXAMPLE, 2).scores,
                               [1, 1.5, 3.5, 4.5, 3, 1, 3, 3, 2, 1.5, 0, 2, 2.5, 2, 2.5])
    impulse = np.zeros(81)
    impulse[40] = 1
    one = Frames(impulse, np.zeros(81, bool), ["A"], np.array([81]), np.ones(1, bool))
    away = np.arange(81) - 40
    for function, variance in ((protocols.ai_vad, 9), (protocols.stg_nf, 1 + 4 + 9 + 16 + 25 + 36)):
        wanted = np.exp(-away ** 2 / (2 * variance))
        np.testing.assert_allclose(function(one).scores, wanted / wanted.sum(), atol=2e-4)
    long = one._replace(scores=np.arange(81.0))
    median = protocols.hf2vad(long)
    assert len(median.scores) == len(median.labels) == 77 and median.counts.tolist() == [77]
    np.testing.assert_array_equal(median.scores[8:-8], np.arange(12, 73))
    np.testing.assert_array_equal(median.scores[0], 4)  # of eight zeros and 4 .. 12
    scaled = protocols.scaled(EXAMPLE)
    assert [(part.min(), part.max()) for part in scaled.split(scaled.scores)] == [(0, 1)] * 3


def test_smoothing_within_videos_leaks_nothing():
    other = EXAMPLE._replace(scores=np.where(EXAMPLE.video == 1, -20, EXAMPLE.scores))
    for function in (lambda f: protocols.box_within(f, 10), protocols.ai_vad, protocols.stg_nf, protocols.scaled):
        np.testing.assert_array_equal(function(other).scores[other.video != 1], function(EXAMPLE).scores[other.video != 1])
    across = [protocols.box_across(frames, 10).scores[EXAMPLE.video == 2] for frames in (EXAMPLE, other)]
    assert (across[0] != across[1]).any()


def test_empty_frames_and_testing_frames():
    frames = EXAMPLE._replace(scores=EXAMPLE.scores.copy(), testing=np.array([False, True, True]))
    frames.scores[[0, 6]] = metrics.NO_BOX
    filled = protocols.empty_at_minimum(frames).scores
    assert filled[0] == 0 and filled[6] == 1 and (filled[1:6] == EXAMPLE.scores[1:6]).all()
    names = [row["name"] for row in protocols.table(frames, 10, times=10)]
    assert "micro, no smoothing, empty frames at video's minimum" in names
    assert "micro, this run's smoothing, testing frames alone" in names
    alone = protocols.testing_alone(frames)
    assert alone.names == ["B", "C"] and len(alone.scores) == 9


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40), st.integers(1, 4))
def test_resampling_every_video_once_gives_scikit_learns_figures(frames, videos):
    scores, labels = np.array([f[0] for f in frames], float), np.array([f[1] for f in frames])
    video = np.arange(len(frames)) % videos
    auroc, eer, average_precision = bootstrap.resampled_figures(scores, labels, video, np.ones((1, videos)))[0]
    wanted = metrics.evaluate(scores, labels)
    if wanted["auroc"] is None:
        assert np.isnan(auroc)
    else:
        assert auroc == pytest.approx(wanted["auroc"]) and average_precision == pytest.approx(wanted["average_precision"])
        twice = np.flatnonzero(np.isin(video, [0]))  # drawing a video twice is having its frames twice
        drawn = np.ones((1, videos))
        drawn[0, 0] = 2
        both = metrics.evaluate(np.append(scores, scores[twice]), np.append(labels, labels[twice]))
        assert bootstrap.resampled_figures(scores, labels, video, drawn)[0, 0] == pytest.approx(both["auroc"])


def test_long_curves_are_thinned_with_little_loss():
    rng = np.random.default_rng(0)
    labels = rng.random(30_000) < 0.3
    scores = rng.normal(size=30_000) + labels
    found = bootstrap.resampled_figures(scores, labels, np.zeros(30_000, int), np.ones((1, 1)))[0]
    np.testing.assert_allclose(found, list(metrics.evaluate(scores, labels).values()), atol=1e-3)


def detections(*rows):
    """(frame, x1, y1, x2, y2, score) -> boxes (N, 5), scores (N,)."""
    rows = np.array(rows, float).reshape(-1, 6)
    return rows[:, :5], rows[:, 5]


def truth(*rows):
    """(track, frame, x1, y1, x2, y2) -> Regions."""
    rows = np.array(rows, float)
    return regions.Regions(rows[:, 1:], rows[:, 0].astype(int))


SCENES = {
    # One region, met by the higher of two detections; the other is false: (0, 1) at 0.9, (0.5, 1) at 0.3.
    "found before a false one": (detections((0, 0, 0, 9, 9, 0.9), (1, 50, 50, 59, 59, 0.3)),
                                 truth((0, 0, 0, 0, 9, 9)), [2], 1.0, 1.0),
    # The false one comes first: (0.5, 0), then (0.5, 1): nothing until half a false positive per frame, all after it.
    "found after a false one": (detections((0, 0, 0, 9, 9, 0.3), (1, 50, 50, 59, 59, 0.9)),
                                truth((0, 0, 0, 0, 9, 9)), [2], 0.5, 0.5),
    # Two regions of one track of ten; one detection meets both at once, and a second hit is neither right nor wrong:
    # 2 of 10 regions, 1 of 1 track.
    "one detection, two regions": (detections((0, 0, 0, 9, 9, 0.9), (0, 1, 1, 9, 9, 0.8)),
                                   truth((0, 0, 0, 0, 4, 9), (0, 0, 5, 0, 9, 9), *((0, t, 0, 0, 4, 9) for t in range(1, 9))),
                                   [9], 0.2, 1.0),
    # IoU 10 / 100 = beta is a hit, 9 / 100 is not: a track of 11 regions needs 2 of them, one hit is not enough.
    "on the threshold": (detections((0, 0, 0, 0, 9, 0.9), (1, 0, 0, 0, 8, 0.8)),
                         truth(*((0, t, 0, 0, 9, 9) for t in range(11))), [11], 1 / 11, 0.0),
    # Three false positives in one frame of one, all at once with the hit: the straight line from (0, 0) to (3, 1), cut at 1.
    "more than one false positive per frame": (
        detections((0, 0, 0, 9, 9, 0.5), *((0, 50, 50 + 20 * k, 59, 59 + 20 * k, 0.5) for k in range(3))),
        truth((0, 0, 0, 0, 9, 9)), [1], 1 / 6, 1 / 6),
    "nothing detected": (detections(), truth((0, 0, 0, 0, 9, 9)), [1], 0.0, 0.0),
}


@pytest.mark.parametrize("name", SCENES)
def test_rbdc_and_tbdc_by_hand(name):
    (boxes, scores), regions_of, counts, rbdc, tbdc = SCENES[name]
    found = regions.evaluate(boxes, scores, regions_of, counts, times=20)
    assert found["rbdc"] == pytest.approx(rbdc) and found["tbdc"] == pytest.approx(tbdc)
    assert np.isnan(found["rbdc_low"])  # one video alone says nothing about others


def test_regions_of_two_videos_have_an_interval():
    boxes, scores = detections((0, 0, 0, 9, 9, 0.9), (1, 50, 50, 59, 59, 0.8))
    found = regions.evaluate(boxes, scores, truth((0, 0, 0, 0, 9, 9), (1, 1, 0, 0, 9, 9)), [1, 1], times=200)
    assert found["rbdc"] == 0.5 and found["rbdc_low"] < 0.01 and found["rbdc_high"] > 0.99  # two videos say little
    found = regions.evaluate(boxes, scores, truth(*((k, k, 50 * k, 50 * k, 50 * k + 9, 50 * k + 9) for k in range(2))), [1, 1])
    assert found["rbdc"] == 1 and found["rbdc_low"] > 0.99  # both videos agree


def test_regions_and_tracks_from_masks():
    masks = np.zeros((4, 20, 20), np.uint8)
    masks[0, 2:5, 2:5] = masks[1, 3:6, 3:6] = masks[3, 3:6, 3:6] = 255  # gone in frame 2: another track afterwards
    masks[1, 15:18, 15:18] = 1
    found = regions.from_masks(masks, first=100)
    assert found.boxes.tolist() == [[100, 2, 2, 4, 4], [101, 3, 3, 5, 5], [101, 15, 15, 17, 17], [103, 3, 3, 5, 5]]
    assert found.track.tolist() == [0, 0, 1, 2]
    both = regions.joined([found, regions.from_masks(masks[:1], first=104)])
    assert both.track.tolist() == [0, 0, 1, 2, 3]


def test_the_interval_covers_the_truth():
    """36 videos: of nominal 95% intervals, 90 to 99% hold the AUROC of endlessly many videos."""
    from benchmarks.coverage import coverage

    assert 0.90 <= coverage(videos=36, trials=200, times=300)["interval"]["covered"] <= 0.99
