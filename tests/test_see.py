"""Own videos, new videos with a trained model, events, the report and the overlay, through the command line."""

import contextlib
import csv
import json
import re
import shutil
from pathlib import Path

import browser
import cv2
import numpy as np
import pytest
from conftest import copied, run_script
from trees import draw, ucsd_tree, write_frames

from run_pipeline import settings_of_model
from utils import films, record
from utils.boxes import Boxes
from utils.config import parse_config
from utils.evaluation import events, plots

TRAIN = ["--num_feature_root", "4", "--epochs", "3", "--warmup_epoch", "1", "--batch_size", "32", "--device", "cpu"]
ODD = ("Hof 1 – Süd", "50 % <i>Nacht&", "Flur (äöü) #2")
NIGHT = "50 _ <i>Nacht&"  # the second as the dataset names it: OpenCV takes % for a pattern of numbers


def film(path, video, codec, rate, size=None):
    """Writes frames (F, H, W, 3) as a video file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size or video.shape[2:0:-1])
    assert writer.isOpened()
    for frame in video:
        writer.write(frame if size is None else cv2.resize(frame, size))
    writer.release()


def pipeline(name, *words):
    """The stages of run_pipeline.py and the report, in this process."""
    common = ["--dataset_name", name, "--mode", "test"]
    for script in ("calc_optical_flow.py", "extract_bbox.py", "extract_stc.py"):
        run_script(script, *common)
    if "--model" not in words:
        run_script("train.py", *common, *TRAIN)
    done = run_script("test.py", *common, *words)
    run_script("tools.report", name, "test")
    return done


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Three videos with odd names, of two sizes and three kinds, with labels, prepared and scored."""
    root = tmp_path_factory.mktemp("own")
    videos = [draw(30, seed, odd=True) for seed in (1, 2, 3)]
    film(root / "in" / f"{ODD[0]}.mp4", videos[0][0], "mp4v", 25)
    film(root / "in" / f"{ODD[1]}.avi", videos[1][0], "MJPG", 12.5, (120, 80))
    folder = root / "in" / ODD[2]
    folder.mkdir()
    for t, frame in enumerate(videos[2][0], 1):
        cv2.imwrite(str(folder / f"{t}.png"), frame)  # 1.png .. 30.png: by name 10 comes before 2
    (root / "labels.csv").write_text("Video;von;bis\n" + "".join(f"{name};16;30\n" for name in (f"{ODD[0]}.mp4", *ODD[1:])),
                                     encoding="utf-8-sig")
    film(root / "new" / "neu.mp4", draw(30, 7, odd=True, size=(80, 120))[0], "mp4v", 25)
    with contextlib.chdir(root):
        done = run_script("tools.prepare_videos", "own", "in", "--labels", "labels.csv")
        assert all(line in done.stdout for line in ("how long this takes here", "left to do", "epochs of about 900 cubes"))
        config = Path("configs/own.cfg").read_text()
        assert all(line in config for line in ("flow_method = tvl1", "use_flow = true", "min_steps = 1000", "noise_gate = "))
        Path("configs/own.cfg").write_text(re.sub("(?s)flow_method.*", "flow_method = dis\ndetector = none\n", config))  # quick
        pipeline("own", "--event_share", "0.3")
    return root


@pytest.fixture
def copy(own, tmp_path, monkeypatch):
    return copied(own, tmp_path, monkeypatch)


def data_of(page):
    """The data that a page holds."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1])


def test_own_videos_from_files_to_report(copy):
    config = Path("configs/own.cfg").read_text()
    assert "min_area = 64" in config and "flow_method = dis" in config and "layout = plain" in config
    prepared = {row["video"]: row for row in csv.DictReader(open("raw_datasets/own/videos.csv", encoding="utf-8"))}
    assert set(prepared) == {ODD[0], NIGHT, ODD[2]} and prepared[NIGHT]["fps"] == "12.5"
    assert Path(f"raw_datasets/own/videos/{ODD[0]}.mp4").is_symlink()
    frames = sorted(Path(f"raw_datasets/own/videos/{ODD[2]}").iterdir())
    assert [int(Path(f).resolve().stem) for f in frames] == list(range(1, 31))
    made = json.loads(Path("results/own/test/metrics.json").read_text())
    assert made["abnormal_frames"] == 45 and made["labels"] == "frame ranges labels.csv" and 0 <= made["auroc"] <= 1
    flow = json.loads(Path(f"optical_flow/own/videos/{ODD[2]}/flow.json").read_text())
    assert flow["seconds"] >= 0 and flow["command"].startswith("calc_optical_flow.py")
    page = Path("results/own/test/report.html").read_text()
    assert "Of the weight removed in the last epoch" in page and page.count("<br>weight ") == 3
    data = data_of(Path("results/own/test/report.html"))
    assert {video["name"] for video in data["videos"]} == set(prepared)
    assert {tuple(video["size"]) for video in data["videos"]} == {(60, 90), (80, 120)}
    assert all(len(video["pictures"]) == 30 for video in data["videos"])


def test_events_are_what_the_scores_say(copy):
    rows = list(csv.DictReader(open("results/own/test/events.csv", encoding="utf-8")))
    frame_scores = np.load("results/own/test/frame_scores.npy")
    boxes, box_scores = np.load("data/own/test/bboxes.npy"), np.load("results/own/test/box_scores.npy")
    first = {name: 30 * k for k, name in enumerate(sorted((ODD[0], NIGHT, ODD[2])))}
    curve = events.curve(frame_scores, [(0, 30), (30, 60), (60, 90)], 10)
    limit = json.loads(Path("results/own/test/events.json").read_text())["threshold"]
    assert rows and (curve > limit).sum() == 27  # 0.3 of 90
    for row in rows:
        peak = first[row["video"]] + int(row["peak_frame"]) - 1
        here = boxes[:, 0] == peak
        inside = slice(first[row["video"]] + int(row["first_frame"]) - 1, first[row["video"]] + int(row["last_frame"]))
        assert float(row["peak_score"]) == pytest.approx(curve[inside].max(), abs=1e-3) and curve[inside].max() > limit
        assert curve[peak] == curve[inside].max()
        box = boxes[here][np.argmax(box_scores[here]), 1:]
        np.testing.assert_allclose([float(row[k]) for k in ("x1", "y1", "x2", "y2")], box, atol=0.1)
        assert int(row["first_frame"]) <= int(row["peak_frame"]) <= int(row["last_frame"])
        rate = {ODD[0]: 25, NIGHT: 12.5}.get(row["video"])
        assert row["first_second"] == (str(round((int(row["first_frame"]) - 1) / rate, 2)) if rate else "")
        assert row["last_time"] == ("" if not rate else "0:00:01" if 0.5 < float(row["last_second"]) < 1.5 else "0:00:02")
    done = run_script("test.py", "--dataset_name", "own", "--event_z", "99")
    assert "done with the same settings" in done.stdout and "0 events above 99.00" in done.stdout
    assert Path("results/own/test/events.csv").read_text().count("\n") == 1


def test_curve_and_events_stay_inside_their_videos():
    scores = np.float32([0, 9, 0, -20, 0, 0, 6, 6])
    spans = [(0, 4), (4, 8)]
    smooth = events.curve(scores, spans, 2)
    np.testing.assert_allclose(smooth, [0, 4.5, 4.5, 0, 0, 0, 3, 6])  # one frame before and the frame itself
    assert events.runs(smooth > 4, spans) == [(1, 3), (7, 8)]
    assert events.runs(np.ones(8, bool), spans) == spans
    assert events.runs(np.array([1, 0, 1, 0, 1, 0, 0, 1], bool), spans, 2) == [(0, 3), (4, 5), (7, 8)]
    boxes = np.array([[1, 0, 0, 9, 9], [1, 1, 1, 8, 8], [6, 2, 2, 7, 7]], np.float32)
    rows = events.highest_rows(np.array([3, 9, 6.0]), boxes, np.arange(8))
    assert rows.tolist() == [-1, 1, -1, -1, -1, -1, 2, -1]


def test_new_videos_with_a_trained_model(copy):
    run_script("tools.prepare_videos", "new", "new/neu.mp4")
    done = pipeline("new", "--model", "data/own/test")
    assert "there are no labels" in done.stdout and not list(Path("data/new/test").glob("model_*"))
    made = json.loads(Path("results/new/test/metrics.json").read_text())
    assert made["model"] == "data/own/test" and made["auroc"] is None
    page = Path("results/new/test/report.html").read_text()
    assert "no labels to compare with" in page and "What refinement dropped" in page
    # The statistics are those of the training: scores are not centred on these cubes.
    assert abs(np.load("results/new/test/box_scores.npy").mean()) > 1e-3


def test_the_pipeline_makes_cubes_like_those_of_the_model(copy):
    words = ["--dataset_name", "own", "--patch_size", "16", "--use_flow", "true"]
    cfg = parse_config("", [*words, "--model", "data/own/test"])
    assert settings_of_model(cfg, {"use_flow"}) == [("patch_size", ["--patch_size", "32"])]
    assert settings_of_model(cfg, set())[0] == ("use_flow", ["--use_flow", "false"])
    assert settings_of_model(parse_config("", words), set()) == []
    run_script("extract_bbox.py", "--dataset_name", "own", "--motion_thr", "0.5", "--data_root_dir", "other")
    run_script("extract_stc.py", "--dataset_name", "own", "--data_root_dir", "other")
    done = run_script("test.py", "--dataset_name", "own", "--data_root_dir", "other", "--model", "data/own/test")
    assert "found differently (motion_thr 1.0, now 0.5)" in done.stdout


def test_report_and_overlay_of_a_part_of_merged_videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ucsd_tree(tmp_path, frames=14)
    part = ["--dataset_name", "UCSDped2", "--mode", "merge", "--videos", "1,3", "--frame_step", "2", "--limit_frames", "12"]
    run_script("calc_optical_flow.py", *part, "--flow_method", "dis")
    run_script("extract_bbox.py", *part, "--detector", "none")
    run_script("extract_stc.py", *part)
    run_script("train.py", *part, *TRAIN, "--h_block", "2")
    run_script("test.py", *part)
    run_script("tools.report", "UCSDped2", "merge")
    videos = data_of(Path("results/UCSDped2/merge/report.html"))["videos"]
    assert [video["name"] for video in videos] == ["Train001", "Test002"]
    assert all(video["frame"] == [1, 3, 5, 7, 9, 11] and len(video["count"]) == 6 for video in videos)
    boxes = np.load("data/UCSDped2/merge/bboxes.npy")
    assert sum(videos[1]["count"]) == (boxes[:, 0] >= 28).sum() > 0
    run_script("tools.overlay", "UCSDped2", "merge", "--video", "Test002")
    assert cv2.VideoCapture("results/UCSDped2/merge/overlay/Test002.webm").get(cv2.CAP_PROP_FPS) == 12.5


def test_thinned_resized_and_labelled_frames(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "fast.avi", draw(40, 5)[0], "MJPG", 50)
    (tmp_path / "labels.csv").write_text("fast,11,20\n")
    done = run_script("tools.prepare_videos", "thin", "fast.avi", "--fps", "10", "--long_side", "45", "--labels", "labels.csv")
    assert "fast: 8 frames of 30x45, 10 fps; frames written as .jpg" in done.stdout
    assert Path("raw_datasets/thin/labels.csv").read_text() == "video,first_frame,last_frame\nfast,3,4\n"
    frames = sorted(Path("raw_datasets/thin/videos/fast").iterdir())
    assert [f.name for f in frames] == [f"{k:06d}.jpg" for k in range(1, 9)] and cv2.imread(str(frames[0])).shape == (30, 45, 3)


def test_names_of_videos_in_folders_of_folders(copy):
    for name in ("a/1.mp4", "b/1.mp4", "b/1.avi"):
        film(Path("deep", name), draw(6, 3)[0], "mp4v" if name.endswith("4") else "MJPG", 25)
    write_frames("deep/b/.hidden", draw(3, 3)[0], ".png")
    Path("deep/notes.txt").write_text("not a video")
    Path("lines.csv").write_text("a_1,2,3\ndeep/b/1.avi,4,4\n")  # by the name here, or by the path
    done = run_script("tools.prepare_videos", "deep", "deep", "--labels", "lines.csv")
    assert "is called b_1-2 here" in done.stdout
    assert {p.name for p in Path("raw_datasets/deep/videos").iterdir()} == {"a_1.mp4", "b_1.avi", "b_1-2.mp4"}
    assert Path("raw_datasets/deep/labels.csv").read_text().splitlines()[1:] == ["a_1,2,3", "b_1,4,4"]


def test_a_bad_file_among_many_and_cameras_of_several_sizes(copy):
    film(Path("many/gate/1.mp4"), draw(6, 3)[0], "mp4v", 25)
    film(Path("many/gate/2.avi"), draw(6, 3)[0], "MJPG", 25, (120, 80))
    write_frames("many/yard 2/a", draw(3, 3)[0], ".jpg")
    Path("many/gate/0.mp4").write_bytes(Path("many/gate/1.mp4").read_bytes()[:900])
    done = run_script("tools.prepare_videos", "many", "many", rc=2)
    assert "0.mp4: cannot be read as a video" in done.stderr and "skip it with --skip_bad" in done.stderr
    done = run_script("tools.prepare_videos", "many", "many", "--skip_bad", "--fps", "20")
    assert "many/gate/0.mp4: cannot be read as a video" in done.stdout.split("skipped: ")[1]
    assert "3 videos, 13 frames" in done.stdout
    assert "note: 3 folders or frame sizes" in done.stdout
    assert "prepare_videos many_1 many/gate/1.mp4 --fps 20 --skip_bad\n" in done.stdout
    assert "prepare_videos many_3 'many/yard 2' --fps 20 --skip_bad\n" in done.stdout
    assert "frame sizes" not in run_script("tools.prepare_videos", "one", "many/gate/1.mp4").stdout
    assert "none of the 1 videos" in run_script("tools.prepare_videos", "no", "many/gate/0.mp4", "--skip_bad", rc=2).stderr


@pytest.mark.parametrize("words, names", [
    (["own", "in"], ["raw_datasets/own", "already exists"]),
    (["avenue", "in"], ["avenue"]),
    (["a b", "in"], ["a b", "letters"]),
    (["b", "nowhere"], ["nowhere", "no such file"]),
    (["b", "configs"], ["configs", "no videos or frames"]),
    (["b", "labels.csv"], ["labels.csv", "cannot be read as a video"]),
    (["b", "in", "--fps", "0"], ["--fps 0"]),
    (["b", "in", "--labels", "bad.csv"], ["bad.csv", "line 1"]),
    (["b", "in", "--labels", "far.csv"], ["far.csv", "Nacht", "has 30 frames"]),
    (["b", "in", "--labels", "who.csv"], ["who.csv", "nobody", "known: "]),
])
def test_bad_words_to_prepare_videos(copy, words, names):
    Path("bad.csv").write_text("a,3\n1,5,2\n")
    Path("far.csv").write_text(f"{ODD[1]},3,31\n")
    Path("who.csv").write_text("nobody,3,4\n")
    done = run_script("tools.prepare_videos", *words, rc=2)
    assert all(name in done.stderr for name in names) and done.stderr.count("error:") == 1
    assert not Path("raw_datasets/b").exists() and not Path("configs/b.cfg").exists()


def test_a_link_to_a_video_that_is_gone(copy):
    link = Path(f"raw_datasets/own/videos/{ODD[0]}.mp4")
    link.unlink()
    link.symlink_to("/nowhere/film.mp4")
    done = run_script("calc_optical_flow.py", "--dataset_name", "own", rc=2)
    assert f"{link}: links to /nowhere/film.mp4, which does not exist" in done.stderr


def test_large_sets_are_split_over_files(copy):
    run_script("tools.report", "own", "test", "--megabytes", "0.02")
    pages = sorted(Path("results/own/test").glob("report_*.html"))
    index = Path("results/own/test/report.html").read_text()
    assert len(pages) == 3 and 'id="data"' not in index
    for page in pages:
        assert f'href="{page.name}#' in index and len(data_of(page)["videos"]) == 1
    again = run_script("tools.report", "own", "test", "--megabytes", "0.02")
    assert "up to date" in again.stdout
    run_script("tools.report", "own", "test")
    assert not list(Path("results/own/test").glob("report_*.html"))


def test_headline_with_an_interval_and_the_protocol_table(copy):
    path = Path("results/own/test/metrics.json")
    made = json.loads(path.read_text())
    made["protocols"] = [{"name": "official", "auroc": 0.9, "low": 0.85, "high": 0.93, "official": True},
                         {"name": "each video <alone>", "auroc": None}]
    path.write_text(json.dumps(made))
    tested = record.load(path.with_name("test.json"))
    record.write(path.with_name("test.json"), tested | {"outputs": tested["outputs"] | {path.name: record.describe(path)}})
    run_script("tools.report", "own", "test")
    page = Path("results/own/test/report.html").read_text()
    assert "90.0 %" in page and "85.0 to 93.0" in page and "85.0 – 93.0" in page and "each video &lt;alone&gt;" in page


def test_report_without_scores_or_with_other_cubes(copy):
    done = run_script("tools.report", "own", "merge", rc=2)
    assert "run test.py first" in done.stderr
    run_script("extract_bbox.py", "--dataset_name", "own", "--min_area", "100")
    run_script("extract_stc.py", "--dataset_name", "own")
    done = run_script("tools.report", "own", "test", rc=2)
    assert "other cubes" in done.stderr


def test_report_without_models_has_no_reconstructions(copy):
    Path("data/own/test/train.json").unlink()
    Path("results/own/test/report.html").unlink()
    done = run_script("tools.report", "own", "test")
    assert "no reconstructions" in done.stdout
    assert all(not cube for video in data_of(Path("results/own/test/report.html"))["videos"]
               for _, cube in video["pictures"].values())


def test_overlay(copy):
    run_script("tools.overlay", "own", "test", "--video", ODD[0], "--width", "180")
    (path,) = Path("results/own/test/overlay").glob("[!.]*")
    assert path.stem == ODD[0]
    film_made = cv2.VideoCapture(str(path))
    shown = [film_made.read()[1] for _ in range(30)]
    assert shown[-1].shape == (120 + 120, 180, 3) and film_made.get(cv2.CAP_PROP_FPS) == 25 and not film_made.read()[0]
    shaded = shown[0][-60:-10].astype(int)[:, [45, 160]].mean(axis=0)  # frames 8 and 27, the second is abnormal
    assert shaded[0].min() > 235 and shaded[1, 2] - shaded[1, 1] > 15
    done = run_script("tools.overlay", "own", "test", "--video", "nobody", rc=2)
    assert "nobody" in done.stderr and ODD[0] in done.stderr


def test_a_clip_of_each_event_and_a_picture_of_all(copy):
    run_script("test.py", "--dataset_name", "own", "--event_share", "0.6")
    folder = Path("results/own/test/overlay/events")
    found = list(csv.DictReader(open("results/own/test/events.csv", encoding="utf-8")))
    run_script("tools.overlay", "own", "test", "--events", "--width", "180")
    for row in found:
        first, last = int(row["first_frame"]), int(row["last_frame"])
        when = f"0h00m0{row['first_time'][-1]}s_" if row["first_time"] else ""
        made = films.read(folder / f"{row['video']}_{when}frame{first}.webm")
        alone = [other["video"] for other in found].count(row["video"]) == 1
        around = 24 if row["video"] == NIGHT and alone else 30 if alone else 0  # two seconds
        assert min(30, last + around) - max(0, first - 1 - around) <= made.count <= 30
    assert {row["video"] for row in found} > {ODD[2]}
    assert len(found) > 1 and len(list(folder.glob("*.webm"))) == len(found)
    columns = min(6, len(found))
    assert cv2.imread(str(folder / "events.jpg")).shape == (320 * -(-len(found) // columns), 320 * columns, 3)
    run_script("test.py", "--dataset_name", "own", "--event_z", "99")
    assert "0 films" in run_script("tools.overlay", "own", "test", "--events").stdout and not list(folder.glob("*.webm"))


def test_clips_meet_half_way_between_events_that_are_close():
    found = [{"start": a, "stop": b} for a, b in ((110, 200), (221, 230), (400, 1099))]
    assert events.around(found, (100, 1100), 50) == [(100, 210), (210, 280), (350, 1100)]
    assert events.around([], (100, 1100), 50) == []
    assert [events.clock(seconds) for seconds in (75.3, 3599.6, 90000)] == ["0:01:15", "1:00:00", "25:00:00"]


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium is installed here (Debian: apt install chromium)")
def test_the_page_in_a_browser(own, tmp_path):
    run = own / "results/own/test"
    shutil.copy(run / "report.html", tmp_path / "report.html")
    with contextlib.chdir(own):
        run_script("tools.overlay", "own", "test", "--video", ODD[0], "--width", "128")
    film_made = next((run / "overlay").glob(f"{ODD[0]}.*"))
    with browser.chromium() as page:
        for width, dark in ((1400, False), (390, True)):
            page.open(tmp_path / "report.html", width, 800, dark)
            assert page.run("document.documentElement.scrollWidth") == width
            ground = page.run("getComputedStyle(document.body).backgroundColor")
            assert (int(re.search(r"\d+", ground)[0]) < 100) == dark
            assert page.run("[...document.querySelectorAll('.track path')].every((line) => line.getBoundingClientRect().top"
                            " >= 1 + line.ownerSVGElement.getBoundingClientRect().top)")  # no line is cut at the top
        page.open(tmp_path / "report.html", 1400, 800)
        number, names = int(page.run("DATA.videos[1].v")), [video["name"] for video in data_of(run / "report.html")["videos"]]
        edge = page.run(f"(() => {{ const t = document.getElementById('track-{number}'); t.scrollIntoView({{block: 'center', "
                        "behavior: 'instant'}); const r = t.getBoundingClientRect(); return [r.left, r.top, r.width]; })()")
        caption = "document.getElementById('caption').textContent"
        for share, frame in ((0.11, 4), (0.72, 22)):  # the mouse moves along the timeline
            page.mouse("mouseMoved", edge[0] + share * edge[2], edge[1] + 40)
            page.until(f"{caption}.includes('frame {frame} ·')")
            assert names[1] in page.run(caption)
        page.until("document.getElementById('frame').naturalWidth > 0 && document.getElementById('sheet').naturalWidth === 160")
        rows = page.run("DATA.videos[1].count[21]")
        assert page.run("document.querySelectorAll('#boxes rect').length") == rows > 0
        assert page.run("document.querySelectorAll('#names span').length") == 3
        page.mouse("mousePressed", edge[0] + 0.72 * edge[2], edge[1] + 40, True)  # a click holds the frame
        page.mouse("mouseReleased", edge[0] + 0.72 * edge[2], edge[1] + 40, True)
        page.mouse("mouseMoved", edge[0] + 0.2 * edge[2], edge[1] + 40)
        page.until(f"{caption}.includes('frame 22 ·')")
        for key, frame in (("ArrowRight", 23), ("ArrowLeft", 22), ("Home", 1), ("End", 30)):
            page.key(key)
            page.until(f"{caption}.includes('frame {frame} ·')")
        assert page.run(f"document.getElementById('track-{number}').getAttribute('aria-valuenow')") == "30"
        page.key("Escape")
        page.mouse("mouseMoved", edge[0] + 0.11 * edge[2], edge[1] + 41)
        page.until(f"{caption}.includes('frame 4 ·')")
        for kind, share in (("touchStart", 0.5), ("touchMove", 0.72)):  # a finger
            page.touch(kind, edge[0] + share * edge[2], edge[1] + 40)
        page.until(f"{caption}.includes('frame 22 ·')")
        page.touch("touchEnd")
        listed = "[...document.querySelectorAll('#events a')].map((link) => link.textContent)"
        rows = list(csv.DictReader(open(run / "events.csv", encoding="utf-8")))
        assert [f"frames {row['first_frame']} to {row['last_frame']}, score {float(row['peak_score']):.2f}" in words
                for row, words in zip(rows, page.run(listed), strict=True)] == [True] * len(rows)
        marks, slider = "document.querySelectorAll('.alarm').length", "document.getElementById('limit')"
        assert page.run(marks) == len(rows) and page.run("document.getElementById('back').hidden")
        curve = events.curve(np.load(run / "frame_scores.npy"), [(0, 30), (30, 60), (60, 90)], 10)
        for limit in (float(np.quantile(curve, 0.2)), 0.99 * curve.max() + 0.01, float(curve.max()) + 1):  # it is moved
            page.run(f"{slider}.value = {limit}; {slider}.dispatchEvent(new Event('input'))")
            expected = len(events.runs(curve > float(page.run(f"{slider}.value")), [(0, 30), (30, 60), (60, 90)], 10))
            assert page.run(marks) == len(page.run(listed)) == expected
            assert page.run("document.getElementById('count').textContent").startswith(f"{expected} event")
        page.run("document.getElementById('back').click()")
        assert page.run(marks) == len(rows)
        page.run("document.querySelector('.cards a').click()")  # an alarm leads to its frame
        page.until(f"{caption}.includes('held') && location.hash.length > 2")
        assert not page.console
        assert all(url.startswith(("data:", "file:///")) for url in page.requests)
        assert sum(url.startswith("file:") for url in page.requests) == 3
        page.open(film_made)
        page.until("document.querySelector('video') && document.querySelector('video').readyState >= 2")
        page.run("document.querySelector('video').play()")
        page.until("document.querySelector('video').currentTime > 0.3")
        assert page.run("document.querySelector('video').videoWidth") == 128


def test_names_with_dollars_and_letters_that_no_font_has(tmp_path, capsys):
    scores = np.array([0, 1e308, -1e308, 3])
    figure = plots.timeline(scores, scores > 1, [0, 2], [r"a $\foo$ b_c^2", "\ue123"], r"$\bar")
    plots.save(figure, tmp_path / "scores.png")
    assert cv2.imread(str(tmp_path / "scores.png")).std() > 1 and "no installed font has all letters" in capsys.readouterr().out
    boxes = Boxes(np.float32([[0, 0, 0, 9, 9], [3, 0, 0, 9, 9]]), 4, (0, 2), [[9, 9]] * 2, {})
    sheet = plots.cube_sheet(np.zeros((2, 15, 8, 8), np.uint8), np.zeros(2), boxes, [r"$\foo$", "x"], r"$\bar$")
    plots.save(sheet, tmp_path / "cubes.png")
    assert capsys.readouterr().out == ""


def test_words_and_scores_that_events_cannot_use(copy):
    done = run_script("test.py", "--dataset_name", "own", "--event_share", "1.5", rc=2)
    assert "--event_share: must be 0 to 1" in done.stderr
    scores = np.load("results/own/test/box_scores.npy").astype(np.float64)
    shutil.rmtree("results/own/test")
    Path("results/own/test").mkdir()
    np.save("results/own/test/box_scores.npy", np.where(scores > 1, 1e308, -1e308))
    done = run_script("test.py", "--dataset_name", "own", rc=2)
    assert "one finite score per box" in done.stderr and "Traceback" not in done.stderr
