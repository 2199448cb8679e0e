"""The bookkeeping of a stage: is it done, with what, and may it begin. One small JSON lies beside each output.

A record names the stage, its settings, its input (ids of the records it read, fingerprints of files from elsewhere), what
it made (`outputs`: size, type, shape and a sampled hash of each file) and facts such as counts. `Stage` compares records and
files; the scripts and `run_pipeline.py --dry_run` ask the same objects. utils/stages.py makes one for each script.
"""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np

from utils import files, ranks
from utils.config import stage_settings
from utils.errors import UserError
from utils.locks import locked
from utils.run import Clock, versions
from utils.settings import END

SCRIPTS = {"flow": "calc_optical_flow.py", "boxes": "extract_bbox.py", "cubes": "extract_stc.py", "train": "train.py",
           "test": "test.py"}  # in order
MADE = {"flow": "flow", "boxes": "boxes", "cubes": "cubes", "train": "models", "test": "scores", "events": "events"}
FORM = {"stage": str, "settings": dict, "input": dict, "key": str, "check": str}  # what every record has
SELECTION = ("videos", "limit_frames", "frame_step")  # the part of the data that a trial takes
SAMPLES, SAMPLE = 64, 16384  # blocks of a large file that its fingerprint covers, and their bytes


class Stage:
    """One stage's work in one folder.

    It writes into `part`, a folder of its own. When all is done the outputs (`file`) move up and the record is written, so the
    old output stays valid until then. Each file there that resumes a stopped run says what it belongs to (see `keep`).
    """

    def __init__(self, cfg, name, folder, reads=None, contents=None, takes=(), **inputs):
        """reads: stage -> path of its record, or paths (flow: one per video); contents: path of a record -> what --verify
        covers beside its outputs, name -> files; takes: outputs that a user may have made with another program, if they are
        there without a record; inputs: whatever else the output depends on, as JSON.

        Raises UserError if an input is missing, damaged, or made for another part of the data.
        """
        self.cfg, self.name, self.folder, self.contents, self.inputs = cfg, name, Path(folder), contents or {}, inputs
        self.path, self.part = self.folder / f"{name}.json", self.folder / f"{name}.part"
        self.reads = {stage: paths if isinstance(paths, list) else [paths] for stage, paths in (reads or {}).items()}
        self.read = {path: require(path, stage) for stage, paths in self.reads.items() for path in paths}
        self._require_selection()
        self.wanted = wanted(name, stage_settings(cfg, name), {**self._ids(), **inputs})
        self.old = load(self.path, {"unfinished": True})
        self.outputs = []  # names
        self.given = [] if self.old else [file for file in takes if (self.folder / file).is_file()]  # by the user

    def _ids(self):
        """What the records that were read say of themselves; of the flow of many videos one digest, with their settings."""
        ids = {stage: [self.read[path]["id"] for path in paths] for stage, paths in self.reads.items()}
        return {stage: {**self.read[self.reads[stage][0]]["settings"], "id": digest(found)} if stage == "flow" else found[0]
                for stage, found in ids.items()}

    def _require_selection(self):
        for record in self.read.values():
            for key in set(SELECTION) & record["settings"].keys():
                made, now = record["settings"][key], getattr(self.cfg, key)
                if made != now and record["stage"] != "train":  # --model may have been trained on any part of any data
                    raise UserError(f"the {MADE[record['stage']]} were made with {key} {_text(made)}, now {_text(now)}: give "
                                    f"the same --{key} to every stage, or run {script_of(record['stage'])} again")

    @property
    def state(self):
        """("done" | "to do" | "outdated", why; "" for nothing there). Raises UserError if somebody replaced an output."""
        if self.old is None:
            return "to do", "yours: made without this suite" if self.given else ""
        if self.old.get("unfinished"):
            return "to do", f"not finished, or {self.path.name} is damaged; making them again"
        given = ", ".join(self.old.get("given", ()))
        if given and any(self.old["input"].get(key) != self.wanted["input"].get(key) for key in ("frames", "boxes", "cubes")):
            raise UserError(f"{self.folder}: {given} was made by you for other input than is there now: replace it, and remove "
                            f"{self.path}")
        changed = damage(self.path, self.old) if given or self.old["key"] == self.wanted["key"] else (
            difference(self.old, self.wanted))
        if changed:
            return "outdated", f"outdated: {changed}; rebuilding"
        return "done", (f"yours: made without this suite; to make them with it, remove {self.path.name} and {given}" if given
                        else "done with the same settings and input")

    def file(self, name):
        """Where to write an output."""
        self.outputs.append(name)
        return self.part / name

    def keep(self, name, **content):
        """Saves a finished piece of the work, as JSON, for a stopped run to resume with."""
        write(self.part / name, {**self.wanted, **content})

    def kept(self, name):
        """That piece; None where there is none, it is damaged, or belongs to other settings or input."""
        piece = load(self.part / name, {})
        return piece if piece and piece["key"] == self.wanted["key"] else None

    def is_done(self):
        """Whether there is nothing to do; says so, and with --verify checks the contents of inputs and outputs."""
        state, why = self.state
        if why:
            print(f"{self.folder}: {MADE[self.name]} are {why}")
        if self.cfg.verify and ranks.RANK == 0:
            for path in self.read:
                verify(path, self.contents.get(path, {}), own=False)
            if state == "done":
                verify(self.path, self.contents.get(self.path, {}))
        return state == "done"

    @contextlib.contextmanager
    def writing(self, room=0, flag="--data_root_dir"):
        """Holds the folder, and protects its inputs' folders, while the stage writes into `part`; then puts the files
        in their places and writes the record. Gives a dict for the record's facts. All ranks enter and leave together.

        room: bytes that the work takes; flag: the setting that moves it to another disk. Raises UserError where there is not
        enough room, another process holds the folder, or an input has changed since it was read.
        """
        clock, facts = Clock(), {}
        with contextlib.ExitStack() as held:
            if ranks.RANK == 0:
                held.enter_context(locked(self.folder))
                for folder in {path.parent for path in self.read} - {self.folder}:
                    held.enter_context(locked(folder, shared=True))
                self._prepare()
                there = sum(path.lstat().st_size for path in self.part.iterdir())
                files.require_room(self.folder, room - there, f"the {MADE[self.name]}", flag)
            ranks.wait()
            yield facts
            ranks.wait()
            facts.setdefault("seconds", clock())
            if ranks.RANK == 0:
                self._finish(facts)
            ranks.wait()

    def _prepare(self):
        for path, record in [*self.read.items(), (self.path, self.old)]:
            if load(path, {"unfinished": True}) != record:
                raise UserError(f"{path}: another process has just replaced it: run the same command again")
        if self.part.is_symlink() or not self.part.is_dir():  # would lead what is written elsewhere
            self.part.unlink(missing_ok=True)
        self.keep("record.json")

    def _finish(self, facts):
        outputs = {name: describe(self.part / name) for name in self.outputs}
        outputs |= {name: describe(self.folder / name) for name in self.given}
        write(self.path, {**self.wanted, "unfinished": True})  # from here until the end nothing is valid
        for name in (self.old or {}).get("outputs", {}).keys() - outputs.keys():
            (self.folder / name).unlink(missing_ok=True)
        for name in self.outputs:
            files.rename(self.part / name, self.folder / name, sync=True)
        given = {"given": self.given} if self.given else {}
        shutil.rmtree(self.part)
        save(self.path, {**self.wanted, **given}, outputs, facts)
        if self.cfg.verify:
            verify(self.path, self.contents.get(self.path, {}))


def wanted(stage, settings, inputs):
    """The part of a record that decides whether it is the one wanted: stage, settings, input, and their hash `key`."""
    content = {"stage": stage, "settings": settings, "input": inputs}
    return content | {"key": digest(content)}


def is_given(path, name):
    """Whether an output was made by another program: it was or is there without the record in `path`."""
    made = load(path, {"unfinished": True})
    return bool(made.get("given")) if made else (Path(path).parent / name).is_file()


def script_of(stage):
    """The script that makes a stage's output."""
    return SCRIPTS.get(stage, "test.py")


def digest(content):
    """A short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def training_key(content):
    """What decides a training's weights after each epoch: all but how it ends and what is scored on the way."""
    return digest([{key: value for key, value in content["settings"].items() if key not in END}, content["input"]])


def write(path, content):
    """Writes a record, with a hash of all that it says."""
    files.save_json(path, {**content, "check": _check(content)})


def save(path, record, outputs, facts):
    """Writes a finished record. Its `id`, by which later stages know it, covers the arrays that were made.

    outputs: name -> what `describe` says of the file; facts: counts, seconds and the like.
    """
    arrays = {name: made for name, made in outputs.items() if "shape" in made}
    write(path, {**record, "id": digest([record["key"], arrays]), "outputs": outputs, **facts, "versions": versions(),
                 "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])})


def load(path, damaged=None):
    """The record in a file, or None where there is none; `damaged`, if it is given, instead of one that is damaged.

    Raises UserError where a record is damaged, was edited, or is of an older version.
    """
    if not Path(path).is_file():
        return None
    try:
        content = files.load_json(path)
    except UserError:
        content = None
    if _is_record(content):
        return content
    if damaged is not None:
        return damaged
    raise UserError(f"{path}: this record is damaged or was edited, or is of an older version: run "
                    f"{script_of(Path(path).stem)} again")


def require(path, stage):
    """The record of a stage before, whose files are as it says. Raises UserError that names the script to run."""
    record = load(path)
    if record is None or record.get("unfinished"):
        raise UserError(f"{path}: not there, so there are no {MADE[stage]} yet: run {script_of(stage)} first")
    damaged = damage(path, record)
    if damaged:
        raise UserError(f"{Path(path).parent}: {damaged}: run {script_of(stage)} again")
    return record


def finished(path):
    """Whether a stage's record is there and its files are as it says. Raises UserError if somebody replaced one."""
    record = load(path, {"unfinished": True})
    return bool(record) and not record.get("unfinished") and not damage(path, record)


def describe(path):
    """What a record says of a file: bytes, of an array also dtype and shape, and a hash of blocks spread over it (of all of a
    small file), which costs milliseconds at any size.
    """
    size, sampled = os.stat(path).st_size, hashlib.sha256()
    starts = range(0, size, SAMPLE) if size <= SAMPLES * SAMPLE else np.linspace(0, size - SAMPLE, SAMPLES).astype(int).tolist()
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            sampled.update(file.read(SAMPLE))
    array = files.load_array(path, mmap=True) if Path(path).suffix == ".npy" else None
    kind = {} if array is None else {"dtype": array.dtype.str, "shape": list(array.shape)}
    return {"bytes": size, **kind, "sample": sampled.hexdigest()[:32]}


def damage(path, record):
    """Which output of a record is missing or damaged, in a few words, or "".

    Raises UserError where an array can be read but is another one: somebody replaced it, and nobody asked to overwrite that.
    """
    for name, made in record.get("outputs", {}).items():
        file = Path(path).parent / name
        try:
            if not file.is_file():
                return f"{name} is missing"
            if describe(file) == made:
                continue
        except UserError:  # the header of an array cannot be read
            return f"{name} is damaged"
        if "shape" in made:
            script = script_of(record["stage"])
            raise UserError(f"{file}: is another array than {script} wrote: to keep it, remove {path}; to make it again, "
                            f"remove {file}; then run {script} again")
        return f"{name} is not as it was written ({os.stat(file).st_size:,} bytes, then {made['bytes']:,})"
    return ""


def verify(path, contents, own=True):
    """Compares the outputs of a record, and contents (name -> files), with their SHA-256 (--verify).

    own: whether the record is the running stage's, and takes the hashes that it does not know yet.
    Raises UserError where files differ: no record can say what they were made from.
    """
    made = load(path)
    named = {name: [Path(path).parent / name] for name in made["outputs"]} | contents
    known, found = made.get("sha256", {}), {name: files.sha256(paths) for name, paths in named.items()}
    for name, paths in named.items():
        if known.get(name, found[name]) != found[name]:
            raise UserError(f"{path}: the contents of {name} ({paths[0]}{', ...' if paths[1:] else ''}) have changed since "
                            f"it was written: put the old files back, or remove it and run {script_of(made['stage'])} again")
    unknown = found.keys() - known.keys()
    if unknown and own:
        write(path, {**made, "sha256": known | found})
    elif unknown:
        print(f"note: {path} has no SHA-256 of {', '.join(sorted(unknown))}: run {script_of(made['stage'])} --verify true")


def difference(record, other):
    """Says in a few words what two records of a stage differ in, or "" if nothing."""
    differs = [f"{key} {_text(record['settings'].get(key))}, now {_text(value)}"
               for key, value in other["settings"].items() if record["settings"].get(key) != value]
    differs += [f"other {key}" for key, value in other["input"].items() if record["input"].get(key) != value]
    return "; ".join(differs)


def _is_record(content):
    """Whether this is a whole record, whose outputs lie beside it: it may come from a stranger."""
    return (isinstance(content, dict) and all(isinstance(content.get(key), kind) for key, kind in FORM.items())
            and content["check"] == _check(content) and isinstance(outputs := content.get("outputs", {}), dict)
            and all(isinstance(made, dict) and isinstance(made.get("bytes"), int) and Path(name).name == name
                    for name, made in outputs.items()))


def _check(content):
    """A hash of all that a record says, so that damage does not mislead."""
    return digest({key: value for key, value in content.items() if key != "check"})


def _text(value):
    return {True: "true", False: "false", "": "(none)"}.get(value, value) if isinstance(value, (bool, str)) else value
