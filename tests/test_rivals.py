"""Other flow methods and detectors, with random weights in files, end to end to cubes; comparing what two methods gave."""

import cv2
import numpy as np
import pytest
import torch
from conftest import run_script
from trees import ucsd_tree

from FlowNet2_src.methods import METHODS

NAME = ["--dataset_name", "UCSDped2"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ucsd_tree(tmp_path, frames=8)
    return tmp_path


def test_a_torchvision_detector(tree):
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None)
    torch.save(model.state_dict(), "ssdlite.pth")
    run_script("calc_optical_flow.py", *NAME, "--flow_method", "dis")
    words = ["--detector", "torchvision:ssdlite320_mobilenet_v3_large", "--detector_weights", "ssdlite.pth"]
    words += ["--score_thr", "0.01"]
    run_script("extract_bbox.py", *NAME, *words)
    run_script("extract_stc.py", *NAME)
    boxes = np.load("data/UCSDped2/test/bboxes.npy")
    assert len(np.load("data/UCSDped2/test/stc_raw.npy")) == len(boxes) > 16
    run_script("extract_bbox.py", *NAME, "--detector", "none", "--data_root_dir", "moving")
    done = run_script("tools.compare", "boxes", "data/UCSDped2/test/bboxes.npy", "moving/UCSDped2/test/bboxes.npy", *NAME)
    assert f"{len(boxes):,} and " in done.stdout and (tree / "results/compare/boxes.png").is_file()

    broken = model.state_dict()
    broken.pop(next(iter(broken)))
    torch.save(broken, "broken.pth")
    words[3] = "broken.pth"
    refused = run_script("extract_bbox.py", *NAME, *words, "--data_root_dir", "other", rc=2)
    assert "broken.pth" in refused.stderr and "is missing" in refused.stderr and "Traceback" not in refused.stderr
    refused = run_script("extract_bbox.py", *NAME, "--detector", "torchvision:yolo", rc=2)
    assert "no such detector" in refused.stderr and "ssdlite320" in refused.stderr


def test_raft_and_the_comparison_of_flow(tree):
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    torch.save(raft_large(weights=None).state_dict(), "raft.pth")
    some = ["--videos", "1", "--limit_frames", "2"]
    run_script("calc_optical_flow.py", *NAME, "--flow_method", "raft", "--flow_weights", "raft.pth", *some, "--device", "cpu")
    flow = np.load("optical_flow/UCSDped2/Test/Test001/002.npy")
    assert flow.shape == (60, 90, 2) and np.isfinite(flow).all()
    run_script("calc_optical_flow.py", *NAME, "--flow_method", "dis", "--flow_root_dir", "dis", *some)
    done = run_script("tools.compare", "flow", "optical_flow/UCSDped2", "dis/UCSDped2")
    a, b = ([np.load(f"{root}/UCSDped2/Test/Test001/{t:03d}.npy").astype(np.float32) for t in (1, 2)]
            for root in ("optical_flow", "dis"))
    mean = np.mean(np.linalg.norm(np.stack(a) - np.stack(b), axis=3))
    assert f"2 frames: mean end-point difference {mean:.3f} px" in done.stdout
    assert (tree / "results/compare/flow.png").is_file()


def test_pairs_of_boxes_worked_out_by_hand(tree):
    """Frame 0: one pair (IoU 0.81) and one box of A alone; frame 1: IoU 1/3, no pair."""
    np.save("a.npy", np.array([[0, 0, 0, 10, 10], [0, 50, 50, 60, 60], [1, 0, 0, 10, 10]], np.float32))
    np.save("b.npy", np.array([[0, 1, 1, 10, 10], [1, 5, 0, 15, 10]], np.float32))
    done = run_script("tools.compare", "boxes", "a.npy", "b.npy")
    assert "2 frames: 3 and 2 boxes; 1 pairs with IoU >= 0.5 (mean IoU 0.810); 2 boxes of A and 1 of B" in done.stdout
    np.save("c.npy", np.zeros((3, 4)))
    assert "(3, 4)" in run_script("tools.compare", "boxes", "a.npy", "c.npy", rc=2).stderr
    assert "no flow file" in run_script("tools.compare", "flow", "none", "raw_datasets", rc=2).stderr


@pytest.mark.parametrize("method", ["dis", "tvl1"])
def test_flow_without_weights_finds_a_shift(method):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (48, 64, 3), np.uint8), (520, 392), interpolation=cv2.INTER_CUBIC)
    finder = METHODS[method](None, "cpu")
    pair = [finder.prepare(image[y:y + 384, x:x + 512]) for x, y in ((4, 2), (1, 4))]
    flow, still = finder.flow([pair, pair[:1] * 2])
    assert flow.shape == (384, 512, 2) and np.abs(np.median(flow, axis=(0, 1)) - [3, -2]).max() < 0.1 and not still.any()


def test_tvl1_is_the_same_for_any_number_of_threads(tree):
    for workers in (0, 3):
        run_script("calc_optical_flow.py", *NAME, "--flow_method", "tvl1", "--videos", "1", "--num_workers", workers,
                   "--flow_root_dir", f"flow_{workers}")
    one, other = (sorted((tree / f"flow_{workers}").rglob("*.npy")) for workers in (0, 3))
    assert len(one) == 8 and [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
