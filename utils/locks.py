"""Locks that reserve a folder for one process at a time."""

import contextlib
import functools
import os
from pathlib import Path

import filelock

from utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def locked(folder, shared=False):
    """Locks a folder for one process; a killed process releases it. Raises UserError if another one has it.

    shared: other readers may lock it too; a folder that cannot be written is not locked at all. Windows has no
    shared locks, so there it is locked as for writing. If a file system has no locks a warning is printed.
    """
    folder, handle = Path(folder), None
    flags = os.O_CREAT | (os.O_RDONLY if shared else os.O_RDWR)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # in case of a planted link or pipe
    try:
        if not shared:
            folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", flags, 0o644)
    except OSError as error:
        if not shared:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        if handle is not None and not _lock(handle, shared, folder):
            raise UserError(f"{folder}: another process is using this folder: wait until it is done")
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle, shared, folder):
    """Takes the lock on an open file until it is closed; returns whether it was free."""
    try:
        if not shared or fcntl is None:
            return filelock.lock_descriptor(handle, blocking=False)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:  # for example a network file system without locks
        warn_unlocked(os.fstat(handle).st_dev, folder, error.strerror)
        return True


@functools.cache
def warn_unlocked(disk, folder, reason):
    """Warns once per disk that it has no locks."""
    print(f"warning: {folder}: this file system has no locks ({reason}): run nothing else in this folder at the same time")
