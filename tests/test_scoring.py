"""Frame scores and figures against the official system's numbers."""

import numpy as np
import pytest

from utils.metrics import evaluate, frame_scores, moving_average, normalise, official_results

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def data(golden):
    return np.load(golden("scoring.npz"))


def test_frame_scores(data):
    boxes = np.column_stack([data["frame_of_box"], data["boxes"]])
    scores = frame_scores(data["box_scores"], boxes, len(data["labels"]), (240, 360))
    np.testing.assert_array_equal(scores, data["frame_scores"])


@pytest.mark.parametrize("window_size", [1, 5, 10])
def test_smoothing_and_figures(data, window_size):
    """All in float64, on both sides; a sum of 10 scores may come in any order."""
    smooth = moving_average(data["frame_scores"], window_size)
    np.testing.assert_allclose(smooth, data[f"smooth_{window_size}"], rtol=0, atol=1e-13)
    auroc, eer, _, pr_auc_norm, pr_auc_anom = data[f"auc_{window_size}"]
    found, official = evaluate(smooth, data["labels"]), official_results(smooth, data["labels"])
    figures = [found["auroc"], found["eer"], official["pr_auc_norm"], official["pr_auc_anom"]]
    np.testing.assert_allclose(figures, [auroc, eer, pr_auc_norm, pr_auc_anom], rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 4, 9, 10, 11, 25])
def test_moving_average_keeps_its_length(length):
    scores = np.random.default_rng(0).normal(size=length)
    padded = np.concatenate([np.zeros(5), scores, np.zeros(4)])
    wanted = [padded[i:i + 10].sum() / 10 for i in range(length)]
    np.testing.assert_allclose(moving_average(scores, 10), wanted, atol=1e-12)


def test_one_class_alone_has_no_figures():
    assert evaluate(np.arange(4.0), np.zeros(4, bool))["auroc"] is None


def test_one_class_alone_has_every_figure_as_none():
    for labels in (np.zeros(4, int), np.ones(4, int)):
        assert evaluate(np.arange(4.0), labels) == {"auroc": None, "eer": None, "average_precision": None, "pr_auc": None}


def test_figures_of_ties_and_constant_scores_by_hand():
    labels = np.array([0, 0, 1, 1])
    for official, eer in ((True, 0), (False, 0.5)):  # the official code takes the first of equally near thresholds
        found = evaluate(np.full(4, 0.7), labels, official)
        assert (found["auroc"], found["eer"], found["average_precision"]) == (0.5, eer, 0.5)
    # thresholds 3, 2, 1, 0: precision 1, 1/2, 2/3, 1/2 at recall 1/2, 1/2, 1, 1; the curve starts at precision 1
    found = evaluate(np.array([0, 2, 1, 3.0]), labels, official=False)
    assert found["auroc"] == 0.75 and found["eer"] == 0.5 and found["average_precision"] == pytest.approx(1 / 2 + 1 / 3)
    assert found["pr_auc"] == pytest.approx((1 + 1) / 4 + (1 / 2 + 2 / 3) / 4)
    # on a straight piece of the curve scikit-learn drops the point where the rates meet
    steps, labels = np.array([5, 4, 4, 3, 3, 2, 2, 1.0]), np.array([1, 1, 0, 1, 0, 1, 0, 0])
    assert evaluate(steps, labels, official=False)["eer"] == 0.375 != evaluate(steps, labels)["eer"]


def test_official_results_by_name_with_normal_frames_first():
    scores, labels = np.array([0.5, 3.0, 1.0, 2.0, 0.0]), [0, 1, 0, 1, 1]  # numbers, as in the official files
    found = official_results(scores, labels)
    assert found["preds"].tolist() == [0.5, 1, 3, 2, 0] and found["truth"].tolist() == [0, 0, 1, 1, 1]
    assert found["roc_auc"] == pytest.approx(4 / 6) == evaluate(scores, labels)["auroc"]
    assert found["fpr"][[0, -1]].tolist() == found["tpr"][[0, -1]].tolist() == [0, 1]
    np.testing.assert_array_equal(found["roc_thresholds"][-1:], [0])
    for name, best in (("norm", 3), ("anom", 0)):  # the surest frame first: abnormal ones by high scores, normal by low
        assert found[f"pr_thresholds_{name}"][-1] == best
        assert found[f"pr_thresholds_{name}"][0] == (0 if name == "norm" else -3)
        assert found[f"precision_{name}"][-1] == 1 and found[f"recall_{name}"][0] == 1


def test_normalised_scores():
    losses = np.array([[1.0, 4.0], [3.0, 4.0]])
    assert normalise(losses, losses.mean(axis=0), losses.std(axis=0)).tolist() == [[-1, 0], [1, 0]]  # a std of 0 counts as 1
    assert normalise(np.array([7.0]), 5, 0).tolist() == [2] and normalise(np.array([7.0]), 5, 0.5).tolist() == [4]


def test_types_and_windows_of_one_frame_stay():
    boxes = np.array([[0, 1, 1, 9, 9]], np.float32)
    assert frame_scores(np.float32([2]), boxes, 2, (20, 20)).dtype == np.float32
    scores = np.arange(5)
    assert moving_average(scores, 1) is scores and moving_average(np.empty(0), 3).shape == (0,)
    assert moving_average(scores, 2).tolist() == [0, 0.5, 1.5, 2.5, 3.5]
