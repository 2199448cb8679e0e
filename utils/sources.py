"""The user's videos: files and folders of frames, with any names, anywhere."""

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import films, frames
from utils.datasets import IMAGES, MASK_NAME, VIDEOS, Video, images_in
from utils.errors import UserError


class Source(NamedTuple):
    path: Path
    name: str  # of the video in the dataset
    frames: tuple  # file names in natural order, or () for a video file
    count: int  # frames
    size: tuple  # (H, W)
    times: np.ndarray | None  # (count + 1,) seconds at which frames begin and the last one ends


def find(paths, skip_bad=False):
    """The videos in files and folders, as sources with their own names, prefixed with the folders they were
    found in: b/c.mp4 in folder a is b_c. Raises UserError if there are none, or one cannot be read.

    skip_bad: skip and list those that cannot be read.
    """
    found, bad = [], []
    for given in paths:
        here, before = [], len(bad)
        for path in entries(given):
            source, why = inspected(path, given)
            if why and not skip_bad:
                raise UserError(f"{why} (or skip it with --skip_bad)")
            here += [source] if source else []
            bad += [why] if why else []
        if not here and len(bad) == before:
            raise UserError(f"{given}: no videos or frames in it (videos: {', '.join(sorted(VIDEOS))}; "
                            f"frames: {', '.join(sorted(IMAGES))})")
        found += here
    print("".join(f"skipped: {line}\n" for line in bad), end="")
    if not found:
        raise UserError(f"none of the {len(bad)} videos can be read")
    return list({source.path.resolve(): source for source in found}.values())


def entries(given):
    """A file, or a folder and everything in it, in natural order, without hidden files and what looks like masks."""
    if not given.exists():
        raise UserError(f"{given}: no such file or folder")
    if given.is_file():
        return [given]
    inside = sorted((path for path in given.rglob("*")
                     if not any(part.startswith(".") for part in path.relative_to(given).parts)), key=natural)
    masks = {path for path in inside if path.is_dir() and MASK_NAME.fullmatch(path.name)}
    if masks:
        print(f"note: {given}: ignored, because they look like masks: {', '.join(sorted(path.name for path in masks))}")
    return [path for path in (given, *inside) if not masks & {path, *path.parents}]


def inspected(path, given):
    """(the Source at a path found in `given`, or None; why it cannot be read, or "")."""
    try:
        source = inspect(path, given.is_file())
    except UserError as error:
        return None, str(error)
    return source and source._replace(name="_".join([*path.relative_to(given).parts[:-1], source.name])), ""


def natural(path):
    """A key that sorts frame 2 before frame 10."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def inspect(path, named):
    """The Source at a path, or None if there is none; named: whether the user gave this file explicitly."""
    if path.is_dir():
        images = images_in(path)
        if not images:
            return None
        size = frames.size_of(Video(path.name, path, images, True))
        return Source(path, path.resolve().name, images, len(images), size, None)
    if path.suffix.lower() in IMAGES or path.suffix.lower() not in VIDEOS and not named:
        if named:
            raise UserError(f"{path}: is a single image: give the folder of a video's frames, or a video file")
        return None
    film = films.read(path)
    print(films.note(path), end="\n" * bool(films.note(path)))
    size = frames.size_of(Video(path.stem, path, ("",) * film.count, True))
    return Source(path, path.stem, (), film.count, size, film.times)


def with_names(sources):
    """Gives each source a unique name that every stage can use as a file name."""
    taken, named = set(), []
    for source in sources:
        base = name = re.sub(r"[%/\\\x00-\x1f]", "_", unicodedata.normalize("NFC", source.name)).lstrip(".") or "video"
        k = 1
        while name in taken:
            k += 1
            name = f"{base}-{k}"
        if name != source.name:
            print(f"note: {source.path} is called {name} here")
        taken.add(name)
        named.append(source._replace(name=name))
    return named
