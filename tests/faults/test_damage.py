"""Every file of a finished run damaged in turn: the pipeline repairs it, or says which commands do, and those do."""

import random
import re
import shutil

import pytest
from stages import BOXES, FLOW, NAME, ROWS, SMALL, Changes, die, outputs, resumed, run
from trees import ucsd_tree

WORDS = [*NAME, *FLOW, *BOXES, *SMALL, "--use_flow", "true", "--score_every", "2"]
OTHER = [*WORDS, "--min_area", "150", "--seed", "1", "--window_size", "2"]


def header_byte(data):
    return data[:9] + bytes([data[9] ^ 1]) + data[10:]


DAMAGES = {"empty": lambda data, other: b"", "half": lambda data, other: data[:len(data) // 2],
           "a byte of the header": lambda data, other: header_byte(data), "another run's": lambda data, other: other}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, and another one of other frames with other settings."""
    folders = []
    for name, words, side in (("run", WORDS, 60), ("other", OTHER, 64)):
        folders.append(tmp_path_factory.mktemp(name) / "tree")
        ucsd_tree(folders[-1], frames=4, train=0, size=(side, 90))
        done = run(folders[-1], "pipeline", words)
        assert not done.code, done.text
    return folders


def advice(message):
    """What an error message asks for: paths to remove and scripts to run."""
    line = next(line for line in message.splitlines() if line.startswith("error:"))
    removed = re.findall(r"remove (?!it\b)([^\s,;:]+)", line.partition("to rebuild it")[2] or line)
    if re.search(r"\bremove it\b", line):
        removed.append(line.split(": ")[1])
    scripts = [script for script in re.findall(r"run (\w+\.py)", line) if script in [row[0] for row in ROWS.values()]]
    return removed, list(dict.fromkeys(scripts)), line


def words_of(script):
    """The words of the pipeline: every stage takes them all."""
    return next(name for name, row in ROWS.items() if row[0] == script), WORDS


def repaired(folder, wanted, what, name="pipeline", words=WORDS):
    """Follows the messages until all files are those of the undamaged run; returns how many commands that took."""
    told = []
    for commands in range(1, 4):
        done = run(folder, name, words)
        assert "Traceback" not in done.text, f"{what}: {done.text}"
        if not done.code:
            found = outputs(folder)
            different = sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path)
                               and path not in ("grid/record.json", "grid/table.csv"))  # they tell seconds of runs
            assert not different, f"{what}: not as undamaged: {different}\n{told}"
            return commands
        assert done.code == 2, f"{what}: {done.text}"
        removed, scripts, line = advice(done.text)
        assert removed or scripts, f"{what}: no way out in: {line}"
        told.append(line)
        for path in removed:
            shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink(missing_ok=True)
        for script in scripts:
            run(folder, *words_of(script))
    raise AssertionError(f"{what}: still not done: {told}")


def cases(root):
    """The files of a finished run that stages read: of the flow those of one video's first frames."""
    found = [path.relative_to(root) for path in sorted(root.rglob("*"))
             if path.is_file() and path.name not in (".lock", "report.html", "log.txt") and "raw_datasets" not in path.parts]
    return [(path, damage) for path in found if not re.search(r"Test002|00[34]\.npy", str(path)) for damage in DAMAGES]


def test_every_damaged_file_is_repaired(finished, tmp_path, long, count):
    base, other = finished
    wanted, all_cases = outputs(base), cases(base)
    wrong = []
    for number, (path, damage) in enumerate(all_cases if long else random.Random(1).sample(all_cases, 5)):
        folder = shutil.copytree(base, tmp_path / str(number))
        data, theirs = (root / path for root in (folder, other))
        data.write_bytes(DAMAGES[damage](data.read_bytes(), theirs.read_bytes()))
        try:
            count("damaged file, repaired by", f"{repaired(folder, wanted, f'{path}, {damage}')} commands")
        except AssertionError as error:
            wrong.append(str(error))
        shutil.rmtree(folder)
    assert not wrong, "\n\n".join(wrong)


def test_every_damaged_file_of_an_experiment_is_repaired(made, tmp_path, long, count):
    """Of its first row; "another run's" is that of the second."""
    base, wanted = made("experiments").done, made("experiments").wanted
    files = sorted(path for path in wanted if path.startswith("grid/runs/0/"))
    all_cases = [(path, damage) for path in files for damage in DAMAGES]
    for number, (path, damage) in enumerate(all_cases if long else random.Random(2).sample(all_cases, 2)):
        folder = shutil.copytree(base, tmp_path / str(number))
        data, theirs = folder / path, folder / path.replace("runs/0/", "runs/2/")
        data.write_bytes(DAMAGES[damage](data.read_bytes(), theirs.read_bytes()))
        commands = repaired(folder, wanted, f"{path}, {damage}", "experiments", ["grid.cfg"])
        count("damaged file of an experiment, repaired by", f"{commands} commands")
        shutil.rmtree(folder)


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:len(data) // 2], lambda data: b"[" * 200_000,
    lambda data: data.replace(b'"rows"', b'"Rows"'), lambda data: data.replace(b"0.0", b"5.0", 1),
], ids=["empty", "half", "brackets", "other key", "other number"])
def test_a_damaged_piece_of_a_stopped_stage_is_made_again(made, tmp_path, damage):
    joined = next(k for k, (event, path, _) in enumerate(made("boxes").changes)
                  if event == "open" and path.endswith("/bboxes.npy.part"))
    folder = shutil.copytree(made("boxes").start, tmp_path / "tree")
    assert run(folder, "boxes", fault=Changes(joined, die)).code < 0
    piece = folder / "data/UCSDped2/test/boxes.part/00000000.json"
    assert damage(piece.read_bytes()) != piece.read_bytes()
    piece.write_bytes(damage(piece.read_bytes()))
    resumed(folder, made, "boxes", "a damaged piece")
