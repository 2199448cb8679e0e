"""Labels and frames as people have them: each meets its own frame, or one line says why not (exit code 2)."""

import contextlib
import csv
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from conftest import SUITE, copied, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import write_video

from tools.doctor import Plan, look_at_scores
from utils import datasets, files, frames
from utils.config import parse_config
from utils.errors import UserError
from utils.evaluation import plots
from utils.labels import read_labels

SIZE = (12, 16)
RAW = Path("raw_datasets/mine")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, content, encoding="utf-8"):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))


def picture(suffix, value=0, size=SIZE):
    return cv2.imencode(suffix.lower(), np.full(size, value, np.uint8))[1].tobytes()


def video(folder, form="{:03d}.png", numbers=range(1, 13)):
    """Frames with names of a form."""
    for k in numbers:
        write(Path(folder) / form.format(k), picture(Path(form).suffix))


def masks(folder, form, numbers=range(1, 13), abnormal=range(5, 8)):
    for k in numbers:
        write(Path(folder) / form.format(k), picture(Path(form).suffix, 255 * (k in abnormal)))


def dataset(layout="plain", mode="test"):
    return datasets.find("mine", mode, layout)


def abnormal(layout="plain", mode="test"):
    """{video: numbers of its abnormal frames, from 1} by the labels that are found."""
    found = dataset(layout, mode)
    labels, why = read_labels(found, [frames.size_of(one) for one in found.videos])
    assert labels is not None, why
    return {v.name: (np.flatnonzero(labels[v.first:v.first + len(v)]) + 1).tolist() for v in found.videos}


def one_line(done, *words):
    """Exit code 2 and one line that holds the words."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def refused(layout, *words):
    """A run that needs the labels ends with 2 and one line."""
    write("configs/mine.cfg", f"[dataset]\nlayout = {layout}\nmin_area = 64\n")
    np.save("scores.npy", np.zeros(24))
    one_line(run_script("tools.evaluate", "mine", "test", "--scores", "scores.npy", rc=2), *words)


# Pixel masks
@pytest.mark.parametrize("form, folder, mask", [
    ("{:03d}.tif", "Test001_gt", "{}.bmp"), ("{:03d}.tif", "Test001_gt", "m{}.bmp"),
    ("{}.jpg", "Test001_gt", "frame{:03d}.bmp"),
    ("{:03d}.tif", "Test001_gt", "{:03d}.png"), ("{:03d}.tif", "Test001_GT", "{:03d}.BMP"),
    ("{:03d}.tif", "test001_gt", "{:03d}.jpg"), ("img_{}.png", "Test001_gt", "img_{}_mask.png"),
    ("scene07_{}.png", "Test001_gt", "07_{}.bmp")])
def test_masks_meet_the_frame_of_their_number_however_they_are_named(form, folder, mask):
    video(RAW / "Test/Test001", form)
    masks(RAW / "Test" / folder, mask)
    write(RAW / "Test" / folder / "._005.bmp", b"junk")
    assert abnormal("ucsd") == {"Test001": [5, 6, 7]}


@pytest.mark.parametrize("change, words", [
    ({"numbers": [1, 2, *range(4, 14)]}, ["no mask for frame 003.tif"]),  # as many, but of other frames
    ({"numbers": range(12)}, ["no mask for frame 012.tif"]),  # counted from 0
    ({"numbers": range(1, 12)}, ["11 masks for 12 frames"]),
    ({"numbers": range(1, 14)}, ["013.bmp belongs to no frame"]),
    ({"form": "Test001_gt/{0}_{0}.bmp"}, ["cannot be matched"]),  # two numbers: which one is the frame's?
    ({"form": "Test001_gt/a.bmp", "numbers": [1]}, ["cannot be matched"])])
def test_masks_that_do_not_fit_are_not_shifted(change, words):
    video(RAW / "Test/Test001", "{:03d}.tif")
    masks(RAW / "Test", **{"form": "Test001_gt/{:03d}.bmp"} | change)
    refused("ucsd", "Test001_gt", *words)


def test_two_masks_of_one_frame():
    video(RAW / "Test/Test001")
    masks(RAW / "Test/Test001_gt", "{:03d}.bmp")
    masks(RAW / "Test/Test001_gt", "{}.png", [7])
    refused("ucsd", "Test001_gt", "cannot be matched")


def avenue_labels(cells):
    video(RAW / "testing/frames/01", "{:02d}.jpg", range(1, 5))
    Path(RAW / "ground_truth_demo/testing_label_mask").mkdir(parents=True)
    scipy.io.savemat(RAW / "ground_truth_demo/testing_label_mask/1_label.mat", {"volLabel": cells})


def as_cells(*contents):
    cells = np.empty((1, len(contents)), object)
    for t, content in enumerate(contents):
        cells[0, t] = content
    return cells


NORMAL, ABNORMAL = np.zeros(SIZE), np.ones(SIZE)


@pytest.mark.parametrize("odd", [scipy.sparse.csc_matrix(ABNORMAL), as_cells(ABNORMAL), ABNORMAL.astype(bool), ABNORMAL * 0.5])
def test_masks_in_matlab_cells_of_any_kind(odd):
    avenue_labels(as_cells(NORMAL, odd, NORMAL, scipy.sparse.csc_matrix(NORMAL)))
    assert abnormal("avenue") == {"01": [2]}


@pytest.mark.parametrize("odd, words", [
    (NORMAL * np.nan, ["mask 2", "finite"]), ({"mask": ABNORMAL}, ["mask 2"]), ("a mask", ["mask 2"]),
    (np.ones((5, 5)), ["mask 2", "(5, 5)"]), (np.empty((0, 0)), ["mask 2"]), (as_cells(NORMAL, NORMAL), ["mask 2"])])
def test_masks_in_matlab_cells_that_are_none(odd, words):
    avenue_labels(as_cells(NORMAL, odd, NORMAL, NORMAL))
    refused("avenue", "1_label.mat", *words)


# Order of frames
@pytest.mark.parametrize("form", ["frame{}.jpg", "{}.png", "cam02_{}.png", "frame {} of 12.png", "F{}.PNG"])
def test_frames_are_taken_in_the_order_of_their_numbers(form):
    video(RAW / "videos/a", form)
    found = dataset()
    assert list(found.videos[0].frames) == [form.format(k) for k in range(1, 13)]
    assert any("sorted by number, 9 before 10" in note for note in found.notes)


@pytest.mark.parametrize("form", ["f{:03d}.jpg", "{:03d}.png", "a_{:03d}_b.tif"])
def test_gaps_are_said_also_in_names_with_words(form):
    video(RAW / "videos/a", form, [1, 2, 3, 7, 8])
    assert any("3 of the numbers" in note and "before" in note for note in dataset().notes)


@pytest.mark.parametrize("names, words", [
    (["f000.jpg", "f000.png", "f001.jpg"], ["f000.jpg and f000.png are the same frame"]),
    (["1.png", "01.png", "2.png"], ["are the same frame"]), (["1.png", "a2.png", "3.png"], ["not numbered the same way"]),
    (["0_8.png", "0_10.png", "1_9.png"], ["not certain"]), (["t1.5.png", "t1.25.png"], ["not certain"]),
    (["B1.png", "b1.png"], ["not numbered the same way"])])
def test_frames_whose_order_is_not_certain(names, words):
    for name in names:
        write(RAW / "videos/a" / name, picture(".png"))
    write(RAW / "labels.csv", "a,1,1\n")
    refused("plain", "videos/a", *words)


# Tables of abnormal stretches
@pytest.fixture
def footage():
    """Videos a and b of 30 frames, and a film of 25 frames per second."""
    for name in "ab":
        video(f"in/{name}", numbers=range(1, 31))
    write_video("in/c.avi", np.zeros((30, 64, 64, 3), np.uint8))


def prepared(content, *words, encoding="utf-8", rc=0):
    """What tools.prepare_videos makes of a table of labels."""
    write("labels.csv", content, encoding)
    return run_script("tools.prepare_videos", "own", "in", "--labels", "labels.csv", *words, rc=rc)


def stretches():
    with open("raw_datasets/own/labels.csv", encoding="utf-8", newline="") as file:
        return [(row["video"], int(row["first_frame"]), int(row["last_frame"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("content, found", [
    ("a,10,15\nb,3,4\n", [("a", 10, 15), ("b", 3, 4)]),
    ("\n\nvideo,first,last\na,10,15\n", [("a", 10, 15)]),
    ("video,first_frame,last_frame\na,10.0,15.0\nb,3,4\n", [("a", 10, 15), ("b", 3, 4)]),
    ("c,00:00:00.4,00:00:00.6\n", [("c", 11, 15)]), ("video,start_second,end_second\nc,0.4,0.6\n", [("c", 11, 15)]),
    ("video;start time;end time\nc;0,4;0,6\n", [("c", 11, 15)]),
    ("a 10 15\n", [("a", 10, 15)]), ("a,10-15\n", [("a", 10, 15)]), ("a\t10\t15\n", [("a", 10, 15)]),
    ("a|10|15", [("a", 10, 15)]),
    ("a,-1,-1\n", []), ("a.mp4  Abuse  10  15  -1  -1  \na  Abuse  20  21  -1  -1  \n", None),
    ("c.avi  Abuse  10  15  -1  -1  \n", [("c", 10, 15)]), ("c.avi Abuse 10 15 18 20\n", [("c", 10, 15), ("c", 18, 20)]),
    ("a,10,15,18,20\n", [("a", 10, 15), ("a", 18, 20)]),
    ("video,start1,end1,start2,end2\na,10,15,18,20\nb,-1,-1,-1,-1\n", [("a", 10, 15), ("a", 18, 20)]),
    ("a;10;15;18;20;;\n", [("a", 10, 15), ("a", 18, 20)]), ("video,class,first,last\na,Abuse 2,10,15\n", None),
    ("video,first,last,class\na,10,15,Abuse\n", [("a", 10, 15)]), ("A,10,15\n", [("a", 10, 15)]),
    ("video,first,last\na,15,20\na,10,16\n", [("a", 10, 20)]), ('"a","10","15"\n', [("a", 10, 15)]),
    ("video,first,last,frames\na,10,15,30\n", None), ("video,first,last,fps,frames\na,10,15,25,30\n", None),
    ("video,start,duration\na,5,10\n", None), ("id,video,first,last\n1,a,10,15\n", None),
    ("a,10.0,15.0\nb,3,4\n", None), ("a,10.5,15\n", None), ("a,15,10\n", None), ("a,0,5\n", None), ("a,10,31\n", None),
    ("a,10\n", None), ("a\n", None), ("a,ten,fifteen\n", None), ("d,1,2\n", None), ("a,0:00:01,0:00:02\n", None),
    ("a,10,15,18\n", None), ("a,10,15,-1\n", None), ("a,0:00:70,0:01:80\n", None), ("a,1e1,2e1\n", None),
    ("a," + "9" * 5000 + ",15\n", None), ("a,10,15," + "x" * 200_000 + "\n", None), ('a,"10,15\n', None),
    ("video,first_frame,last_second\na,1,2\n", None), ("a,10,15\nb,3,4,,5\n", None)],
    ids=lambda value: value[:30].replace("\n", "/") if isinstance(value, str) else "")
def test_a_table_of_labels_is_understood_as_a_whole_or_refused_with_its_line(footage, content, found):
    done = prepared(content, rc=0 if found is not None else 2)
    if found is None:
        one_line(done, "labels.csv: line ")
        assert not RAW.with_name("own").exists()
    else:
        assert stretches() == found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("comma", ",;\t")
def test_tables_as_spreadsheets_save_them(encoding, comma):
    video("in/Tür süd")
    lines = f"Video{comma}von{comma}bis\r\nTür süd{comma}10{comma}12\r\n"
    done = prepared(lines, encoding=encoding)
    assert stretches() == [("Tür süd", 10, 12)]
    assert ("Windows-1252" in done.stdout) == (encoding == "cp1252")


def test_names_whose_accents_are_composed_otherwise():
    video("in/Caf\u00e9")
    prepared("Cafe\u0301,2,3\n")
    assert stretches() == [("Caf\u00e9", 2, 3)]


def test_three_videos_of_one_name_do_not_share_a_line():
    for folder in "xyz":
        video(f"in/{folder}/a")
    video("in/b")
    one_line(prepared("a,2,3\n", rc=2), "labels.csv: line 1", "video a")
    prepared("x_a,2,3\n")
    assert stretches() == [("x_a", 2, 3)]


def test_ranges_in_frames_with_gaps_are_not_guessed():
    video(RAW / "videos/a", numbers=[1, 2, 3, 7, 8])
    write(RAW / "labels.csv", "a,7,8\n")
    refused("plain", "labels.csv: line 1", "gaps")


def test_masks_beside_videos_are_no_videos():
    video("in/Test001")
    masks("in/Test001_gt", "{:03d}.bmp")
    masks("in/scene_annotations", "scene_{:04d}_gt.png")
    masks("in/Test001/masks", "{:03d}.png")
    done = run_script("tools.prepare_videos", "own", "in")
    assert [p.name for p in Path("raw_datasets/own/videos").iterdir()] == ["Test001"]
    assert "Test001_gt" in done.stdout and "scene_annotations" in done.stdout and "look like masks" in done.stdout
    video(RAW / "videos/a")
    masks(RAW / "videos/a_mask", "{:03d}.png")
    assert [v.name for v in dataset().videos] == ["a"]


# The field's own files of labels
def two_videos():
    video(RAW / "testing/frames/01")
    video(RAW / "testing/frames/02", numbers=range(1, 9))


EVENTS = {"01": [2, 3, 9], "02": []}


def test_ranges_in_one_matlab_file_of_all_videos():
    two_videos()
    scipy.io.savemat(RAW / "avenue.mat", {"gt": as_cells([[2, 9], [3, 9]], np.empty((2, 0)))})
    assert abnormal("avenue") == EVENTS


def test_one_vector_of_all_frames():
    two_videos()
    np.save(RAW / "frame_labels_avenue.npy", np.isin(np.arange(1, 21), EVENTS["01"]).astype(float)[None])
    assert abnormal("avenue") == EVENTS


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".csv"])
def test_one_file_of_0_and_1_for_each_video(suffix):
    two_videos()
    for name, count in (("01", 12), ("02", 8)):
        flags = np.isin(np.arange(1, count + 1), EVENTS[name]).astype(int)
        place = RAW / "testing/test_frame_mask" / (name + suffix)
        place.parent.mkdir(exist_ok=True)
        np.save(place, flags) if suffix == ".npy" else write(place, "\n".join(map(str, flags)) + "\n", "utf-8-sig")
    assert abnormal("shanghaitech") == EVENTS


def test_ucsd_ranges_with_comments_single_frames_and_a_byte_order_mark():
    for name in ("Test001", "Test002"):
        video(RAW / "Test" / name)
    write(RAW / "Test/mine.m", "TestVideoFile = {};\n% gt_frame = [1:12];\nTestVideoFile{end+1}.gt_frame = [2:3, 9];\n"
          "TestVideoFile{end+1}.gt_frame = [];\n", "utf-8-sig")
    assert abnormal("ucsd") == {"Test001": [2, 3, 9], "Test002": []}


@pytest.mark.parametrize("name, content, words", [
    ("avenue.mat", as_cells([[2], [3]]), ["avenue.mat", "1 cells", "2 testing videos"]),
    ("avenue.mat", as_cells([[2], [30]], np.empty((2, 0))), ["avenue.mat", "30", "12 frames"]),
    ("avenue.mat", as_cells([[0], [3]], np.empty((2, 0))), ["avenue.mat", "counted from 1"]),
    ("avenue.mat", as_cells([[2.5], [3]], np.empty((2, 0))), ["avenue.mat", "whole numbers"]),
    ("avenue.mat", as_cells([[2], [3], [4]], np.empty((2, 0))), ["avenue.mat", "two rows"]),
    ("avenue.mat", as_cells([[2, 6], [4, 7]], np.empty((2, 0))), None),
    ("avenue.mat", as_cells([[2, 3], [5, 9]], np.empty((2, 0))), ["two rows"]),  # 2 to 5 and 3 to 9, or 2 to 3 and 5 to 9?
    ("frame_labels.npy", np.zeros(19), ["19 labels", "20 frames"]),
    ("frame_labels.npy", np.arange(20), ["must be a vector of 0 and 1"]),
    ("frame_labels.npy", np.full(20, np.nan), ["must be a vector of 0 and 1"]),
    ("avenue.mat", b"broken", ["avenue.mat", "not a MATLAB file"])])
def test_label_files_of_others_that_do_not_fit(name, content, words):
    two_videos()
    if isinstance(content, bytes):
        write(RAW / name, content)
    else:
        scipy.io.savemat(RAW / name, {"gt": content}) if name.endswith(".mat") else np.save(RAW / name, content)
    if words:
        refused("avenue", *words)
    else:
        (first, last) = content[0, 0]
        assert abnormal("avenue")["01"] == sorted({k for a, b in zip(first, last) for k in range(a, b + 1)})


def test_two_files_that_may_both_hold_the_labels():
    two_videos()
    for name in ("a", "b"):
        scipy.io.savemat(RAW / f"{name}.mat", {"gt": as_cells([[2], [3]], np.empty((2, 0)))})
    refused("avenue", "a.mat", "b.mat", "remove")


def test_the_dry_run_speaks_of_labels(capsys):
    video(RAW / "videos/a")
    write("configs/mine.cfg", "[dataset]\nlayout = plain\nmin_area = 64\n")
    cfg = parse_config("", ["--dataset_name", "mine", "--dry_run"])
    look_at_scores(Plan(cfg, dataset(), (24, 32), None, None, 0, before="boxes"))
    assert "labels      no labels" in capsys.readouterr().out
    write(RAW / "labels.csv", "a,3,99\n")
    with pytest.raises(UserError, match="frames 3 to 99"):
        look_at_scores(Plan(cfg, dataset(), (24, 32), None, None, 0, before="boxes"))


# Names
def test_videos_of_one_name_in_training_and_testing_stay_apart():
    for part in ("training", "testing"):
        video(RAW / f"{part}/frames/01")
    np.save(RAW / "frame_labels.npy", np.isin(np.arange(12), (3, 4)))
    found = dataset("avenue", "merge")
    assert [one.name for one in found.videos] == ["Train/01", "Test/01"] and len(found.contents) == 2
    assert abnormal("avenue", "merge") == {"Train/01": [], "Test/01": [4, 5]}
    write("configs/mine.cfg", "[dataset]\nlayout = avenue\nmin_area = 64\n")
    for part, values in (("Train", np.zeros(12)), ("Test", np.isin(np.arange(12), (3, 4)))):
        Path("scores", part).mkdir(parents=True)
        np.save(f"scores/{part}/01.npy", values.astype(float))
    np.save("scores/01.npy", np.arange(12.0))
    one_line(run_script("tools.evaluate", "mine", "merge", "--scores", "scores", rc=2), "scores", "Train/01")


def test_videos_whose_names_differ_in_capitals_alone():
    if Path("UPPER").mkdir() or Path("upper").exists():
        pytest.skip("this file system takes capitals for small letters")
    video(RAW / "videos/Gate")
    video(RAW / "videos/gate")
    write(RAW / "labels.csv", "gate,1,2\n")
    refused("plain", "Gate", "gate", "rename")


def test_a_link_to_a_video_that_is_not_there():
    video(RAW / "videos/a")
    write(RAW / "labels.csv", "a,1,2\n")
    os.symlink("/nowhere/b", RAW / "videos/b")
    refused("plain", "videos/b", "/nowhere/b")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\tb", os.fsdecode(b"M\xfcll")], ids=ascii)
@pytest.mark.parametrize("place", ["video", "frame"])
def test_names_that_cannot_stand_in_a_line_of_text(name, place):
    try:
        video(RAW / "videos" / (name if place == "video" else "v"), name + "{:03d}.png")
    except OSError:
        pytest.skip("this file system has no such names")
    write(RAW / "labels.csv", "v,1,2\n")
    refused("plain", "rename")


def test_names_with_letters_that_the_terminal_lacks():
    video("in/Müll 垃圾")
    write("labels.csv", "Müll 垃圾,1,2\n")
    done = subprocess.run([sys.executable, "-m", "tools.prepare_videos", "own", "in", "--labels", "labels.csv"],
                          env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
                               "PYTHONPATH": str(SUITE)}, capture_output=True)
    assert done.returncode in (0, 2) and b"Traceback" not in done.stderr, done.stderr
    if done.returncode:
        assert done.stderr.count(b"error:") == 1 and not Path("raw_datasets/own").exists()


# Small files of text
@pytest.mark.parametrize("content, encoding", [
    ("video,fps\r\na,12.5\r\n", "utf-8-sig"), ("video;fps\na;12,5\n", "utf-8"), ("video,fps,source\na,12.5,müller\n", "cp1252"),
    ("video\tfps\na\t12.5\n", "utf-16"), ("fps,video\n12.5,a\n", "utf-8"), ("video,fps\n\na,12.5\n\n", "utf-8")])
def test_rates_in_a_table_that_a_spreadsheet_saved(content, encoding):
    video(RAW / "videos/a")
    write(RAW / "videos.csv", content, encoding)
    assert datasets.rates(dataset()) == [12.5]


@pytest.mark.parametrize("content", ["name,rate\na,25\n", "video\na\n", "video,fps\na,fast\n", "video,fps\na,25\nA,30\n",
                                     "video,fps\na," + "9" * 5000 + "\n", "video,fps\na,nan\n", "video,fps\na,-1\n"],
                         ids=range(7))
def test_rates_that_are_none(content):
    video(RAW / "videos/a")
    write(RAW / "labels.csv", "a,1,2\n")
    write(RAW / "videos.csv", content)
    refused("plain", "videos.csv: line ")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_config_file_that_an_editor_saved_its_own_way(encoding):
    video(RAW / "videos/a")
    write(RAW / "labels.csv", "a,1,2\n")
    write("configs/mine.cfg", "# für mich\n[dataset]\nlayout = plain\nmin_area = 64\n", encoding)
    np.save("scores.npy", np.arange(12))
    assert "1 videos" in run_script("tools.evaluate", "mine", "--scores", "scores.npy").stdout


@pytest.mark.parametrize("lines, words", [
    ("[DEFAULT]\nepochs = 3\n", ["section", "DEFAULT"]),
    ("[data_parameters]\ndata_root_dir = /x/My Data #2\n", ["My Data #2", "quotes"]),
    ("[data_parameters]\ndata_root_dir = /x\n  h_block = 2\n", ["data_root_dir", "indented"]),
    ("[data_parameters]\nh_block = 2\nh_block = 4\n", ["h_block"])])
def test_a_config_file_of_which_a_part_would_be_lost(lines, words):
    video(RAW / "videos/a")
    write("mine.cfg", f"[dataset]\nlayout = plain\nmin_area = 64\n{lines}")
    one_line(run_script("train.py", "--dataset_name", "mine", "--config", "mine.cfg", rc=2), "mine.cfg", *words)


@pytest.mark.parametrize("videos", ["9" * 5000, "1-" + "9" * 5000, "1,,x"], ids=range(3))
def test_positions_of_videos_that_are_none(videos):
    video(RAW / "videos/a")
    write("configs/mine.cfg", "[dataset]\nlayout = plain\nmin_area = 64\n")
    one_line(run_script("train.py", "--dataset_name", "mine", "--videos", videos, rc=2), "--videos")


@pytest.mark.parametrize("name", ["=cmd()", "+1", "@sum", "-a"])
def test_names_are_no_formulas_in_a_spreadsheet(name):
    files.save_csv("events.csv", [{"video": name, "score": -1.5}])
    line = Path("events.csv").read_text().splitlines()[1]
    assert line == f"'{name},-1.5"
    video(RAW / "videos" / name)
    files.save_csv(RAW / "labels.csv", [{"video": name, "first": 3, "last": 4}])
    assert abnormal() == {name: [3, 4]}  # and what the suite itself writes it reads


# Boxes in COCO files
@pytest.mark.parametrize("case", ["in another order", "without empty images", "with all paths"])
def test_coco_images_are_frames_by_their_names(case):
    video(RAW / "Test/Test001", "{:03d}.tif")
    write("configs/mine.cfg", "[dataset]\nlayout = ucsd\nmin_area = 64\n")
    prefix = "C:\\data\\Test\\" if case == "with all paths" else ""
    images = [{"id": 90 - k, "file_name": f"{prefix}Test001/{k:03d}.tif"} for k in range(1, 13)]
    images = images[4:8] if case == "without empty images" else images[::-1]
    marked = [{"id": k, "image_id": 90 - k, "category_id": 1, "bbox": [k, 2, 4, 5]} for k in (5, 8)]
    write("coco.json", json.dumps({"images": images, "annotations": marked}))
    one_line(run_script("tools.convert", "boxes", "coco.json", "boxes.npy", rc=2), "coco.json", "--dataset_name")
    if prefix:
        one_line(run_script("tools.convert", "boxes", "coco.json", "boxes.npy", "--dataset_name", "mine", rc=2), "file_name")
    else:
        run_script("tools.convert", "boxes", "coco.json", "boxes.npy", "--dataset_name", "mine")
        assert np.load("boxes.npy").tolist() == [[4, 5, 2, 9, 7], [7, 8, 2, 12, 7]]


# Any tree of names
@st.composite
def trees(draw):
    """Frames and masks of one video: file name -> the number that a person would read in it."""
    def names(suffixes):
        width, prefix = draw(st.sampled_from([1, 3])), draw(st.sampled_from(["", "f", "img_", "cam2_", "T1."]))
        numbers = draw(st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=draw(st.booleans())))
        if draw(st.booleans()):
            numbers = [*range(1, 12)]
        return {f"{prefix if draw(st.integers(0, 20)) else 'x'}{k:0{width}d}{draw(st.sampled_from(suffixes))}": k
                for k in numbers}

    return names([".png", ".png", ".png", ".PNG"]), names([".bmp", ".bmp", ".bmp", ".png"]), draw(st.sets(st.integers(0, 12)))


@given(trees())
@settings(max_examples=150)
def test_labels_of_a_frame_meet_that_frame_or_nothing_does(tmp_path_factory, tree):
    shown, marked, odd = tree
    root = tmp_path_factory.mktemp("tree")
    with contextlib.chdir(root):
        for folder, numbers, values in (("Test001", shown, ()), ("Test001_gt", marked, odd)):
            for name, k in numbers.items():
                write(RAW / "Test" / folder / name, picture(".png", 255 * (k in values)))
            write(RAW / "Test" / folder / "._001.png", b"junk")
        try:
            found = dataset("ucsd")
            order = [shown[name] for name in found.videos[0].frames]
            assert order == sorted(order) and len(set(order)) == len(order)
            labels, _ = read_labels(found, [SIZE])
        except UserError as error:
            assert "Test001" in str(error) and "\n" not in str(error)
        else:
            assert labels.tolist() == [k in odd for k in order] and sorted(marked.values()) == order


# Every tool on a bad day
@pytest.fixture
def finished(ped2, tmp_path, monkeypatch):
    return copied(ped2, tmp_path, monkeypatch)


ROWS = "data/UCSDped2/test/bboxes.npy"
TOOLS = {
    "make_demo": (["--videos", "1", "--frames", "8"], "raw_datasets/demo"),
    "prepare_videos": (["own", "raw_datasets/UCSDped2/Test/Test001", "--long_side", "50"], "raw_datasets/own"),
    "convert": (["boxes", ROWS, "coco.json"], "coco.json"),
    "report": (["UCSDped2", "test"], "results/UCSDped2/test/report.html"),
    "evaluate": (["UCSDped2", "test"], "results/UCSDped2/test/protocols.csv"),
    "overlay": (["UCSDped2", "test", "--video", "Test001"], "results/UCSDped2/test/overlay/Test001.webm"),
    "baseline": (["UCSDped2", "test"], "results_baseline/UCSDped2/test/box_scores.npy"),
    "compare": (["flow", "optical_flow/UCSDped2", "optical_flow/UCSDped2"], "results/compare/flow.png")}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("trouble", ["full disk", "no permission", "Ctrl-C"])
def test_a_tool_that_cannot_finish_leaves_no_half_result_and_can_be_run_again(finished, monkeypatch, tool, trouble):
    words, result = TOOLS[tool]
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
        if trouble == "Ctrl-C":
            def stop(*_, **__):
                raise KeyboardInterrupt
            patch.setattr(os, "replace", stop), patch.setattr(os, "rename", stop)
        elif trouble == "full disk":
            resource = pytest.importorskip("resource")
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
        else:
            for folder in [finished, *(p for p in finished.rglob("*") if p.is_dir())]:
                folder.chmod(0o555)
                stack.callback(folder.chmod, 0o755)
            if os.access(finished, os.W_OK):
                pytest.skip("this user may write everywhere")
        done = run_script(f"tools.{tool}", *words, rc=130 if trouble == "Ctrl-C" else 2)
    assert "Traceback" not in done.stderr and len([s for s in done.stderr.splitlines() if s.startswith("error:")]) <= 1
    assert not Path(result).exists()
    run_script(f"tools.{tool}", *words)
    assert Path(result).exists() and not list(finished.rglob("*.part"))


@pytest.mark.parametrize("name", ["a$b", r"x$\frac$", "a$b$^_", "垃圾"])
def test_names_that_would_be_formulas_in_pictures(name):
    for figure in (plots.roc(np.linspace(0, 1, 5), np.array([0, 1, 0, 1, 1]) > 0, name),
                   plots.timeline(np.arange(9.0), np.arange(9) > 4, [0], [name], name)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            plots.save(figure, "picture.png")
        assert not told and cv2.imread("picture.png") is not None
        assert name in figure.axes[0].get_title()


def test_a_frame_of_60_000_x_60_000_pixels_is_refused():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    write(RAW / "videos/a/001.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
          + chunk(b"IDAT", zlib.compress(bytes(60_001))) + chunk(b"IEND", b""))
    write(RAW / "labels.csv", "a,1,1\n")
    refused("plain", "videos/a")


def test_2_000_videos_of_one_frame():
    for k in range(2000):
        write(RAW / f"videos/v{k}/1.png", picture(".png"))
    write(RAW / "labels.csv", "".join(f"v{k},1,1\n" for k in range(0, 2000, 2)))
    found = abnormal()
    assert len(found) == 2000 and all(flags == [1] * (int(name[1:]) % 2 == 0) for name, flags in found.items())
