"""Matching names: only here are frames, masks and boxes matched, by name or by number, or refused."""

import functools
import re
import unicodedata

from utils.errors import UserError


def same(name):
    """A name composed and in lower case: file systems and spreadsheets may confuse names for which this is equal."""
    return unicodedata.normalize("NFC", name).casefold()


@functools.lru_cache(2 ** 16)  # folders of frames use the same names over and over
def parts(name):
    """From "img_07.png" (("img_", ""), (7,)): the text of a file name around its numbers, and its numbers."""
    pieces = re.split(r"(\d+)", unicodedata.normalize("NFC", name.rpartition(".")[0] or name))
    return tuple(pieces[::2]), tuple(map(int, pieces[1::2]))


def numbers_of(names):
    """The one number in which file names differ, for each name; None if they are not numbered consistently."""
    words, numbers = zip(*map(parts, names)) if names else ((), ())
    columns = [c for c in zip(*numbers) if len(set(c)) > 1] or list(zip(*numbers))[-1:]
    return list(columns[0]) if len(set(words)) == 1 and len(columns) == 1 else None


def order_of(names, folder):
    """A video's file names in frame order: by their numbers (9 before 10); names without numbers by name.

    Raises UserError if the order is ambiguous: names that are not numbered the same way, a duplicate name or number,
    several numbers or decimals in names that give a different order than the names.
    """
    by_name, words = sorted(names), {parts(name)[0]: name for name in sorted(names)}
    by_number, numbered = sorted(by_name, key=parts), any(parts(name)[1] for name in names)
    if numbered and len(words) > 1:
        one, other = list(words.values())[:2]
        raise UserError(f"{folder}: frames {one} and {other} are not numbered the same way, so their order is not certain: "
                        "rename them, or remove the files that are not frames")
    for one, other in zip(by_number, by_number[1:]):
        if parts(one) == parts(other):
            raise UserError(f"{folder}: {one} and {other} are the same frame: remove one of them")
    if numbered and by_number != by_name and (numbers_of(names) is None or any({".", ","} & set(text) for text in words)):
        raise UserError(f"{folder}: the order of frames such as {by_name[0]} and {by_name[-1]} is not certain: give all "
                        "numbers the same length, 009 and 010")
    return tuple(by_number if numbered else by_name)


def gap(names):
    """How many of the numbers in ordered file names are missing; 0 also if they are not numbered consistently."""
    numbers = numbers_of(names) or [0]
    return numbers[-1] - numbers[0] + 1 - len(numbers)


def match(frames, others, folder, what):
    """The one of `others` that belongs to each frame: by equal names without suffixes, else by equal numbers.

    Raises UserError, which calls the others `what`, unless frames and others match one to one.
    """
    mine, theirs = ([name.rpartition(".")[0] or name for name in names] for names in (frames, others))
    if set(mine) != set(theirs):
        mine, theirs = numbers_of(frames), numbers_of(others)
    if mine is None or theirs is None or len(set(theirs)) < len(theirs):
        raise UserError(f"{folder}: {what}s such as {others[0]} cannot be matched by name or number to frames such as "
                        f"{frames[0]}: name them like the frames")
    frame, other = dict(zip(mine, frames)), dict(zip(theirs, others))
    lone = [f"no {what} for frame {frame[k]}" for k in mine if k not in other]
    lone += [f"{other[k]} belongs to no frame" for k in theirs if k not in frame]
    if lone:
        raise UserError(f"{folder}: {len(others)} {what}s for {len(frames)} frames: {lone[0]}: give each frame one {what} "
                        "with the same number")
    return [other[k] for k in mine]
