"""The bookkeeping of a stage: is it done, with what, and may it start. Each output has a small JSON record next to it.

A record names the stage, its settings, its input (ids of the records it read, fingerprints of files from elsewhere), its
`outputs` (size, type, shape and a sampled hash of each file) and facts such as counts. `Stage` compares records and files;
the scripts and `run_pipeline.py --dry_run` use the same objects. utils/stages.py makes one for each script.
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
from utils.run import Clock, code, versions
from utils.settings import END

SCRIPTS = {"flow": "calc_optical_flow.py", "boxes": "extract_bbox.py", "cubes": "extract_stc.py", "train": "train.py",
           "test": "test.py"}  # in order
MADE = {"flow": "flow", "boxes": "boxes", "cubes": "cubes", "train": "models", "test": "scores", "events": "events"}
FORM = {"stage": str, "settings": dict, "input": dict, "key": str, "check": str}  # what every record has
SELECTION = ("videos", "limit_frames", "frame_step")  # the part of the data that a trial uses
SAMPLES, SAMPLE = 64, 16384  # blocks of a large file that its fingerprint covers; bytes per block


class Stage:
    """One stage's work in one folder.

    It writes into `part`, its own folder. When all is done the outputs (`file`) move up and the record is written, so the old
    output stays valid until then. Each file there that a stopped run resumes from says what it belongs to (see `keep`).
    """

    def __init__(self, cfg, name, folder, reads=None, contents=None, takes=(), **inputs):
        """reads: stage -> path of its record, or paths (flow: one per video); contents: path of a record -> what --verify
        covers besides its outputs, name -> files; takes: outputs that count as made by the user with another program if they
        exist without a record; inputs: anything else that the output depends on, as JSON.

        Raises UserError if an input is missing, damaged, or was made for another part of the data.
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
        """The ids of the records that were read; for flow one digest of all videos, with their settings."""
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
        """("done" | "to do" | "outdated", why; "" if nothing exists). Raises UserError if somebody replaced an output."""
        if self.old is None:
            return "to do", "yours: made without this suite" if self.given else ""
        if self.old.get("unfinished"):
            return "to do", f"not finished, or {self.path.name} is damaged; rebuilding"
        given = ", ".join(self.old.get("given", ()))
        if given and any(self.old["input"].get(key) != self.wanted["input"].get(key) for key in ("frames", "boxes", "cubes")):
            raise UserError(f"{self.folder}: you made {given} for other input than the present one: replace it, and remove "
                            f"{self.path}")
        changed = damage(self.path, self.old) if given or self.old["key"] == self.wanted["key"] else (
            difference(self.old, self.wanted))
        if changed:
            return "outdated", f"outdated: {changed}; rebuilding"
        return "done", (f"yours: made without this suite; to make them with it, remove {self.path.name} and {given}" if given
                        else f"done with the same settings and input{self._by_other_code()}")

    def _by_other_code(self):
        if self.old.get("versions", {}).get("code") == code():
            return ""
        return f"; the code has changed since: to rebuild, remove {', '.join([self.path.name, *self.old['outputs']])}"

    def file(self, name):
        """Where to write an output."""
        self.outputs.append(name)
        return self.part / name

    def keep(self, name, **content):
        """Saves a finished piece of the work, as JSON, for a stopped run to resume from."""
        write(self.part / name, {**self.wanted, **content})

    def kept(self, name):
        """That piece; None if it is missing, damaged, or belongs to other settings or input."""
        piece = load(self.part / name, {})
        return piece if piece and piece["key"] == self.wanted["key"] else None

    def is_done(self):
        """Whether there is nothing to do; prints the state, and with --verify checks the contents of inputs and outputs."""
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
        """Locks the folder, and its inputs' folders for reading, while the stage writes into `part`; then moves the files
        into place and writes the record. Yields a dict for the record's facts. All ranks enter and leave together.

        room: bytes that the work needs; flag: the setting that moves it to another disk. Raises UserError if there is not
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
        if self.part.is_symlink() or not self.part.is_dir():  # a link would redirect what is written
            self.part.unlink(missing_ok=True)
        self.keep("record.json")

    def _finish(self, facts):
        outputs = {name: describe(self.part / name) for name in self.outputs}
        outputs |= {name: describe(self.folder / name) for name in self.given}
        write(self.path, {**self.wanted, "unfinished": True})  # until the end nothing is valid
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
    """The part of a record that decides whether it is up to date: stage, settings, input, and their hash `key`."""
    content = {"stage": stage, "settings": settings, "input": inputs}
    return content | {"key": digest(content)}


def is_given(path, name):
    """Whether an output was made by another program: it exists, or existed, without the record in `path`."""
    made = load(path, {"unfinished": True})
    return bool(made.get("given")) if made else (Path(path).parent / name).is_file()


def script_of(stage):
    """The script that makes a stage's output."""
    return SCRIPTS.get(stage, "test.py")


def digest(content):
    """A short hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def training_key(content):
    """What determines a training's weights after each epoch: all but how it ends and what is scored on the way."""
    return digest([{key: value for key, value in content["settings"].items() if key not in END}, content["input"]])


def write(path, content):
    """Writes a record, with a hash of its content."""
    files.save_json(path, {**content, "check": _check(content)})


def save(path, record, outputs, facts):
    """Writes a finished record. Its `id`, which later stages refer to, covers the arrays that were made.

    outputs: name -> what `describe` says about the file; facts: counts, seconds and the like.
    """
    arrays = {name: made for name, made in outputs.items() if "shape" in made}
    write(path, {**record, "id": digest([record["key"], arrays]), "outputs": outputs, **facts, "versions": versions(),
                 "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])})


def load(path, damaged=None):
    """The record in a file, None if there is none, or `damaged`, if given, if it is damaged.

    Raises UserError if a record is damaged, was edited, or is from an older version.
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
    raise UserError(f"{path}: this record is damaged, was edited, or is from an older version: run "
                    f"{script_of(Path(path).stem)} again")


def require(path, stage):
    """The record of an earlier stage, whose files match it. Raises UserError that names the script to run."""
    record = load(path)
    if record is None or record.get("unfinished"):
        raise UserError(f"{path}: no such file, so there are no {MADE[stage]} yet: run {script_of(stage)} first")
    damaged = damage(path, record)
    if damaged:
        raise UserError(f"{Path(path).parent}: {damaged}: run {script_of(stage)} again")
    return record


def finished(path):
    """Whether a stage's record exists and its files match it. Raises UserError if somebody replaced one."""
    record = load(path, {"unfinished": True})
    return bool(record) and not record.get("unfinished") and not damage(path, record)


def describe(path):
    """What a record says about a file: bytes, for an array also dtype and shape, and a hash of blocks spread over it (all of
    a small file), which takes milliseconds at any size.
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

    Raises UserError if an array is readable but is another one: somebody replaced it and may not want it overwritten.
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
            raise UserError(f"{file}: is not the array that {script} wrote: to keep it, remove {path}; to rebuild it, "
                            f"remove {file}; then run {script} again")
        return f"{name} has changed since it was written ({os.stat(file).st_size:,} bytes, then {made['bytes']:,})"
    return ""


def verify(path, contents, own=True):
    """Compares the outputs of a record, and contents (name -> files), with their SHA-256 (--verify).

    own: whether the record belongs to the running stage, and new hashes are added to it.
    Raises UserError if files differ: no record can say what they were made from.
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
    """How two records of a stage differ, in a few words, or ""."""
    differs = [f"{key} {_text(record['settings'].get(key))}, now {_text(value)}"
               for key, value in other["settings"].items() if record["settings"].get(key) != value]
    differs += [f"{key} changed" for key, value in other["input"].items() if record["input"].get(key) != value]
    return "; ".join(differs)


def _is_record(content):
    """Whether this is a complete record with outputs in its own folder; it may come from a stranger."""
    return (isinstance(content, dict) and all(isinstance(content.get(key), kind) for key, kind in FORM.items())
            and content["check"] == _check(content) and isinstance(outputs := content.get("outputs", {}), dict)
            and all(isinstance(made, dict) and isinstance(made.get("bytes"), int) and Path(name).name == name
                    for name, made in outputs.items()))


def _check(content):
    """A hash of a record's content, to detect damage."""
    return digest({key: value for key, value in content.items() if key != "check"})


def _text(value):
    return {True: "true", False: "false", "": "(none)"}.get(value, value) if isinstance(value, (bool, str)) else value
