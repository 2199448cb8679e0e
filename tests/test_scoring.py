"""Frame scores and figures against the official system's numbers."""

import numpy as np
import pytest

from utils.metrics import evaluate, frame_scores, moving_average, official_results


@pytest.fixture(scope="module")
def data(golden):
    return np.load(golden("scoring.npz"))


def test_frame_scores(data):
    boxes = np.column_stack([data["frame_of_box"], data["boxes"]])
    scores = frame_scores(data["box_scores"], boxes, len(data["labels"]), (240, 360))
    np.testing.assert_allclose(scores, data["frame_scores"], atol=1e-6)


@pytest.mark.parametrize("window_size", [1, 5, 10])
def test_smoothing_and_figures(data, window_size):
    smooth = moving_average(data["frame_scores"], window_size)
    np.testing.assert_allclose(smooth, data[f"smooth_{window_size}"], atol=1e-6)
    auroc, eer, _, pr_auc_norm, pr_auc_anom = data[f"auc_{window_size}"]
    found = evaluate(smooth, data["labels"])
    assert found["auroc"] == pytest.approx(auroc, abs=1e-6)
    assert found["eer"] == pytest.approx(eer, abs=1e-6)
    official = official_results(smooth, data["labels"])
    assert official["pr_auc_norm"] == pytest.approx(pr_auc_norm, abs=1e-6)
    assert official["pr_auc_anom"] == pytest.approx(pr_auc_anom, abs=1e-6)


@pytest.mark.parametrize("length", [1, 4, 9, 10, 11, 25])
def test_moving_average_keeps_its_length(length):
    scores = np.random.default_rng(0).normal(size=length)
    padded = np.concatenate([np.zeros(5), scores, np.zeros(4)])
    wanted = [padded[i:i + 10].sum() / 10 for i in range(length)]
    np.testing.assert_allclose(moving_average(scores, 10), wanted, atol=1e-12)


def test_one_class_alone_has_no_figures():
    assert evaluate(np.arange(4.0), np.zeros(4, bool))["auroc"] is None
