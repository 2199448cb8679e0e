"""How fast this machine is: rates that are measured once and kept, for the time that a run will take."""

import os
import platform
import statistics
import time

from utils import files
from utils.run import cores


class Rates:
    """Items per second by what is done, kept in a JSON file for each machine by itself."""

    def __init__(self, path, device):
        """device: its name, in words."""
        self.path = path
        self.machine = f"{platform.node()}: {device}, {cores()} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads"
        known = files.load_json(path) if path.is_file() else {}
        self.known = known if isinstance(known, dict) else {}

    def __call__(self, what, measure):
        """The rate of `what`: as it is known, else what measure() gives, which is kept."""
        own = self.known.setdefault(self.machine, {})
        if what not in own:
            print(f"measures    {what}", flush=True)
            own[what] = measure()
            files.save_json(self.path, self.known)
        return own[what]


def per_second(count, work, seconds=1.0):
    """Items per second of work(), which does `count`: the median of runs for some seconds, after one to get warm."""
    times, start = [], time.perf_counter()
    work()
    while not times or len(times) < 9 and time.perf_counter() - start < seconds:
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
    return count / statistics.median(times)


def duration(seconds):
    """12 s, 3 min, 2.5 h; ? for None."""
    if seconds is None:
        return "?"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
