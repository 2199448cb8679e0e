"""Any machine: number formats, devices, systems that lack what Linux has, and files that are whole or not there."""

import errno
import io
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL, STAGES, SUITE, run_script
from stages import ROWS, Run
from test_rules import FILES
from test_see import film
from trees import ucsd_tree

from utils import device, files, locks, record
from utils.config import parse_config
from utils.errors import UserError

CPU = torch.device("cpu")
NAME = ["--dataset_name", "UCSDped2"]
DATA = Path("data/UCSDped2/test")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # what a processor without bf16 instructions has


# --precision and --device

@pytest.mark.parametrize("onednn, instructions, word", [
    (True, {"avx512_bf16": True}, "bf16"), (True, {"amx_bf16": True}, "bf16"), (True, {"neon": True, "bf16": True}, "bf16"),
    (True, {"avx512_f": True}, "fp32"), (False, {"avx512_bf16": True}, "fp32")])
def test_auto_is_bf16_where_the_processor_has_instructions_for_it(monkeypatch, onednn, instructions, word):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert device.fastest_format(CPU) == word


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_card_asks_for_more_than_emulation(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "device", lambda chosen: io.StringIO())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert device.fastest_format(torch.device("cuda:0")) == ("bf16" if native else "fp32")


def test_what_is_recorded_is_never_auto(copy):
    """On a processor without bf16 instructions: trained, scored and kept in fp32."""
    done = subprocess.run([sys.executable, str(SUITE / "train.py"), *NAME, *SMALL, "--seed", "5", "--precision", "auto"],
                          env={**os.environ, **AVX2}, capture_output=True, text=True)
    assert done.returncode == 0 and "fp32 on cpu" in done.stdout and "emulates" not in done.stdout, done
    assert record.load(DATA / "train.json")["settings"]["precision"] == "fp32"
    assert files.load_checkpoint(DATA / "model_0_0.pt", {"settings"})["settings"]["precision"] == "fp32"
    run_script("test.py", *NAME)
    told = [path for path in copy.rglob("*.json") if '"auto"' in path.read_text()]
    assert not told


def test_a_training_that_is_there_keeps_its_format_on_another_machine(copy, monkeypatch):
    monkeypatch.setattr(device, "fastest_format", lambda where: "bf16")
    words = [*NAME, *SMALL, "--score_every", "1", "--precision", "auto"]
    assert parse_config("", words).precision == "fp32"
    assert "models are done" in run_script("train.py", *words).stdout
    assert parse_config("", [*words, "--average_last", "1"]).precision == "fp32"  # ended otherwise, not trained again
    assert parse_config("", [*words, "--seed", "1"]).precision == "bf16"  # another training
    begun = record.load(DATA / "train.json")
    (DATA / "train.json").unlink(), record.write(DATA / "train.part" / "record.json", begun)
    assert parse_config("", words).precision == "fp32"  # half-way
    (DATA / "cubes.json").write_text("{}")
    assert parse_config("", words).precision == "bf16"  # of other cubes


def test_emulated_bf16_is_told_once_before_training(monkeypatch, capsys):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    device.tell_emulated.cache_clear()
    for _ in range(2):
        assert device.precision_of("bf16", CPU).fast_dtype == torch.bfloat16
    told = capsys.readouterr().out
    device.tell_emulated.cache_clear()
    assert told.count("\n") == 1 and "about 20 times slower than fp32" in told and "--precision auto" in told
    device.precision_of("fp32", CPU)
    assert not capsys.readouterr().out
    with pytest.raises(UserError, match="number format fp8: must be one of bf16, fp32"):
        device.precision_of("fp8", CPU)


def test_a_mac_s_gpu(monkeypatch):
    with pytest.raises(UserError, match="--device mps: torch finds no Mac GPU here"):
        device.device_of("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.device_of("auto").type == device.device_of("mps").type == "mps"
    assert device.fastest_format(torch.device("mps")) == "fp32"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert device.device_of("auto").type == "cpu"
    for name, value in (("is_available", True), ("device_count", 1), ("get_device_capability", (9, 0)), ("set_device", None)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    assert device.device_of("auto").type == "cuda"


# systems

class Without:
    """Takes away what other systems lack, in a forked stage, and lets the suite's modules be imported anew."""

    def __init__(self, *names):
        self.names = names

    def __call__(self):
        for name in self.names:
            TAKE_AWAY.get(name, lambda name: delattr(sys.modules[name.split(".")[0]], name.split(".")[1]))(name)
        for name in [name for name in sys.modules if name.split(".")[0] in ("utils", "tools", "models", "filelock")]:
            del sys.modules[name]


def no_links(_):
    def refused(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    os.symlink = os.link = Path.symlink_to = Path.hardlink_to = refused


def no_proc(_):
    opened, exists = io.open, os.path.exists

    def from_disk(path, *args, **more):
        if str(path).startswith(("/proc", "/sys/")):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return opened(path, *args, **more)
    os.path.exists = lambda path: not str(path).startswith(("/proc", "/sys/")) and exists(path)
    io.open = sys.modules["builtins"].open = from_disk


TAKE_AWAY = {"fcntl": lambda name: sys.modules.update({name: None}), "os.symlink": no_links, "/proc": no_proc}
LACKING = ("os.sched_getaffinity", "os.sysconf", "os.O_NOFOLLOW", "os.O_DIRECTORY", "os.chmod",
           "os.getuid", "signal.SIGHUP", *TAKE_AWAY)
COMMANDS = sorted([*(path.name for path in SUITE.glob("*.py")),
                   *(f"tools.{path.stem}" for path in SUITE.glob("tools/*.py") if "run(main)" in path.read_text())])


@pytest.mark.parametrize("names", [LACKING, *(pytest.param((name,), marks=pytest.mark.long) for name in LACKING)],
                         ids=lambda names: "all" if len(names) > 1 else names[0])
def test_the_pipeline_runs_where_a_function_is_missing(tmp_path, names):
    """Simulated: what macOS, Windows or a memory card lack is taken away from Linux. The first one: all at once."""
    ucsd_tree(tmp_path, frames=6, train=0)
    script, words, _ = ROWS["pipeline"]
    done = Run(tmp_path, script, *words, fault=Without(*names)).end(300)
    assert done.code == 0 and "Traceback" not in done.text, done.text
    assert ("no locks" in done.text) == ("fcntl" in names) and Path(tmp_path, "results/UCSDped2/test/report.html").is_file()
    for command in COMMANDS:
        shown = Run(tmp_path, command, "--help", fault=Without(*names), log="help.txt").end()
        assert shown.code == 0 and "--help" in shown.text, f"{command}: {shown.text}"


def test_what_only_unix_has_is_named_where_its_absence_is_handled():
    unix = (r"\bos\.(sched_\w+|posix_\w+|sysconf|O_(NOFOLLOW|DIRECTORY|NONBLOCK)|get(e?u|e?g|p?g)id|fork|killpg|mkfifo|statvfs|"
            r"chown|uname|getloadavg|sync|fchmod)\b|\bsignal\.(SIG(KILL|HUP|USR\d|ALRM|PIPE|XFSZ|CHLD)|alarm|pause)\b|"
            r"^\s*import (fcntl|resource|pwd|grp|termios)\b|\b(?!files)\w+\.rename\(")
    found = {f"{path.relative_to(SUITE)}: {match[0].strip()}" for path in FILES
             for match in re.finditer(unix, path.read_text(encoding="utf-8"), re.MULTILINE)}
    assert found <= {"utils/device.py: os.sched_getaffinity", "utils/device.py: os.sysconf", "utils/locks.py: import fcntl",
                     "tools/make_demo.py: part.rename(", "tools/prepare_videos.py: os.rename("}  # folders, to free names


def test_locks_that_a_file_system_refuses(tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    locks.warn_unlocked.cache_clear()
    for shared in (False, True, False):
        with locks.locked(tmp_path / "a", shared):
            pass
    told = capsys.readouterr().out
    locks.warn_unlocked.cache_clear()
    assert told.count("warning") == 1 and f"{tmp_path / 'a'}: this file system has no locks (No locks available)" in told


def test_a_file_that_another_program_has_open_for_a_moment(tmp_path, monkeypatch):
    tries, replace = [], os.replace

    def busy(part, path):
        tries.append(path)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "in use", str(path))
        replace(part, path)

    monkeypatch.setattr(files, "WAITS", (0, 0, 0))
    monkeypatch.setattr(os, "replace", busy)
    files.save_json(tmp_path / "a.json", [1])
    assert files.load_json(tmp_path / "a.json") == [1] and len(tries) == 3


@pytest.mark.parametrize("words", [(), ("--copy",)])
def test_own_videos_where_there_are_no_links(tmp_path, monkeypatch, words):
    def refused(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.chdir(tmp_path)
    for name in ("unpadded/f1.png", "unpadded/f10.png", "unpadded/f2.png", "padded/f1.png", "padded/f2.png"):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"in/{name}", np.full((40, 60, 3), len(list(Path("in").rglob("*.png"))), np.uint8))
    film(Path("in/film.mp4"), np.zeros((9, 40, 60, 3), np.uint8), "mp4v", 25)
    if not words:
        monkeypatch.setattr(os, "symlink", refused)
    out = run_script("tools.prepare_videos", "mine", "in", *words).stdout
    assert ("raw_datasets: cannot have symbolic links (Operation not permitted); copying" in out) == (not words)
    made = {str(path.relative_to("raw_datasets/mine/videos")): path for path in Path("raw_datasets/mine/videos").rglob("*.*")}
    taken = {"film.mp4": "film.mp4", **{f"padded/00000{k}.png": f"padded/f{k}.png" for k in (1, 2)},
             **{f"unpadded/00000{k}.png": f"unpadded/f{number}.png" for k, number in enumerate((1, 2, 10), 1)}}
    assert {name: path.read_bytes() for name, path in made.items()} == {
        name: Path("in", source).read_bytes() for name, source in taken.items()}
    assert not any(path.is_symlink() for path in (*made.values(), *Path("raw_datasets/mine/videos").iterdir()))


# files

class Limit:
    """No file may grow beyond this size: writing more fails as on a full disk."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def writers():
    from utils import exchange

    array, large = np.arange(4092, dtype=np.uint8), torch.arange(30000)
    return {"a.npy": lambda path: files.save_array(path, array), "b.json": lambda path: files.save_json(path, array.tolist()),
            "c.csv": lambda path: files.save_csv(path, [{"a": k} for k in range(1200)]),
            "d.pt": lambda path: files.save_torch(path, {"a": large, "b": large + 1}),
            "old.npy": lambda path: exchange.save_object_array(path, [array, array[:9]]),
            "old.pt": lambda path: exchange.save_torch_arrays(path, [[np.float32(array)]]),
            "rows.npy": lambda path: write_rows(path, array.reshape(12, -1))}


def write_rows(path, array):
    files.create_array(path, array.dtype, array.shape)
    assert list(files.write_rows(path, 0, [array])) == [len(array)]


@pytest.mark.parametrize("name", list(writers()))
def test_a_disk_that_is_full_at_any_byte(tmp_path, name):
    """The last block is where a file's close fails, or nothing does."""
    write, path = writers()[name], tmp_path / name
    write(path)
    whole = path.read_bytes()
    path.write_bytes(b"old")
    for limit in sorted({*range(0, len(whole), max(97, len(whole) // 50)), *range(len(whole) - 130, len(whole))}):
        with Limit(limit), pytest.raises(UserError, match=f"{name}: cannot be written"):
            write(path)
        kept = [p.name for p in tmp_path.iterdir()]
        assert kept == [name] and (name == "rows.npy" or path.read_bytes() == b"old"), limit  # rows: in the stage's own folder
    write(path)
    assert path.read_bytes() == whole


def drawers():
    """Writers that take a while: fewer tries."""
    from matplotlib.figure import Figure

    from tools import overlay
    from utils.evaluation import plots
    from utils.frames import save_image

    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)

    def film_of_two(path):
        with overlay.writing(path, 25, 96, 64) as write:
            write(image), write(image[::-1])

    return {"a.webm": film_of_two, "a.png": lambda path: plots.save(Figure(), path),
            "a.jpg": lambda path: save_image(path, image), "a.npz": lambda path: files.save_npz(path, {"a": image}),
            "run.log": lambda path: files.log(path, b"$ python\n").close()}


@pytest.mark.parametrize("name", list(drawers()))
def test_pictures_films_and_logs_on_a_full_disk(name, tmp_path, capfd):
    write, path = drawers()[name], tmp_path / name
    write(path)
    size = path.stat().st_size
    path.unlink()
    for limit in sorted({0, 1, size // 3, size * 2 // 3, size - 130, size - 1} & {*range(size)}):
        with Limit(limit), pytest.raises(UserError, match=f"{name}: cannot be written .File too large"):
            write(path)
        assert name == "run.log" or not list(tmp_path.iterdir()), limit
    assert not capfd.readouterr().err  # PyAV prints a traceback of a second error


@pytest.mark.parametrize("array", [
    np.arange(6.0).reshape(2, 3).T, np.empty((0, 5), np.float32), np.float16(3), np.array([True]), np.array(["a", "bc"]),
    np.arange(6, dtype=">i4")[::2]], ids=lambda array: str(array.dtype))
def test_arrays_are_written_as_numpy_does(tmp_path, array):
    files.save_array(tmp_path / "ours.npy", array)
    np.save(tmp_path / "theirs.npy", np.asarray(array, order="C"))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    with pytest.raises(TypeError):
        files.save_array(tmp_path / "ours.npy", np.array([object()]))


def test_a_disk_that_reports_at_close(tmp_path, monkeypatch):
    """As quotas and network file systems do."""
    class Late(io.BufferedWriter):
        def close(self):
            super().close()
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(files, "open", lambda path, mode: Late(io.FileIO(path, mode)), raising=False)
    with pytest.raises(UserError, match="a.npy: cannot be written .Disk quota exceeded"):
        files.save_array(tmp_path / "a.npy", np.arange(9))
    assert not list(tmp_path.iterdir())


def test_what_took_hours_is_on_the_disk_before_it_has_its_name(copy, monkeypatch):
    told, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: told.append(os.fstat(number).st_ino) or fsync(number))
    monkeypatch.setattr(os, "replace", lambda part, path: told.append((Path(path).name, os.stat(part).st_ino)) or
                        replace(part, path))
    run_script("extract_stc.py", *NAME, "--patch_size", "16")
    run_script("train.py", *NAME, *SMALL)
    named = {each[0]: each[1] in told[:k] for k, each in enumerate(told) if isinstance(each, tuple)}
    assert named["stc_raw.npy"] and named["model_0_0.pt"] and named["cubes.json"] and named["train.json"]


def test_a_file_that_another_process_replaces_meanwhile(tmp_path):
    said = "a.bin: cannot be written .only 1 of 3 bytes were written"
    with pytest.raises(UserError, match=said), files.whole(tmp_path / "a.bin") as file:
        file.write(b"one")
        Path(file.name).unlink()
        Path(file.name).write_bytes(b"2")
    assert not list(tmp_path.iterdir())


def test_a_planted_link_is_not_followed(copy):
    outside, folder = copy / "outside", copy / "folder"
    outside.write_bytes(b"theirs"), folder.mkdir()
    (DATA / "boxes.json.part").symlink_to(outside), (DATA / "boxes.part").symlink_to(folder)
    run_script("extract_bbox.py", *NAME, "--detector", "none", "--min_area", "150")
    assert outside.read_bytes() == b"theirs" and not list(folder.iterdir()) and not list(DATA.glob("*.part"))
    for write in [*writers().values(), lambda path: files.log(path, b"one\n").close()]:
        (copy / "a.part").symlink_to(outside), (copy / "a").symlink_to(outside)
        write(copy / "a")
        assert outside.read_bytes() == b"theirs" and not (copy / "a").is_symlink()
        for path in (copy / "a", copy / "a.part"):
            path.unlink(missing_ok=True)
    (DATA / "cubes.part").symlink_to(folder)
    files.new_folder(DATA / "cubes.part")
    assert folder.is_dir() and not (DATA / "cubes.part").is_symlink()
    (DATA / "cubes.part").rmdir(), os.mkfifo(DATA / "cubes.part")
    (DATA / ".lock").unlink(), os.mkfifo(DATA / ".lock")  # would be waited for
    with locks.locked(DATA, shared=True):
        pass
    run_script("extract_stc.py", *NAME)
    (DATA / ".lock").unlink(), (DATA / ".lock").symlink_to(copy / "not_there")
    done = run_script("extract_stc.py", *NAME, "--patch_size", "16", rc=2)
    assert "cannot be written" in done.stderr and not (copy / "not_there").exists()


def test_a_tree_copied_elsewhere_with_any_times_is_done_or_resumes(copy, tmp_path, monkeypatch):
    shutil.copytree(copy, tmp_path / "there", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path / "there")
    for k, path in enumerate(path for path in Path().rglob("*") if path.is_file()):
        os.utime(path, (4e9 * (k % 2),) * 2)  # a clock that jumped, both ways
    next(Path("optical_flow").rglob("*.npy")).unlink()
    (DATA / "stc_raw.npy").unlink()
    before = {path: path.read_bytes() for path in Path("data").rglob("*.npy")}
    assert "(27 already done)" in run_script("calc_optical_flow.py", *NAME, *STAGES["calc_optical_flow.py"]).stdout
    done = {script: run_script(script, *NAME, *words, *["--score_every", "1"] * (script == "train.py")).stdout
            for script, words in list(STAGES.items())[1:]}
    assert [script for script, text in done.items() if "done with the same" not in text] == ["extract_stc.py"]
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("batch", ["1", "100000"])
def test_a_batch_of_one_cube_or_of_all_and_files_for_nobody_else(copy, batch):
    mask = os.umask(0o077)
    try:
        run_script("train.py", *NAME, *SMALL, "--batch_size", batch)
    finally:
        os.umask(mask)
    assert "frame AUROC" in run_script("test.py", *NAME).stdout and (DATA / "train.json").stat().st_mode & 0o777 == 0o600


def test_rows_are_written_where_they_belong(tmp_path):
    files.create_array(tmp_path / "a.npy", np.float16, (5, 3))
    for start, values in ((3, [[7, 8, 9]]), (1, [[1, 2, 3], [4, 5, 6]])):
        assert list(files.write_rows(tmp_path / "a.npy", start, [np.array(values, np.float16)])) == [len(values)]
    np.testing.assert_array_equal(files.load_array(tmp_path / "a.npy")[[0, 1, 2, 3, 4], 0], [0, 1, 4, 7, 0])


@pytest.mark.parametrize("protocol", [2, 4])
def test_boxes_of_a_few_bytes_that_stand_for_many_gigabytes(tmp_path, protocol):
    """One array named again and again, or built again and again from the same bytes."""
    path, many = tmp_path / "boxes.npy", np.zeros((12500, 4))
    shared = np.empty(200_000, object)
    shared[:] = [np.float32([[1, 2, 3, 4]])] * 200_000
    again = np.empty(30_000, object)
    again[:] = [many] * 30_000
    for array, fits in ((shared, True), (again, False)):
        np.lib.format.write_array_header_1_0(file := open(path, "wb"), np.lib.format.header_data_from_array_1_0(array))
        pickle.dump(array, file, protocol), file.close()
        begun = time.monotonic()
        if fits:
            assert len(files.load_object_array(path)) == 200_000
        else:
            with pytest.raises(UserError, match="boxes.npy: .* as often as it is named, exceed 1 GiB"):
                files.load_object_array(path)
        assert path.stat().st_size < 2e6 and time.monotonic() - begun < 10
    from utils.legacy import _encode
    text = "a" * 1000
    assert _encode(text) is text  # no copy for each time that a file asks


def test_weights_of_a_few_bytes_that_stand_for_many(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as whole, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in whole.infolist():
            packed.writestr(info.filename, whole.read(info))
    assert (tmp_path / "b.pt").stat().st_size < 1e5 and len(files.load_torch(tmp_path / "a.pt")["a"]) == 1 << 20
    with pytest.raises(UserError, match="b.pt: not a whole, safe torch file .*is compressed"):
        files.load_torch(tmp_path / "b.pt")


def test_an_archive_of_a_few_bytes_that_stands_for_many(tmp_path, monkeypatch):
    from utils.evaluation import inputs

    np.savez_compressed(tmp_path / "a.npz", v=np.zeros(1 << 20, np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 1e4 and list(inputs.listed(tmp_path / "a.npz")) == ["v"]
    monkeypatch.setattr(inputs, "MOST", 1 << 20)
    with pytest.raises(UserError, match="a.npz: not a whole .npz file .*come to more than"):
        inputs.listed(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["labels.npy", "frame_scores.npy", "metrics.json"])
def test_figures_of_damaged_scores(copy, name):
    path = Path("results/UCSDped2/test", name)
    path.write_text("null") if name.endswith("json") else np.save(path, np.load(path)[:-1])
    done = run_script("tools.evaluate", "UCSDped2", "test", rc=2)
    assert name in done.stderr and "run test.py again" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("script, words, content, message", [
    ("tools.run_experiments", ["a.cfg"], "[experiment]\nseeds = " + "9" * 5000, "must be numbers such as"),
    ("tools.run_experiments", ["a.cfg", "--epochs", "../../x"], "", "--epochs ../../x"),
    ("tools.run_experiments", ["a.cfg"], "[grid]\n" + "\n".join(
        f"{key} = {','.join('123456789')}" for key in ("epochs", "seed", "h_block", "w_block", "min_area")), "10,000 rows"),
    ("tools.results", ["a.cfg"], "null", "a.cfg: is no record of an experiment"),
    ("tools.report", ["UCSDped2", "test", "--megabytes", "9" * 5000], "", "at most 1,000,000"),
    ("tools.convert", ["boxes", "a.json", "b.npy", "--dataset_name", "UCSDped2"], '{"images": [{"id": 1, "file_name": '
     '"Test/Test001/001.tif"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, ' + "9" * 4000 + "]}]}", "not a COCO file"),
], ids=["seeds", "epochs", "grid", "record", "megabytes", "box"])
def test_words_and_numbers_beyond_all_bounds(copy, script, words, content, message):
    for name in ("a.cfg", "a.json"):
        Path(name).write_text(content)
    done = run_script(script, *words, rc=2)
    assert message in done.stderr and done.stderr.count("error:") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../outside.npy", "/outside.npy", "a/b.npy"])
def test_a_record_whose_outputs_lie_elsewhere_is_none(tmp_path, name):
    """Old outputs are removed when a stage runs again."""
    record.write(tmp_path / "test.json", {**record.wanted("test", {}, {}), "outputs": {name: {"bytes": 1}}})
    with pytest.raises(UserError, match="damaged"):
        record.load(tmp_path / "test.json")


def test_tables_of_endless_lines(tmp_path, monkeypatch):
    from utils import labels, text

    path, begun = tmp_path / "a.txt", time.monotonic()
    path.write_text("1\n" * 200_000)
    assert len(labels._vector(path)) == 200_000 and time.monotonic() - begun < 20
    monkeypatch.setattr(text, "LINES", 199_999)
    with pytest.raises(UserError, match="a.txt: has more than 199,999 lines"):
        labels._vector(path)


# what is printed

@pytest.fixture
def script(tmp_path, monkeypatch):
    """script(lines of main, redirection): runs a script of these lines by a shell."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)

    def started(*lines, redirected=""):
        text = "".join(f"    {line}\n" for line in lines)
        (tmp_path / "main.py").write_text("import os, sys\nfrom utils.errors import UserError\nfrom utils.run import run\n"
                                          f"def main():\n{text}run(main)\n")
        return subprocess.run(f"{sys.executable} main.py {redirected}", shell=True, cwd=tmp_path, capture_output=True,
                              text=True, env={**os.environ, "PYTHONPATH": str(SUITE)})
    return started


@pytest.mark.parametrize("redirected, code, seen", [
    (">/dev/full", 2, "error: standard output: No space left on device\n"), ("2>/dev/full", 0, "said\n"),
    (">&-", 0, ""), ("2>&-", 0, "said\n"), ("2>&- >/dev/full", 2, ""), ("| true", 0, "")])
@pytest.mark.parametrize("end", ["", "sys.exit(0)"])
def test_where_standard_streams_lead(script, end, redirected, code, seen):
    done = script("print('said')", end, redirected=redirected)
    assert (done.returncode, done.stdout + done.stderr) == (code, seen)
    done = script("print('said')", end, redirected=f"-u {redirected}")


@pytest.mark.parametrize("redirected, seen", [("", "stderr"), ("2>/dev/full", "stdout"), ("2>&-", "stdout"), (">&-", "stderr"),
                                              (">/dev/full", "stderr")])
def test_an_error_finds_a_place(script, tmp_path, redirected, seen):
    """With standard error closed, the next file would take its number and get what is printed."""
    done = script("with open('data', 'w') as file:", "    assert file.fileno() > 2", "print('said')",
                  "raise UserError('no boxes')", redirected=redirected)
    assert done.returncode == 2 and getattr(done, seen).endswith("error: no boxes\n"), done
    assert "Traceback" not in done.stdout + done.stderr and not (tmp_path / "data").read_bytes()


def test_what_torch_cannot_do_on_a_mac_s_gpu_is_one_line(script):
    done = script("raise NotImplementedError('The operator x is not implemented for the MPS device.' + chr(10) + 'But')")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "add --device cpu to this stage" in done.stderr
