"""Video files as cameras and phones write them, frames as scientists store them, boxes as other detectors write them."""

import csv
import os
import shutil
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import SUITE, run_script
from PIL import Image
from trees import draw, ucsd_tree, write_frames

from fore_det.boxes import moving
from utils import datasets, films, frames
from utils.errors import UserError

RATE = 25


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("raw_datasets").mkdir()
    return tmp_path


def encode(path, video, codec="mpeg4", flags="", stamps=None, rotation=0, pix_fmt="yuv420p"):
    """Writes frames (F, H, W, 3); stamps: time of each in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], pix_fmt
        stream.options = {"flags": flags, "qscale": "2"} if flags else {}
        if stamps is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for t, image in enumerate(video):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[t], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read(path):
    film = Path(path)
    return list(frames.load(datasets.Video("v", film, ("",) * films.read(film).count, True), range(films.read(film).count)))


@pytest.mark.parametrize("name, codec", [("a.avi", "mpeg4"), ("a.mp4", "libx264"), ("a.mpg", "mpeg2video"), ("a.mkv", "mjpeg"),
                                         ("a.avi", "libx264")])
def test_progressive_films_give_the_bytes_of_opencv(place, name, codec):
    encode(name, draw(12, 1, size=(96, 128))[0], codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p")
    capture = cv2.VideoCapture(name)
    for frame in read(name):
        np.testing.assert_array_equal(frame, capture.read()[1])
    assert not capture.read()[0]
    np.testing.assert_allclose(films.read(name).times[:12], np.arange(12) / RATE, atol=1e-3)


def test_a_title_that_is_not_utf_8(place):
    with av.open("a.avi", "w") as container:
        container.metadata["title"] = "TITLETITLE"
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for image in draw(5, 1, size=(96, 128))[0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    content = Path("a.avi").read_bytes()
    assert b"TITLETITLE" in content
    Path("a.avi").write_bytes(content.replace(b"TITLETITLE", "Straße Süd".encode("cp1252")))
    assert len(read("a.avi")) == 5


def test_a_film_cut_short_gives_all_frames_before_the_cut(place, capfd):
    encode("long.flv", draw(40, 1, size=(96, 128))[0], "libx264")
    content = Path("long.flv").read_bytes()
    for share in (0.5, 0.6, 0.7, 0.8):
        Path("a.flv").write_bytes(content[:int(len(content) * share)])
        numbers = [number for number, _ in films.decode("a.flv", quiet=True)]
        assert len(numbers) >= films.read("a.flv").count - 1 and numbers == sorted(numbers)


def test_an_interlaced_film_whose_size_changes(place):
    for name, size in (("a.ts", (96, 128)), ("b.ts", (128, 160))):
        encode(name, draw(12, 1, size=size)[0], "mpeg2video", "+ilme+ildct")
    Path("c.ts").write_bytes(Path("a.ts").read_bytes() + Path("b.ts").read_bytes())
    with pytest.raises(UserError, match="c.ts: frame 1[23] is 160x128"):
        read("c.ts")


def test_a_sound_recording_with_a_cover_is_no_video(place):
    encode("cover.mkv", draw(1, 1, size=(96, 128))[0], "mjpeg", pix_fmt="yuvj420p")
    with av.open("cover.mkv") as cover, av.open("a.mp4", "w") as container:
        stream = container.add_stream_from_template(cover.streams.video[0])
        stream.disposition = av.stream.Disposition.attached_pic
        for packet in cover.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    with pytest.raises(UserError, match="this video has no frames"):
        films.read(Path("a.mp4"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_pipe_among_the_videos_is_not_waited_for(place):
    os.mkfifo("a.mp4")
    assert "a.mp4: cannot be read (not a file)" in run_script("tools.prepare_videos", "own", "a.mp4", rc=2).stderr


@pytest.mark.parametrize("name, codec", [("a.mpg", "mpeg2video"), ("a.avi", "mpeg4"), ("a.ts", "mpeg2video")])
def test_interlaced_films_of_older_recorders(place, capfd, name, codec):
    video = draw(12, 1, size=(96, 128))[0]
    encode(name, video, codec, "+ilme+ildct")
    found = read(name)
    assert len(found) == 12 and "deinterlaced" in capfd.readouterr().out
    assert np.abs(np.stack(found[1:-1]).astype(int) - video[1:-1]).mean() < 12  # black would be 120 off


def test_a_film_that_is_black_throughout_is_said(place, capfd):
    encode("a.avi", np.zeros((5, 64, 64, 3), np.uint8))
    read("a.avi")
    assert "a.avi: every frame has a single colour" in capfd.readouterr().err


def test_a_film_shorter_than_its_header(place, capfd):
    encode("long.avi", draw(40, 1, size=(96, 128))[0], "mjpeg", pix_fmt="yuvj420p")
    content = Path("long.avi").read_bytes()
    Path("raw_datasets/own/videos").mkdir(parents=True)
    Path("raw_datasets/own/videos/short.avi").write_bytes(content[:len(content) * 2 // 3])
    dataset = datasets.find("own", "test", "plain")
    assert 10 < dataset.num_frames < 39 and any("header says 40 frames" in note for note in dataset.notes)


def test_times_of_a_phone_film_of_variable_rate(place):
    stamps = [0, 40, 80, 1000, 1040, 1080, 2000, 3000, 3040, 4000]
    encode("phone.mp4", draw(10, 1, size=(96, 128))[0], "libx264", stamps=stamps)
    np.testing.assert_allclose(films.read(Path("phone.mp4")).times[:-1], np.array(stamps) / 1000, atol=2e-3)
    Path("l.csv").write_text("video,first_second,last_second\nphone,1,2\n")
    run_script("tools.prepare_videos", "own", "phone.mp4", "--labels", "l.csv")
    assert Path("raw_datasets/own/labels.csv").read_text().splitlines()[1:] == ["phone,4,6"]
    run_script("tools.prepare_videos", "thin", "phone.mp4", "--fps", "1")
    listed = list(csv.DictReader(Path("raw_datasets/thin/videos.csv").open()))
    assert (listed[0]["frames"], listed[0]["fps"]) == ("5", "1")  # what is seen at 0, 1, 2, 3 and 4 seconds
    done = run_script("tools.prepare_videos", "uneven", "phone.mp4", "--fps", "10")
    assert "phone.mp4: its frames are up to 1 s apart" in done.stdout  # in place of seconds by the mean rate
    assert list(csv.DictReader(Path("raw_datasets/uneven/videos.csv").open()))[0]["fps"] == ""


def test_a_film_of_variable_rate_that_is_made_smaller_gets_no_invented_seconds(place):
    encode("phone.mp4", draw(6, 1, size=(96, 128))[0], "libx264", stamps=[0, 40, 80, 2000, 2040, 3000])
    encode("even.mp4", draw(6, 1, size=(96, 128))[0], "libx264")
    done = run_script("tools.prepare_videos", "own", "phone.mp4", "even.mp4", "--long_side", "64")
    assert "phone.mp4: its frames are up to 1.92 s apart" in done.stdout and "even.mp4: its" not in done.stdout
    listed = {row["video"]: row["fps"] for row in csv.DictReader(Path("raw_datasets/own/videos.csv").open())}
    assert listed == {"phone": "", "even": "25"}


def test_an_upright_phone_film_is_the_right_way_up(place):
    encode("a.mp4", draw(3, 1, size=(96, 128))[0], "libx264")
    content = Path("a.mp4").read_bytes()
    upright, turned = (struct.pack(">9i", *m) for m in ((65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30),
                                                        (0, 65536, 0, -65536, 0, 0, 6291456, 0, 1 << 30)))
    at = content.index(upright, content.index(b"tkhd"))
    Path("a.mp4").write_bytes(content[:at] + turned + content[at + len(turned):])
    found = read("a.mp4")[0]
    assert found.shape == (128, 96, 3)
    np.testing.assert_array_equal(found, cv2.VideoCapture("a.mp4").read()[1])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_frames_of_16_bits(place, suffix):
    video = draw(3, 1)[0].astype(np.uint16)
    write_frames("full", video << 8, suffix)
    np.testing.assert_array_equal(frames.decode_image(Path(f"full/001{suffix}")), video[0].astype(np.uint8))
    write_frames("raw_datasets/UCSDped2/Test/Test001", video << 2, suffix)  # a camera of 10 bits
    done = run_script("calc_optical_flow.py", "--dataset_name", "UCSDped2", "--flow_method", "dis", rc=2)
    assert f"001{suffix}" in done.stderr and "10 or 12 bits" in done.stderr


def test_a_tif_of_many_pages(place):
    Path("raw_datasets/UCSDped2/Test/Test001").mkdir(parents=True)
    cv2.imwritemulti("raw_datasets/UCSDped2/Test/Test001/001.tif", list(draw(4, 1)[0]))
    done = run_script("calc_optical_flow.py", "--dataset_name", "UCSDped2", "--flow_method", "dis", rc=2)
    assert "001.tif" in done.stderr and "has several images" in done.stderr


@pytest.mark.parametrize("text", [b"", zlib.compress(bytes(2 << 20))], ids=["", "behind a long text"])
def test_a_huge_image_is_refused_by_its_header(place, text):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    Path("raw_datasets/UCSDped2/Test/Test001").mkdir(parents=True)
    rows = zlib.compressobj()
    packed = b"".join(rows.compress(bytes(1 << 20)) for _ in range(200)) + rows.flush()
    Path("raw_datasets/UCSDped2/Test/Test001/001.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
        + (chunk(b"zTXt", b"a\0\0" + text) if text else b"") + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    done = run_script("calc_optical_flow.py", "--dataset_name", "UCSDped2", "--flow_method", "dis", rc=2)
    assert "001.png" in done.stderr and "60000x60000" in done.stderr


def test_a_huge_film_is_refused_by_its_header(place, monkeypatch):
    encode("a.avi", draw(3, 1)[0], "mjpeg", pix_fmt="yuvj420p")
    monkeypatch.setattr(films, "MAX_PIXELS", 5000)
    monkeypatch.setattr(films, "_numbered", None)  # what decodes
    assert "a.avi: is 60x90" in run_script("tools.prepare_videos", "own", "a.avi", rc=2).stderr


def test_headers_that_make_no_sense(place):
    """A second page without a size; a picture of a kind that no frame has, whose size nobody would ask for first."""
    page = struct.pack("<HHHII", 1, 256, 4, 1, 40)
    image = cv2.imencode(".tif", draw(1, 1)[0][0])[1].tobytes()
    start = struct.unpack("<I", image[4:8])[0]
    end = start + 2 + 12 * struct.unpack("<H", image[start:start + 2])[0]
    Path("a.tif").write_bytes(image[:end] + struct.pack("<I", len(image)) + image[end + 4:] + page + bytes(4))
    assert frames.decode_image(Path("a.tif")).shape == (60, 90, 3)
    Path("b.png").write_bytes(cv2.imencode(".hdr", np.ones((9, 9, 3), np.float32))[1])
    assert frames.decode_image(Path("b.png")) is None


@pytest.mark.parametrize("name, form, more", [
    ("turned.jpg", "RGB", {"exif": True}), ("a.jpg", "CMYK", {}), ("a.tif", "CMYK", {}), ("a.png", "P", {}), ("a.bmp", "P", {}),
    ("a.png", "RGBA", {}), ("a.png", "LA", {}), ("a.png", "1", {})])
def test_images_of_other_kinds_are_as_large_as_their_headers_say(place, name, form, more):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30] = 200, 100, 50  # RGB
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter
    Image.fromarray(image).convert(form).save(name, **({"exif": exif, "quality": 95} if more else {}))
    found, size = frames.decode_image(Path(name)), frames.size_of(datasets.Video("a", Path(), (name,), True))
    corner = found[10, 25 if more else 10].astype(int)  # BGR
    assert found.shape == (*size, 3) == ((60, 40, 3) if more else (40, 60, 3)) and found[-1, 0].max() < 9
    assert np.abs(corner - (50, 100, 200)).max() < 9 or form in ("LA", "1") and corner.min() == corner.max() > 100


def test_prepare_videos_with_a_damaged_first_frame(place):
    write_frames("in/a", draw(6, 1)[0], ".png")
    Path("in/a/001.png").write_bytes(b"")
    assert "6 frames of 60x90" in run_script("tools.prepare_videos", "own", "in").stdout
    Path("in/a/003.png").write_bytes(b"")
    Path("in/a/001.png").write_bytes(Path("in/a/002.png").read_bytes())
    done = run_script("tools.prepare_videos", "small", "in", "--long_side", "45")
    assert "003.png" in done.stderr and "--on_bad_frame" not in done.stderr
    assert len(list(Path("raw_datasets/small/videos/a").iterdir())) == 6


def test_a_text_file_is_no_film(place):
    Path("raw_datasets/avenue/testing_videos").mkdir(parents=True)
    Path("raw_datasets/avenue/testing_videos/notes.mp4").write_text("hello")
    done = run_script("calc_optical_flow.py", "--dataset_name", "avenue", "--flow_method", "dis", rc=2)
    assert "notes.mp4: cannot be read as a video" in done.stderr


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="limits of file sizes are POSIX's")
def test_films_with_boxes_on_a_full_disk(ped2, tmp_path):
    root = shutil.copytree(ped2, tmp_path / "copy", symlinks=True)
    done = subprocess.run(["bash", "-c", f"ulimit -f 12; exec {sys.executable} -m tools.overlay UCSDped2 test"], cwd=root,
                          env=os.environ | {"PYTHONPATH": str(SUITE)}, capture_output=True, text=True)
    assert done.returncode == 2 and "Test001.webm: cannot be written (File too large)" in done.stderr
    assert not list(root.glob("results/UCSDped2/test/overlay/*.[wma]*"))


SIDES = np.array([90, 60, 90, 60])
FORMS = {  # of corners (n, 4) in pixels of frames of 60x90
    "x y width height": (lambda b: np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]), "x y width height"),
    "centre width height": (lambda b: np.hstack([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]]), "x y width height"),
    "shares of the frame": (lambda b: b / SIDES, "shares of the frame"),
    "per mille of the frame": (lambda b: b / SIDES * 1000, "a larger frame"),
    "y x y x": (lambda b: b[:, [1, 0, 3, 2]], "y x y x"),
    "score first": (lambda b: np.hstack([np.full((len(b), 1), 0.9), b]), "like a score"),
    "twice the size": (lambda b: b * 2, "a larger frame"),
}


@pytest.fixture(scope="module")
def corners():
    rng = np.random.default_rng(0)
    places = rng.uniform([30, 20], [70, 40], (28, 3, 2))
    return np.concatenate([places, places + rng.uniform(12, 20, (28, 3, 2))], axis=2)


@pytest.mark.parametrize("form", FORMS)
def test_boxes_in_another_form_are_refused(place, corners, form):
    ucsd_tree(place)
    there = np.empty(28, object)
    change, said = FORMS[form]
    there[:] = [change(boxes).astype(np.float32) for boxes in corners]
    np.save("theirs.npy", there, allow_pickle=True)
    done = run_script("extract_bbox.py", "--dataset_name", "UCSDped2", "--boxes_from", "theirs.npy", rc=2)
    assert said in done.stderr and "x1 y1 x2 y2 in pixels of these frames, 90x60" in done.stderr
    assert not Path("data/UCSDped2/test/bboxes.npy").exists()


def test_boxes_of_frames_half_as_large_are_said(place, corners):
    ucsd_tree(place)
    np.save("theirs.npy", corners / 2)
    done = run_script("extract_bbox.py", "--dataset_name", "UCSDped2", "--boxes_from", "theirs.npy")
    assert "upper left quarter" in done.stdout
    Path("theirs.pkl").write_bytes(b"")
    done = run_script("extract_bbox.py", "--dataset_name", "UCSDped2", "--boxes_from", "theirs.pkl", rc=2)
    assert "theirs.pkl: must be a .npy file" in done.stderr


def test_where_everything_moves_a_box_leaves_the_rest_as_one_motion_box():
    flow = np.full((60, 90, 2), 3.0, np.float32)
    assert moving(flow, np.empty((0, 4)), 1, 100).tolist() == []
    assert moving(flow, np.array([[10, 10, 30, 40]]), 1, 100).tolist() == [[0, 0, 90, 60]]
