"""1,000 bad files made from valid ones: refused with one line and exit code 2, or survived; never a traceback, never a hang, no
file written elsewhere, no valid output changed. 100 of them through the command line.
"""

import contextlib
import io
import json
import os
import pickle
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, run_script
from stages import BOXES, FLOW, NAME, SMALL, SUITE, forks
from trees import avenue_tree, shanghaitech_tree, ucsd_tree

VIDEO, FLOW_FOLDER = "raw_datasets/UCSDped2/Test/Test001", "optical_flow/UCSDped2/Test/Test001"
AVENUE, SHANGHAI = ["--dataset_name", "avenue"], ["--dataset_name", "ShanghaiTech"]
TRAIN = ["train.py", *NAME, *SMALL]
CUBES = "data/UCSDped2/test/"
BOXES_MADE, CUBES_MADE = CUBES + "*boxes*", CUBES + "[cs]*"  # with the arrays: without a record they would be the user's
# A file that a stage reads; the command that reads it; what is removed before (a pattern), so that it has to read it.
TARGETS = [
    (f"{VIDEO}/003.tif", ["calc_optical_flow.py", *NAME, *FLOW], FLOW_FOLDER),
    (f"{VIDEO}/003.tif", ["calc_optical_flow.py", *NAME, *FLOW, "--on_bad_frame", "repeat"], FLOW_FOLDER),
    (f"{VIDEO}/001.tif", ["extract_stc.py", *NAME, "--use_flow", "true"], CUBES_MADE),
    ("raw_datasets/avenue/testing_videos/01.avi", ["calc_optical_flow.py", *AVENUE, *FLOW], "optical_flow/avenue"),
    ("optical_flow/UCSDped2/Test/Test001/003.npy", ["extract_bbox.py", *NAME, *BOXES], BOXES_MADE),
    ("optical_flow/UCSDped2/Test/Test001/003.npy", ["extract_stc.py", *NAME, "--use_flow", "true"], CUBES_MADE),
    ("optical_flow/UCSDped2/Test/Test001/flow.json", ["extract_bbox.py", *NAME, *BOXES], BOXES_MADE),
    ("optical_flow/UCSDped2/Test/Test001/flow.json", ["calc_optical_flow.py", *NAME, *FLOW], ""),
    ("theirs.npy", ["extract_bbox.py", *NAME, "--boxes_from", "theirs.npy"], BOXES_MADE),
    ("theirs_rows.npy", ["extract_bbox.py", *NAME, "--boxes_from", "theirs_rows.npy"], BOXES_MADE),
    (CUBES + "bboxes.npy", ["extract_stc.py", *NAME, "--use_flow", "true"], CUBES_MADE),
    (CUBES + "bboxes.npy", TRAIN, CUBES + "train.json"),
    (CUBES + "bboxes.npy", ["test.py", *NAME], "results"),
    (CUBES + "boxes.json", ["extract_stc.py", *NAME, "--use_flow", "true"], CUBES_MADE),
    (CUBES + "boxes.json", ["test.py", *NAME], "results"),
    (CUBES + "stc_raw.npy", TRAIN, CUBES + "train.json"),
    (CUBES + "stc_of.npy", [*TRAIN, "--use_flow", "true"], CUBES + "train.json"),
    (CUBES + "cubes.json", TRAIN, CUBES + "train.json"),
    (CUBES + "cubes.json", ["test.py", *NAME], "results"),
    (CUBES + "model_0_0.pt", ["test.py", *NAME], "results"),
    (CUBES + "model_0_0.pt", TRAIN, CUBES + "train.json"),
    (CUBES + "train.part/model_0_0.pt", TRAIN, CUBES + "model_0_0.pt"),
    (CUBES + "train.json", ["test.py", *NAME], "results"),
    ("raw_datasets/UCSDped2/Test/Test001_gt/004.bmp", ["test.py", *NAME], "results"),
    ("raw_datasets/avenue/ground_truth_demo/testing_label_mask/1_label.mat", ["test.py", *AVENUE], "results"),
    ("raw_datasets/ShanghaiTech/Testing/test_frame_mask/02_0014.npy", ["test.py", *SHANGHAI], "results"),
    ("UCSDped2_model.npy", ["test.py", *NAME, "--model", "UCSDped2_model.npy"], ""),
    ("UCSDped2_raw_training_scores.npy", ["test.py", *NAME, "--model", "UCSDped2_model.npy"], ""),
    ("mine.cfg", [*TRAIN, "--config", "mine.cfg"], ""),
    ("weights.pth", ["calc_optical_flow.py", *NAME, "--flow_weights", "weights.pth"], "optical_flow/UCSDped2"),
    ("weights.pth", ["extract_bbox.py", *NAME, "--detector_weights", "weights.pth"], BOXES_MADE),
]
MAY_CHANGE = {"calc_optical_flow.py": "optical_flow", "extract_bbox.py": CUBES + "b", "extract_stc.py": CUBES,
              "train.py": CUBES, "test.py": "results"}
AT_WORK = (".lock", ".part", "flow.json")


class Writes:
    """A pickle that would write a file, were it ever run."""

    def __reduce__(self):
        return os.system, ("touch outside/written",)


# Mutations: (file, random) -> None. Of bytes, of places, and of arrays.
def cut(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[:rng.randrange(len(data))])


def flip(path, rng):
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 3, 30))):
        data[rng.randrange(min(len(data), rng.choice((128, len(data)))))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def overwrite(path, rng):
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    data[start:start + rng.randrange(1, 200)] = rng.randbytes(rng.randrange(200))
    path.write_bytes(data)


def append(path, rng):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 500)))


def zeros(path, rng):
    path.write_bytes(bytes(path.stat().st_size))


def empty(path, rng):
    path.write_bytes(b"")


def retype(path, rng):
    """The content of another input, under this name."""
    others = sorted({other for other, *_ in TARGETS if Path(other).suffix != path.suffix and Path(other).is_file()})
    path.write_bytes(Path(rng.choice(others)).read_bytes())


def rename(path, rng):
    path.rename(path.with_name(rng.choice(("ä ö.bin", path.stem, "x" + path.name))))


def folder(path, rng):
    path.unlink()
    path.mkdir()


def circle(path, rng):
    path.unlink()
    path.symlink_to(path.name)


def pipe(path, rng):
    path.unlink()
    os.mkfifo(path)


def hostile(path, rng):
    """A pickle that writes a file: alone, as an .npy of objects, as torch's old format, and within torch's archive."""
    import torch

    kind, content = rng.randrange(4), np.array([Writes(), None], object)
    if kind == 0:
        path.write_bytes(pickle.dumps(Writes(), rng.randrange(6)))
    elif kind == 1:
        with open(path, "wb") as file:
            np.save(file, content, allow_pickle=True)
    else:
        with open(path, "wb") as file:
            torch.save({"id": Writes(), "state_dict": [Writes()]}, file, _use_new_zipfile_serialization=kind == 2)


def reshape(path, rng):
    array = np.load(path, allow_pickle=True)
    ways = [lambda a: a[:-1], lambda a: a[:0], lambda a: a.ravel(), lambda a: a[None], lambda a: a.T, lambda a: a[::-1],
            lambda a: a.reshape(-1, 1), lambda a: np.concatenate([a, a]), lambda a: a.ravel()[0], lambda a: a[..., :1]]
    with open(path, "wb") as file:
        np.save(file, rng.choice(ways)(array), allow_pickle=True)


def renumber(path, rng):
    """Other types and values."""
    array = np.load(path, allow_pickle=True)
    if array.dtype == object:
        others = (None, "x", {}, array[:1], np.ones((2, 4), complex), 1e300, [[1, 2, 3, 4]])
        array[rng.randrange(len(array))] = rng.choice(others)
    elif rng.random() < 0.5:
        kinds = ("int64", "uint8", "bool", "complex64", ">f4", "S5", "U7", "datetime64[s]", "f8,i4", object)
        array = np.zeros(array.shape, rng.choice(kinds))
    else:
        array = array.astype(np.float64)
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e30, -1, 0.5))
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=True)


def header(path, rng):
    """An .npy header that lies about type and shape."""
    shape = rng.choice(("(10000000000000,)", "(-1, 5)", "(2, 2.5)", "(1,)*9999", "()", "('a',)", "(3, 5)", "(99999999, 5)"))
    descr = rng.choice(("'<f4'", "'|O'", "'<f9'", "[('a', '<f4')]", "'<M8[s]'",
                        "__import__('os').system('touch outside/written')"))
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + path.read_bytes()[128:])


def edit(path, rng):
    """A JSON record with a value changed, or a config with a line changed."""
    value = rng.choice((None, [], {}, "x", -1, 1e308, True, "../../etc/passwd", 10 ** 30))
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        key = rng.choice(list(content))
        content[key] = value
        path.write_text(json.dumps(rng.choice((content, value, [content]))))
    else:
        lines = path.read_text().splitlines()
        lines[rng.randrange(len(lines))] = rng.choice((
            "[", "epochs = -3", "epochs = 1e3", "= 3", "lr = inf", "sp_mode: %(x)s", f"a = {value}", "[DEFAULT]", "\0",
            "epochs", "patch_size = 17", "epochs = __import__('os')"))
        path.write_text("\n".join(lines))


BYTES = [cut, cut, flip, flip, flip, overwrite, append, zeros, empty, retype, rename, folder, circle, pipe, hostile]
MORE = {".npy": [reshape, renumber, renumber, header], ".json": [edit] * 4, ".cfg": [edit] * 6}


def make_base(root, long):
    """Finished pipelines on one dataset or three, boxes of others, an official model, and a training that was stopped."""
    ucsd_tree(root, frames=6, train=0)
    if long:
        avenue_tree(root, frames=6, train=0, as_avi=True)
        shanghaitech_tree(root, frames=6)
    for name in (NAME, AVENUE, SHANGHAI) if long else (NAME,):
        some = ["--use_flow", "true"] if name is NAME else []
        for script, words in (("calc_optical_flow.py", FLOW), ("extract_bbox.py", [*BOXES, "--min_area", "50"]),
                              ("extract_stc.py", some), ("train.py", SMALL), ("test.py", [])):
            run_script(script, *name, *words)
    boxes = np.load(CUBES + "bboxes.npy")
    per_frame = np.empty(12, object)
    per_frame[:] = [boxes[boxes[:, 0] == i, 1:] for i in range(12)]
    np.save("theirs.npy", per_frame, allow_pickle=True)
    np.save("theirs_rows.npy", boxes)
    os.mkdir(CUBES + "train.part")
    shutil.copy(CUBES + "model_0_0.pt", CUBES + "train.part")
    shutil.copy(CUBES + "model_0_0.pt", "weights.pth")
    Path("mine.cfg").write_text("[data_parameters]\nuse_flow = False\n[LBR_SPR_parameters]\nepochs = 3\nlr = 0.001\n")
    for name in ("UCSDped2_model.npy", "UCSDped2_raw_training_scores.npy"):
        shutil.copy(next(path for folder in GOLDEN if (path := folder / "official_model" / name).is_file()), name)
    os.mkdir("outside")


def prepare(number):
    """In a fresh copy of the base: makes bad file `number`; returns what it is and the command."""
    rng = random.Random(number)
    target, command, removed = rng.choice([row for row in TARGETS if Path(row[0]).exists()])
    for path in list(Path().glob(removed)) if removed else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kind = "" if target.startswith("UCSDped2_") else Path(target).suffix  # official models are torch files, named .npy
    mutation = rng.choice(BYTES + MORE.get(kind, []) * 2)
    mutation(Path(target), rng)
    return f"{number} {mutation.__name__} {target}: {' '.join(command)}", command


def snapshot():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and not path.is_symlink()}


def judge(what, command, code, text, before):
    """The outcome in a word, or raises AssertionError."""
    assert "Traceback" not in text, f"{what}\n{text}"
    assert code in (0, 2), f"{what}\nended with {code}\n{text}"
    assert not os.listdir("outside"), what
    after = snapshot()
    changed = {path for path in before.keys() | after.keys()
               if before.get(path) != after.get(path) and not any(word in str(path) for word in AT_WORK)}
    if code == 2:
        assert sum(line.startswith("error:") for line in text.splitlines()) == 1, f"{what}\n{text}"
        assert not changed, f"{what}: changed {changed}"
        return "refused, exit code 2"
    assert all(str(path).startswith(MAY_CHANGE[command[0]]) for path in changed), f"{what}: changed {changed}"
    return "survived with a warning" if "warning:" in text else "survived"


class Hang(BaseException):
    pass


def _batch(base, work, numbers, results):
    """Many bad files in one process; a line of JSON for each."""
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what native libraries say

    def hang(*_):
        raise Hang
    signal.signal(signal.SIGALRM, hang)
    with open(results, "w") as file:
        for number in numbers:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(base, work)
            os.chdir(work)
            what, command = prepare(number)
            before, begun = snapshot(), time.monotonic()
            signal.alarm(10)
            try:
                outcome, fine = _judged_run(what, command, before), True
            except Hang:
                outcome, fine = f"{what}: hangs", False
            except AssertionError as error:
                outcome, fine = str(error), False
            signal.alarm(0)
            file.write(json.dumps([fine, outcome, round(time.monotonic() - begun, 1)]) + "\n")
            file.flush()


def _judged_run(what, command, before):
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        sys.argv = command
        try:
            runpy.run_path(str(SUITE / command[0]), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        except Exception:
            traceback.print_exc()
    return judge(what, command, code, out.getvalue(), before)


@pytest.fixture(scope="module")
def base(tmp_path_factory, long):
    root = tmp_path_factory.mktemp("base")
    with contextlib.chdir(root):
        make_base(root, long)
    return root


def test_bad_files_in_one_process(base, tmp_path, long, count):
    numbers, results = range(900 if long else 25), tmp_path / "results.txt"
    process = forks.Process(target=_batch, args=(base, tmp_path / "work", numbers, results))
    process.start()
    seen = []
    while process.is_alive():
        process.join(30)
        lines = results.read_text().splitlines() if results.is_file() else []
        if process.is_alive() and len(lines) == len(seen):
            process.kill()
            pytest.fail(f"hangs in a library at bad file {len(lines)}")
        seen = lines
    outcomes = [json.loads(line) for line in results.read_text().splitlines()]
    wrong = [outcome for fine, outcome, _ in outcomes if not fine]
    assert len(outcomes) == len(numbers) and not wrong, f"{len(wrong)} of {len(outcomes)}\n" + "\n\n".join(wrong)
    for _, outcome, _ in outcomes:
        count("bad files, one process", outcome)


@pytest.mark.long
def test_bad_files_through_the_command_line(base, tmp_path, count, monkeypatch):
    for number in range(900, 1000):
        work = shutil.copytree(base, tmp_path / str(number))
        monkeypatch.chdir(work)
        what, command = prepare(number)
        before = snapshot()
        done = subprocess.run([sys.executable, str(SUITE / command[0]), *command[1:]], capture_output=True, timeout=60,
                              text=True, errors="replace")
        count("bad files, command line", judge(what, command, done.returncode, done.stdout + done.stderr, before))
        shutil.rmtree(work)
