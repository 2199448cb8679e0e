"""Protocols, intervals, regions and tracks against scikit-learn and cases worked out by hand."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from conftest import SUITE
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from utils import metrics
from utils.evaluation import alignment, bootstrap, protocols, regions
from utils.evaluation.inputs import Frames

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
              "macro, as UBnormal (no smoothing)": (1 + 1 + 9 / 12) / 3}
    for name, auroc in wanted.items():
        assert rows[name]["auroc"] == pytest.approx(auroc), name
        assert rows[name]["low"] <= rows[name]["auroc"] <= rows[name]["high"]
    assert [row["official"] for row in rows.values()] == [True] + [False] * (len(rows) - 1)
    assert list(rows)[0] == "micro, average of 2 across videos"
    page = (SUITE / "docs" / "EVALUATION.md").read_text(encoding="utf-8")
    for name, auroc in wanted.items():
        assert re.search(rf"\| {re.escape(name)} \|.*\| {auroc:.2%} \|", page), name


# ---- a second implementation of every protocol, from the formulas: no filter functions, exact sums ----

def smooth(kind, scores, *numbers):
    """One video's scores, smoothed frame by frame."""
    n = len(scores)
    if kind == "within":  # frames i - size // 2 ... i + (size - 1) // 2, as far as they are there
        parts = [scores[max(0, i - numbers[0] // 2):i + (numbers[0] - 1) // 2 + 1] for i in range(n)]
        return [float(sum(map(Fraction, part)) / len(part)) for part in parts]
    if kind == "median":  # zeros beyond the ends
        half = numbers[0] // 2
        padded = [0.0] * half + list(scores) + [0.0] * half
        return [sorted(padded[i:i + numbers[0]])[half] for i in range(n)]
    if kind == "gaussian":  # mirrored, 4 sigma to either side, weights that add up to 1
        for sigma in numbers:
            away = range(-(4 * sigma), 4 * sigma + 1)
            weights = [math.exp(-k * k / (2 * sigma * sigma)) for k in away]
            mirrored = [[scores[(i + k) % (2 * n) if (i + k) % (2 * n) < n else 2 * n - 1 - (i + k) % (2 * n)] for k in away]
                        for i in range(n)]
            scores = [math.fsum(w * s for w, s in zip(weights, row)) / math.fsum(weights) for row in mirrored]
        return scores
    size, sigma, beyond = numbers  # off centre: the middle weight lies on the frame before
    weights = [math.exp(-(k - size // 2 + 1) ** 2 / (2 * sigma ** 2)) / (sigma * math.sqrt(2 * math.pi)) for k in range(size)]
    half = size // 2
    if beyond == "zeros":
        return [math.fsum(weights[j - i + half] * scores[j] for j in range(n) if 0 <= j - i + half < size) for i in range(n)]
    padded = [*(scores[i % n] for i in range(half)), *scores, *[scores[n - 1 - i % n] for i in range(half)][::-1]]
    return [math.fsum(w * s for w, s in zip(weights, padded[i:i + size])) for i in range(n)]


def to_one(scores):
    low, high = min(scores), max(scores)
    return [(s - low) / (high - low) if high > low else 0.0 for s in scores]


def rank(scores, labels):
    """AUROC: abnormal frames above normal ones, ties half; None for one class."""
    normal, abnormal = ([s for s, bad in zip(scores, labels) if bad == kind] for kind in (0, 1))
    pairs = [1 if b > a else 0.5 if b == a else 0 for a in normal for b in abnormal]
    return sum(pairs) / len(pairs) if pairs else None


def curve_figures(scores, labels):
    """EER over all thresholds, average precision, and trapezoids under precision and recall."""
    bad, good = sum(labels), len(labels) - sum(labels)
    hits, alarms = [[sum(s >= t and kind == label for s, label in zip(scores, labels)) for t in sorted(set(scores))[::-1]]
                    for kind in (1, 0)]
    gaps = [(abs(a * bad - (bad - h) * good), a / good) for h, a in zip([0, *hits], [0, *alarms])]  # in whole numbers
    least = min(gaps)[0]
    nearest = [fpr for gap, fpr in gaps if gap == least]
    precision = [1, *(h / (h + a) for h, a in zip(hits, alarms))]
    recall = [0, *(h / bad for h in hits)]
    steps = [b - a for a, b in zip(recall, recall[1:])]
    return (sum(nearest) / len(nearest), sum(d * p for d, p in zip(steps, precision[1:])),
            sum(d * (p + q) / 2 for d, p, q in zip(steps, precision, precision[1:])))


def by_formula(protocol, videos, testing, window, zero):
    """{"micro": (AUROC, EER, AP, PR-AUC), "macro": AUROC} of videos, a list of (scores, labels), without library functions.

    testing: of each video, whether it belongs to the testing set.
    """
    every = [s for scores, _ in videos for s in scores]
    others = [s for s in every if s != -20]
    if others and protocol.empty != "kept":
        lowest = None if protocol.empty == "video" else zero if protocol.empty == "zero" and zero is not None else min(others)
        videos = [([s if s != -20 else min([t for t in scores if t != -20], default=-20) if lowest is None else lowest
                    for s in scores], labels) for scores, labels in videos]
    videos = [(scores[protocol.left_out:], labels[protocol.left_out:]) for scores, labels in videos]
    testing = [test for test, video in zip(testing, videos) if video[0]]
    videos = [video for video in videos if video[0]]

    def rescaled(way):
        together = [s for scores, _ in videos for s in scores]
        if way == "video":
            return [(to_one(scores), labels) for scores, labels in videos]
        if way == "all" and together and not all(0 <= s <= 1 for s in together):
            low, high = min(together), max(together)
            return [([(s - low) / (high - low) if high > low else 0.0 for s in scores], labels) for scores, labels in videos]
        return videos

    videos = rescaled(protocol.scale)
    kind, *numbers = protocol.smoothing
    if kind == "across":  # the official formula: all videos in a row, zeros beyond
        size, row = numbers[0] or window, np.array([s for scores, _ in videos for s in scores])
        if size > 1 and len(row):
            row = np.convolve(row, np.ones(size) / size)[(size - 1) // 2:][:len(row)]
        ends = np.cumsum([len(scores) for scores, _ in videos])
        videos = [(list(part), labels) for part, (_, labels) in zip(np.split(row, ends[:-1]), videos)]
    else:
        constant = {v for v, (scores, _) in enumerate(videos)
                    if len(set(scores)) == 1 and (kind == "gaussian" or not scores[0])}
        videos = [(smooth(kind, scores, *numbers), labels) for scores, labels in videos]
    videos = rescaled(protocol.rescale)
    videos = [([s for s, label in zip(*video) if label >= 0], [label for label in video[1] if label >= 0]) for video in videos]
    alone = [video for video, test in zip(videos, testing) if test and video[0]] or videos
    together = [[x for video in (alone if protocol.testing else videos) for x in video[part]] for part in (0, 1)]
    found = {}
    if kind in ("gaussian", "off centre"):  # frames that only the last bit of a sum tells apart have no order
        ordered = sorted((s, str(v) if v in constant else f"{v} {i}" if 0 < s < 1 or not protocol.rescale else f"{s}")
                         for v, (scores, _) in enumerate(videos) for i, s in enumerate(scores))
        if any(b - a <= 1e-12 * abs(b) and one != other for (a, one), (b, other) in zip(ordered, ordered[1:])):
            return {}
    if protocol.micro and 0 < sum(together[1]) < len(together[1]):
        found["micro"] = (rank(*together), *curve_figures(*together))
    if protocol.pads is not None:
        front = [len(protocol.pads) == 2 or len(protocol.pads) == 1 and all(labels) for _, labels in alone]
        aurocs = [rank([protocol.pads[0], *scores, *protocol.pads[1:]], [0, *labels, *[1 for _ in protocol.pads[1:]]])
                  if padded and labels else rank(scores, labels) for padded, (scores, labels) in zip(front, alone)]
        aurocs = [auroc for auroc in aurocs if auroc is not None]
        found |= {"macro": sum(aurocs) / len(aurocs)} if aurocs else {}
    return found


KINDS = {"anything": st.floats(-5, 5, allow_subnormal=False).map(lambda x: round(x, 6)), "ties": st.integers(-3, 3).map(float),
         "two values": st.sampled_from([0.3, 0.7]), "constant": st.just(0.7), "huge": st.floats(-1e12, 1e12).map(round),
         "shares": st.integers(0, 1000).map(lambda x: x / 1000)}


@st.composite
def scored_videos(draw):
    """One to three videos: smooth or spiky, with ties, constant, of one class, short, with empty and left-out frames."""
    values = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    videos = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 24))
        scores = draw(st.lists(values, min_size=count, max_size=count))
        for _ in range(draw(st.integers(0, 2))):
            scores[draw(st.integers(0, count - 1))] = -20.0
        some = draw(st.sampled_from([[0, 1], [0, 1], [0], [1], [0, 1, -1]]))
        start, stop = sorted(draw(st.lists(st.integers(0, count), min_size=2, max_size=2)))
        labels = [some[-1] if start <= i < stop else some[0] for i in range(count)]
        videos.append((scores, [1 if some[-1] == -1 and i % 3 == 0 else label for i, label in enumerate(labels)]))
    return videos


@settings(max_examples=260, suppress_health_check=list(HealthCheck))
@given(scored_videos(), st.sampled_from([(False, True, True), (False, True, False), (True, False, True), (True, True, True)]),
       st.sampled_from([1, 10, 3]), st.sampled_from([None, -6.5]))
def test_every_protocol_is_its_formula(videos, testing, window, zero):
    testing = testing[:len(videos)]
    labels = np.array([label for _, video in videos for label in video])
    assume({0, 1} <= set(labels))
    frames = Frames(np.array([s for scores, _ in videos for s in scores]), labels, [str(v) for v in range(len(videos))],
                    np.array([len(scores) for scores, _ in videos]), np.array(testing), zero)
    rows = {row["name"]: row for row in protocols.table(frames, window, times=2)}
    seen = set()
    for protocol in protocols.of_run(frames, window):
        for kind, wanted in by_formula(protocol, videos, testing, window, zero).items():
            name = f"{kind}, {protocol.name}"
            row = rows[name]
            seen.add(name)
            if kind == "macro":
                assert row["auroc"] == pytest.approx(wanted, abs=1e-9), name
                continue
            found = [row[key] for key in ("auroc", "eer", "average_precision", "pr_auc")]
            if row["official"]:  # whose EER is the official code's, see test_scoring.py
                found[1] = wanted[1]
            assert found == pytest.approx(list(wanted), abs=1e-9), name
    assert seen >= {name for name in rows if not re.search("AED|Jigsaw|Gaussian", name)}


def test_equal_frames_keep_equal_scores():
    """The average within videos neither breaks ties nor makes some; a constant video stays constant, and is 0 once scaled."""
    for value in (0.7, -20.0, 1e9 / 3, 1e-9):
        for count in (1, 4, 9, 10, 57):
            assert (metrics.average_within(np.full(count, value), 10) == value).all()
            assert (protocols.scaled(metrics.average_within(np.full(count, value), 10)) == 0).all()
    wide = metrics.average_within(np.array([1e308, 1e308, 1e-308, -1e308]), 2)
    assert wide.tolist() == [1e308, 1e308, 5e307, -5e307]  # each with the frame before it
    rng = np.random.default_rng(0)
    scores = np.where(rng.random(400) < 0.5, 0.3, 0.7)
    found = metrics.average_within(scores, 10)
    inner = np.convolve(scores == 0.7, np.ones(10, int))[9:-9]  # how many of a window are high
    assert all(len(set(found[5:-4][inner == count])) == 1 for count in set(inner))
    constant = EXAMPLE._replace(scores=np.full(15, 0.7))
    for row in protocols.table(constant, 1, times=2):
        if not re.search("AED|average of 10 across|macro, as", row["name"]):  # where zeros beyond the ends or pads count
            assert row["auroc"] == 0.5 and row.get("eer", 0.5) == (0 if row["official"] else 0.5), row["name"]


def test_the_page_has_every_protocol():
    """docs/EVALUATION.md's table is that of the code: paste what this test prints."""
    page = (SUITE / "docs" / "EVALUATION.md").read_text(encoding="utf-8")
    wanted = [described(protocol) for protocol in protocols.PROTOCOLS]
    print("\n".join(wanted))
    there = [line for line in page.splitlines() if line.count(" | ") == wanted[0].count(" | ")]
    assert there[1:] == wanted  # after its head


def described(protocol):
    """A line of the table in words."""
    ways = {"": "", "video": "each video to 0..1", "all": "all to 0..1, unless they lie there"}
    kind, *numbers = protocol.smoothing
    smoothing = {"across": lambda size: {None: "the run's", 1: "none"}.get(size, f"average of {size} across videos"),
                 "within": lambda size: f"average of {size} in each video",
                 "median": lambda size: f"median of {size} in each video, zeros beyond",
                 "gaussian": lambda *s: f"Gaussian of {', '.join(map(str, s))} frames in each video, mirrored beyond",
                 "off centre": lambda size, sigma, beyond: f"Gaussian of {sigma} frames in each video, {size} weights "
                 f"around the frame before, {'zeros' if beyond == 'zeros' else 'its end once more'} beyond"}[kind](*numbers)
    empty = {"kept": "-20", "zero": "error of 0", "all": "lowest of all", "video": "lowest of the video"}[protocol.empty]
    pads = {None: "", (): "none", (0,): "0 in front where no frame is normal"}.get(protocol.pads, f"0 in front, "
            f"{'the largest number' if protocol.pads and protocol.pads[-1] > 10**9 else (protocol.pads or [''])[-1]} behind")
    scaling = ", ".join(filter(None, [ways[protocol.scale], protocol.rescale and f"{ways[protocol.rescale]} after smoothing"]))
    figure = " and ".join(word for word, there in (("micro", protocol.micro), ("macro", protocol.pads is not None)) if there)
    left_out = f"first {protocol.left_out} frames out; " if protocol.left_out else ""
    cells = [protocol.name, figure, protocol.used_by, left_out + smoothing, scaling, empty, pads, protocol.source]
    return "| " + " | ".join(cells) + " |"


def test_smoothing_within_videos_leaks_nothing():
    other = EXAMPLE._replace(scores=np.where(EXAMPLE.video == 1, -3, EXAMPLE.scores))
    for protocol in protocols.PROTOCOLS:
        a, b = (protocols.applied(protocol, frames, 10) for frames in (other, EXAMPLE))
        same = (a.scores[a.video != 1] == b.scores[b.video != 1]).all()
        assert same == (protocol.smoothing[0] != "across" or protocol.smoothing[1] == 1) or "all" in protocol, protocol.name


def test_empty_frames_and_testing_frames():
    frames = EXAMPLE._replace(scores=EXAMPLE.scores.copy(), testing=np.array([False, True, True]), zero=-1.5)
    frames.scores[[0, 6]] = metrics.NO_BOX
    ways = {protocol.empty: protocol for protocol in protocols.PROTOCOLS}
    for way, wanted in (("video", [0, 1]), ("all", [0, 0]), ("zero", [-1.5, -1.5]), ("kept", [-20, -20])):
        plain = ways[way]._replace(left_out=0, scale="", smoothing=("across", 1), rescale="")
        filled = protocols.applied(plain, frames, 1).scores
        assert filled[[0, 6]].tolist() == wanted and (filled[1:6] == EXAMPLE.scores[1:6]).all()
    plain = ways["zero"]._replace(left_out=0, scale="", smoothing=("across", 1))
    assert protocols.applied(plain, frames._replace(zero=None), 1).scores[[0, 6]].tolist() == [0, 0]  # not known: the lowest
    names = [row["name"] for row in protocols.table(frames, 10, times=10)]
    assert "micro, no smoothing, empty frames at video's minimum" in names
    assert "micro, this run's smoothing, testing frames alone" in names
    alone = protocols.testing_alone(frames)
    assert alone.names == ["B", "C"] and len(alone.scores) == 9


def test_scores_that_do_not_fit_their_labels_are_told():
    rng = np.random.default_rng(0)
    labels = np.zeros((6, 80), bool)
    for v in range(6):
        labels[v, 20 + 4 * v:50 + 3 * v] = True
    scores = labels + rng.normal(0, 0.3, labels.shape)
    def hints(scores, labels=labels):
        return alignment.hints(Frames(scores.ravel(), labels.ravel(), list("abcdef"), np.full(6, 80), np.ones(6, bool)))
    assert hints(scores) == [] == hints(rng.normal(size=labels.shape))
    assert "reversed these scores have an AUROC of 9" in hints(-scores)[0]
    for shift, word in ((12, "12 frames earlier"), (-7, "7 frames later")):
        assert f"shifted {word} in each video" in hints(np.roll(scores, shift, axis=1))[0]
    unknown = np.where(np.arange(80) < 10, -1, labels)
    assert "frames earlier" in hints(np.roll(scores, 12, axis=1), unknown)[0] and hints(scores, unknown) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40), st.integers(1, 4))
def test_resampling_every_video_once_gives_scikit_learns_figures(frames, videos):
    scores, labels = np.array([f[0] for f in frames], float), np.array([f[1] for f in frames])
    video = np.arange(len(frames)) % videos
    auroc, eer, average_precision = bootstrap.resampled_figures(scores, labels, video, np.ones((1, videos)))[0]
    wanted = metrics.evaluate(scores, labels, official=False)
    if wanted["auroc"] is None:
        assert np.isnan(auroc)
    else:
        assert eer == pytest.approx(wanted["eer"])
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
    np.testing.assert_allclose(found, list(metrics.evaluate(scores, labels, official=False).values())[:3], atol=1e-3)
    rare = np.arange(200_000) % 2_000 == 7
    scores = rng.normal(size=200_000) + 3 * rare
    found = bootstrap.resampled_figures(scores, rare, np.zeros(200_000, int), np.ones((1, 1)))[0]
    assert found[2] == pytest.approx(metrics.evaluate(scores, rare)["average_precision"], abs=1e-9)  # 100 abnormal frames


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
    found = regions.joined([regions.from_masks(masks)], [100])
    assert found.boxes.tolist() == [[100, 2, 2, 4, 4], [101, 3, 3, 5, 5], [101, 15, 15, 17, 17], [103, 3, 3, 5, 5]]
    assert found.track.tolist() == [0, 0, 1, 2]
    both = regions.joined([regions.from_masks(masks), regions.from_masks(masks[:1])], [100, 104])
    assert both.track.tolist() == [0, 0, 1, 2, 3] and both.boxes[-1].tolist() == [104, 2, 2, 4, 4]


def test_the_interval_covers_the_truth():
    """36 videos: of nominal 95% intervals, 90 to 99% hold the AUROC of endlessly many videos."""
    from benchmarks.coverage import coverage

    assert 0.90 <= coverage(videos=36, trials=200, times=300)["interval"]["covered"] <= 0.99
