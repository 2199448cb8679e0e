"""Other flow methods and detectors, with random weights in files, end to end to cubes; comparing what two methods gave;
anybody's frame scores through the evaluation.
"""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import run_script
from trees import ucsd_tree

from FlowNet2_src.methods import METHODS
from utils.errors import UserError
from utils.evaluation import protocols, regions
from utils.evaluation.inputs import Frames

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


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """Scores and labels of three videos in all forms: scores/, labels/, .npz, .npy and text."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names, counts = ["cam 1", "cam 2", "cam 3"], np.array([40, 33, 52])
    labels = [(np.arange(n) % 30 > 12).astype(np.int8) for n in counts]
    scores = [rng.normal(size=n) + label for n, label in zip(counts, labels)]
    for folder, parts in (("scores", scores), ("labels", labels)):
        (tmp_path / folder).mkdir()
        for end, name, part in zip((".npy", ".txt", ".csv"), names, parts):
            np.save(f"{folder}/{name}.npy", part) if end == ".npy" else np.savetxt(f"{folder}/{name}{end}", part)
        np.savez(f"{folder}.npz", **dict(zip(names, parts)))
        np.save(f"{folder}.npy", np.concatenate(parts))
        np.savetxt(f"{folder}.csv", np.concatenate(parts))
    np.savetxt("lengths.txt", counts, fmt="%d")
    return Frames(np.concatenate(scores), np.concatenate(labels), names, counts, np.ones(3, bool))


def figures(*words):
    """What tools.evaluate says of scores and labels alone, read back from its file."""
    done = run_script("tools.evaluate", *words, "--out", "out.json")
    return SimpleNamespace(stdout=done.stdout, **json.loads(open("out.json").read()))


@pytest.mark.parametrize("scores, labels, more", [
    ("scores", "labels", []), ("scores.npz", "labels", []), ("scores", "labels.npz", []), ("scores.npy", "labels", []),
    ("scores.csv", "labels.csv", ["--lengths", "40,33,52"]), ("scores", "labels.npy", ["--lengths", "lengths.txt"]),
])
def test_scores_and_labels_without_a_dataset(theirs, scores, labels, more):
    found = figures("--scores", scores, "--labels", labels, *more)
    assert [(row["frames"], row["abnormal"]) for row in found.videos] == [(40, 17), (33, 17), (52, 26)]
    for row, wanted in zip(found.protocols, protocols.table(theirs, 10), strict=True):  # all digits
        assert row["name"] == wanted["name"] and row["auroc"] == pytest.approx(wanted["auroc"], abs=1e-15)
        assert f"{row['auroc']:7.2%} [" in found.stdout
    if labels != "labels.csv":
        assert [row["video"] for row in found.videos] == theirs.names
    assert found.hints == []


def test_two_methods_without_a_dataset(theirs):
    np.save("better.npy", theirs.scores + theirs.labels)
    found = figures("--scores", "better.npy", "--labels", "labels", "--against", "scores")
    assert found.against == "scores" and len(found.differences) == 6
    auroc = found.differences[0]
    assert auroc["figure"] == "average of 10, AUROC" and auroc["first"] > auroc["second"]
    assert auroc["difference"] == auroc["first"] - auroc["second"] and "first better in" in found.stdout
    array = figures("--scores", "better.npy", "--labels", "labels.npy", "--lengths", "40,33,52", "--against", "scores")
    assert array.differences == found.differences and [row["video"] for row in array.videos] == theirs.names
    both = figures("--scores", "scores", "--labels", "labels.npy", "--lengths", "40,33,52", "--against", "scores.npz")
    assert both.differences[0]["difference"] == 0 and [row["video"] for row in both.videos] == theirs.names


def test_part_of_the_videos_and_frames(theirs):
    two = theirs.only(theirs.video != 1)
    found = figures("--scores", "scores", "--labels", "labels", "--videos", "cam 1,cam 3")
    assert found.protocols == figures("--scores", "scores.npy", "--labels", "labels", "--videos", "cam 3,cam 1").protocols
    assert [row["auroc"] for row in found.protocols] == [row["auroc"] for row in protocols.table(two, 10, times=2)]
    labels = theirs.labels.copy()
    labels[::3] = -1
    np.savez("some.npz", **dict(zip(theirs.names, theirs.split(labels))))
    found = figures("--scores", "scores", "--labels", "some.npz")
    plain = next(row for row in found.protocols if row["name"] == "micro, no smoothing")
    known = theirs.only(labels >= 0)
    assert plain["auroc"] == protocols.table(known, 1, times=2)[0]["auroc"]
    smooth = protocols.official(theirs, 10)  # smoothing sees the frames that figures leave out
    wanted = protocols.table(smooth._replace(labels=labels).only(labels >= 0), 1, times=2)[0]["auroc"]
    assert found.protocols[0]["auroc"] == wanted != protocols.table(known, 10, times=2)[0]["auroc"]


def test_scores_per_clip(theirs):
    """16 frames share a score; the last clip of a video is short (5 frames of 33, say), or there is none for the rest."""
    clips = [part[::16] for part in theirs.split(theirs.scores)]  # 3, 3 and 4 clips
    for parts in (clips, [part[:n // 16] for part, n in zip(clips, theirs.counts)]):
        np.savez("clips.npz", **dict(zip(theirs.names, parts)))
        np.save("clips.npy", np.concatenate(parts))
        wanted = np.concatenate([np.append(np.repeat(part, 16), [part[-1]] * 16)[:n] for part, n in zip(parts, theirs.counts)])
        rows = protocols.table(theirs._replace(scores=wanted), 10, times=2)
        for name in ("clips.npz", "clips.npy"):
            found = figures("--scores", name, "--labels", "labels", "--repeat", "16")
            assert [row["auroc"] for row in found.protocols] == [row["auroc"] for row in rows]


def test_the_same_scores_in_other_types(theirs):
    whole = np.rint(4 * theirs.scores)
    wanted = None
    for kind in ("f8", "f4", "f2", "g", ">f4", "i8", ">i2", "i1"):
        np.save("typed.npy", whole.astype(kind))
        found = [row["auroc"] for row in figures("--scores", "typed.npy", "--labels", "labels").protocols]
        wanted = wanted or found
        assert found == wanted
    np.save("typed.npy", theirs.labels.astype(bool)[:, None])  # a column is a vector
    assert figures("--scores", "typed.npy", "--labels", "labels").protocols[0]["auroc"] > 0.9


def test_reversed_and_misaligned_scores_are_told(theirs):
    np.save("psnr.npy", -theirs.scores - theirs.labels)
    assert "hint: with their sign reversed" in figures("--scores", "psnr.npy", "--labels", "labels").stdout
    late = [np.append(part[-6:], part[:-6]) for part in theirs.split(theirs.labels + theirs.scores / 9)]
    np.save("late.npy", np.concatenate(late))
    found = figures("--scores", "late.npy", "--labels", "labels")
    assert "hint: shifted 6 frames earlier in each video" in found.stdout and len(found.hints) == 1


@pytest.mark.parametrize("words, message", [
    (["--scores", "complex.npy", "--labels", "labels"], "has shape (125,) and type complex128"),
    (["--scores", "square.npy", "--labels", "labels"], "must have one finite score per frame, has shape (25, 5)"),
    (["--scores", "commas.csv", "--labels", "labels"], "not a column of numbers"),
    (["--scores", "scores.npy", "--labels", "labels.npy"], "add the videos' --lengths"),
    (["--scores", "scores.npy", "--labels", "labels.npy", "--lengths", "40,33,51"], "125 in all"),
    (["--scores", "scores.npy", "--labels", "labels.npy", "--lengths", "lenghts.txt"], "must be each video's number of frames"),
    (["--scores", "short.npy", "--labels", "labels"], "has 124 scores, labels has 125 frames"),
    (["--scores", "one", "--labels", "labels"], "no scores of video cam 1"),
    (["--scores", "twice", "--labels", "labels"], "two files for the same video: cam 1.npy, cam 1.txt"),
    (["--scores", "scores", "--labels", "scores"], "must have 0 (normal) and 1 (abnormal)"),
    (["--scores", "scores", "--labels", "zeros"], "must have 0 (normal) and 1 (abnormal)"),
    (["--scores", "scores", "--labels", "empty"], "must have 0 (normal) and 1 (abnormal)"),
    (["--scores", "scores", "--labels", "labels", "--videos", "cam 4"], "no video cam 4; it has cam 1, cam 2, cam 3"),
    (["--scores", "scores", "--labels", "labels", "--repeat", "16"], "has 40 scores, video cam 1 has 40 frames"),
    (["--scores", "broken.npz", "--labels", "labels"], "not a whole .npz file"),
    (["UCSDped2", "--scores", "scores", "--labels", "labels"], "give a dataset D, or --scores and --labels without one"),
    (["--scores", "scores"], "give a dataset D, or --scores and --labels without one"),
    (["--scores", "scores", "--labels", "labels", "--masks"], "need a dataset D"),
    (["UCSDped2", "--repeat", "16"], "--repeat needs --scores and 1 or more"),
    (["UCSDped2", "--scores", "scores", "--boxes", "boxes.npy"], "--boxes needs --scores, and --tracks or --masks"),
])
def test_scores_and_labels_that_do_not_fit(theirs, tmp_path, words, message):
    np.save("complex.npy", theirs.scores + 1j)
    np.save("square.npy", theirs.scores.reshape(25, 5))
    np.save("short.npy", theirs.scores[1:])
    (tmp_path / "commas.csv").write_text("0,5\n" * 125)
    for folder, name, values in (("one", "cam 2", theirs.scores[40:73]), ("zeros", "cam 1", np.zeros(40)), ("empty", "", []),
                                 ("twice", "cam 1", theirs.scores[:40])):
        (tmp_path / folder).mkdir()
        if name:
            np.save(f"{folder}/{name}.npy", values)
    np.savetxt("twice/cam 1.txt", theirs.scores[:40])
    (tmp_path / "broken.npz").write_bytes(b"PK")
    assert message in run_script("tools.evaluate", *words, "--out", "out.json", rc=2).stderr
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("text, message", [
    ("1,10,20\n2,12,20\n", "line 1 is 1 10 20: must be six numbers"),  # an UBnormal track file: id, first, last frame
    ("0,5,1,1,40,40\n0,6,1,1,40\n", "line 2 is 0 6 1 1 40: must be six numbers"),
    ("0,5,1,1,40,40,1\n" * 6, "line 1 is 0 5 1 1 40 40 1: must be six numbers"),
    ("0,5,100,50,20,20\n", "with x1 <= x2 and y1 <= y2"),  # x y width height
    ("0,5.5,1,1,40,40\n", "must be six numbers: track, frame"),
    ("0,5,1,1,nan,40\n", "must be six numbers"),
    ("\n0,30,1,1,40,40\n", "line 2: the frame must be 0 to 29"),
])
def test_track_files_are_read_line_by_line(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError) as error:
        regions.read_tracks(tmp_path / "a.txt", 30)
    assert message in str(error.value)


def test_track_files_with_a_byte_order_mark_and_a_track_twice(tmp_path, capsys):
    for apart in (",", ", ", ";", "\t", " "):
        text = "\ufeff0,5,1,1,40,40\n\n0,6,1,1,40,40\n0,5,2,2,30,30\n1,5,0,0,9,9\n".replace(",", apart)
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        found = regions.joined([regions.read_tracks(tmp_path / "a.txt", 30)], [0])
        assert found.boxes.tolist() == [[5, 2, 2, 30, 30], [6, 1, 1, 40, 40], [5, 0, 0, 9, 9]]  # the last line counts
        assert found.track.tolist() == [0, 0, 1] and "1 lines repeat a track in the same frame" in capsys.readouterr().out


def test_the_baseline_is_scored_as_any_other(copy, monkeypatch):
    import tools.baseline
    monkeypatch.setattr(tools.baseline, "APART", 3)
    words = ["baseline", "UCSDped2", "test"]
    monkeypatch.setattr("sys.argv", words)
    tools.baseline.main()
    scores = np.load("results_baseline/UCSDped2/test/box_scores.npy")
    assert scores.shape == np.load("data/UCSDped2/test/bboxes.npy").shape[:1] and scores.min() > 0
    done = run_script("test.py", *NAME, "--results_dir", "results_baseline")
    assert "scores are yours" in done.stdout and "frame AUROC" in done.stdout
    tools.baseline.main()  # again, where test.py has scored it
    assert np.array_equal(np.load("results_baseline/UCSDped2/test/box_scores.npy"), scores)
    refused = run_script("tools.baseline", "UCSDped2", "test", "--results_dir", "results", rc=2)
    assert "use another --results_dir" in refused.stderr


def test_the_baseline_by_hand():
    from tools.baseline import describe, far_neighbours
    flow = np.zeros((20, 30, 2), np.float16)
    flow[4:8, 5:10] = 0, 3  # half of the box, downwards
    found = describe(flow, np.array([5, 4, 15, 8]), (5, 4, 15, 8), 1)
    assert np.allclose(found, [0, 0, 1.5, 0, 0, 0, 0, 0, np.log(10), np.log(4), 10, 8])
    rng = np.random.default_rng(0)
    points, frame = rng.normal(size=(400, 2)), np.arange(400)
    boxes = SimpleNamespace(frame=frame, video=frame // 200)
    expected = []
    for i in range(400):
        far = (abs(frame - i) > 50) | (frame // 200 != i // 200)
        expected.append(np.sort(np.linalg.norm(points[far] - points[i], axis=1))[9])
    assert np.allclose(far_neighbours(points, boxes), expected)
