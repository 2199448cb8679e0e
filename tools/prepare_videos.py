"""Make a dataset from your own videos: raw_datasets/NAME and configs/NAME.cfg.

    python -m tools.prepare_videos NAME FILES_OR_FOLDERS... [--labels FILE.csv] [--fps F] [--long_side PIXELS] [...]
    python run_pipeline.py --dataset_name NAME --mode test

A video is a file that FFmpeg reads, or a folder of frames (.png, .jpg, ...); other folders are searched for either.

writes  raw_datasets/NAME/videos/       a link to each video that can be read in place, else its frames (.jpg)
        raw_datasets/NAME/videos.csv    name, frames, size, frames per second, and source
        raw_datasets/NAME/labels.csv    with --labels
        configs/NAME.cfg                settings by the rule below

--labels: a table with one line per video or event: its name, then pairs of first and last. Whole numbers are frames counted
    from 1, both ends included; h:m:s is a time; seconds need a header video,first_second,last_second. -1,-1, or no line: all
    normal. A word after the numbers (a class) is ignored; columns such as fps or duration, and anything else, are refused.
--fps F: frames per second to keep; a video with more is reduced to F, a folder of frames is assumed to have F.
--long_side: scale larger frames down, which is faster; 640 is about the size of the paper's data.
--skip_bad: skip videos that cannot be read, and list them.
--copy: copy instead of link; automatic if the file system has no links.

The rule, from the smallest frame size (for the paper's datasets it gives their settings, within a factor of 3.4 in area):
    min_area         a square of 1/16 of the short side, at least 8 pixels: 240x360 -> 15 * 15
    detector_scale   608 if the long side is below 512 (small frames show small objects), else 320
    h_block, w_block 1 x 1 at every size, as for three of the paper's four datasets: each block needs many cubes. If people
                     near the camera are several times as tall as those far away, try h_block = 4, as for UCSDped1
    use_flow         true: motion enhancement. With four videos each it gained 11 points of AUROC on Ped2 and lost 3 on Ped1
    w_raw, w_of      1, 1 without FlowNet2's weights: with TV-L1 flow the official 0.5, 1 was worse on all sets measured
    num_feature_root 16, batch_size 64, epochs 10, warmup_epoch 2, min_steps 1000, precision auto: if there are fewer than
                     10,000 frames. Epochs are added until the network has learned from 1,000 batches; on four videos of Ped2
                     more than that did not raise the AUROC (docs/RESULTS.md)
    noise_gate       auto if a video has noise of 4 grey levels or more, else off
    global_motion    remove if the camera moves by half a pixel or more in a tenth of the sampled frames, else keep
Without FlowNet2's weights flow_method is tvl1, which needs none; without YOLOv3's the detector is YOLOX-nano if present
(python -m tools.download_weights yolox, 4 MB), else none.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from FlowNet2_src import methods
from fore_det import boxes, detector
from tools import doctor
from utils import datasets, files, frames, names, text
from utils.errors import UserError
from utils.evaluation.events import runs
from utils.locks import locked
from utils.ranges import abnormal, read_ranges
from utils.run import progress, run
from utils.sources import find, with_names

SMALL = ("num_feature_root = 16", "batch_size = 64", "epochs = 10", "warmup_epoch = 2", "min_steps = 1000", "precision = auto")


class Plan(NamedTuple):
    kept: list  # numbers of the source's frames that are kept
    rate: float | None  # frames per second afterwards
    size: tuple  # (H, W) afterwards
    how: str  # "link", "links" to each frame under a sortable name, "copy", "copies" of frames, or "frames" as .jpg


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("paths", metavar="FILES_OR_FOLDERS", type=Path, nargs="+")
    parser.add_argument("--labels", type=Path, metavar="FILE.csv")
    parser.add_argument("--fps", type=float, metavar="F")
    parser.add_argument("--long_side", type=int, metavar="PIXELS")
    parser.add_argument("--skip_bad", action="store_true")
    parser.add_argument("--copy", action="store_true")
    args = parser.parse_args()
    root, config = datasets.RAW / args.name, Path("configs", f"{args.name}.cfg")
    check(args, root, config)
    lines = text.rows(args.labels) if args.labels else None  # before the videos, which take a while
    sources = with_names(find(args.paths, args.skip_bad))
    plans = [plan(source, args.fps, args.long_side) for source in sources]
    ranges = None if lines is None else labels(args.labels, lines, sources, plans, args.fps)
    with locked(datasets.RAW):
        if args.copy or not has_links(datasets.RAW):
            plans = list(map(copied, sources, plans))
        write(root, sources, plans, ranges)
    settings = rule(plans, *look(sources, plans))
    with files.whole(config) as file:
        file.write(settings.encode())
    tell(args, root, config, sources, plans, settings)


def check(args, root, config):
    """Raises UserError if the command line is not valid."""
    if not re.fullmatch(r"\w[\w.-]*", args.name) or args.name in datasets.DATASETS:
        raise UserError(f"NAME {args.name}: must be letters, digits, - and _, and not one of {', '.join(datasets.DATASETS)}")
    for path in (root, config):
        if path.exists() or path.is_symlink():
            raise UserError(f"{path}: already exists: choose another NAME, or remove {root} and {config} first")
    for key, low in (("fps", 0.01), ("long_side", 32)):
        value = getattr(args, key)
        if value is not None and not low <= value < 1e5:
            raise UserError(f"--{key} {value:g}: must be {low:g} or more")


def plan(source, fps, long_side):
    """Which frames are kept and how they get into the dataset."""
    times = times_of(source, fps)
    kept = list(range(source.count))
    rate = None if times is None else len(kept) / times[-1]
    if fps and not source.frames and times is not None:
        seen = np.searchsorted(times[:-1], np.arange(0, times[-1] - 1e-6, 1 / fps) + 1e-6, "right") - 1  # at each tick
        kept = np.unique(seen).tolist()
        if len(kept) < source.count:
            rate = fps if len(kept) == len(seen) else None
    shrink = min(1.0, (long_side or 1e9) / max(source.size))
    size = tuple(max(1, round(side * shrink)) for side in source.size)
    readable = source.frames or source.path.suffix.lower() in datasets.VIDEOS
    if shrink < 1 or len(kept) < source.count or not readable:
        if rate and len(kept) == source.count and np.abs(times[:-1] - np.arange(source.count) / rate).max() > 1 / rate:
            rate = None  # images have no time stamps
        if rate is None and times is not None:
            print(f"note: {source.path}: its frames are up to {np.diff(times).max():.3g} s apart; written as images they "
                  "lose their times, so its events get no seconds")
        return Plan(kept, rate, size, "frames")
    return Plan(kept, rate, size, "link" if list(source.frames) == sorted(source.frames) else "links")


def times_of(source, fps):
    """A video's (count + 1,) times; for a folder of frames from `fps`."""
    return np.arange(source.count + 1) / fps if source.frames and fps else source.times


def labels(path, lines, sources, plans, fps):
    """The user's labels (`lines` of the table `path`) with the names and frame numbers of the dataset: list of dicts."""
    known, made = {}, []
    for source in sources:
        for word in (source.name, source.path.name, source.path.stem, str(source.path)):
            known.setdefault(names.same(word), set()).add(source.name)
    ranges = read_ranges(path, lines, known)
    for source, plan in zip(sources, plans):
        own = [one for one in ranges if one.video == source.name]
        of_frames = source.frames or [f"{t}.jpg" for t in range(source.count)]
        flags = abnormal(of_frames, own, times_of(source, fps))[plan.kept]
        made += [{"video": source.name, "first_frame": first + 1, "last_frame": last}
                 for first, last in runs(flags, [(0, len(flags))])]
        for where in (one.where for one in own if not abnormal(of_frames, [one], times_of(source, fps))[plan.kept].any()):
            print(f"note: {where}: none of its frames are kept at --fps {fps:g}")
    print(f"{path}: {len(made)} abnormal stretches in {len({one['video'] for one in made})} of {len(sources)} videos")
    return made


def has_links(folder):
    """Whether a folder can have symbolic links; prints a note if not."""
    try:
        (folder / ".link").unlink(missing_ok=True)  # left by a killed run
        os.symlink(os.curdir, folder / ".link")
        os.unlink(folder / ".link")
        return True
    except OSError as error:  # FAT, some network drives, Windows without its developer mode
        print(f"note: {folder}: cannot have symbolic links ({error.strerror}); copying instead")
        return False


def copied(source, plan):
    """The plan with copies instead of links."""
    return plan._replace(how={"link": "copies" if source.frames else "copy", "links": "copies"}.get(plan.how, plan.how))


def write(root, sources, plans, ranges):
    """Writes raw_datasets/NAME as a whole."""
    part = root.with_name(root.name + ".part")
    files.new_folder(part)
    (part / "videos").mkdir()
    for source, plan in zip(sources, plans):
        as_it_is = plan.how in ("link", "copy")
        place = part / "videos" / (source.name + (source.path.suffix if as_it_is and not source.frames else ""))
        put = os.symlink if plan.how in ("link", "links") else copy
        if as_it_is:
            put(source.path.resolve(), place)
        elif plan.how in ("links", "copies"):
            place.mkdir()
            for k, name in enumerate(source.frames, 1):
                put((source.path / name).resolve(), place / f"{k:06d}{Path(name).suffix.lower()}")
        else:
            extract(source, plan, place)
    files.save_csv(part / "videos.csv", [
        {"video": source.name, "fps": "" if plan.rate is None else f"{plan.rate:g}", "frames": len(plan.kept),
         "height": plan.size[0], "width": plan.size[1], "source": source.path.resolve()}
        for source, plan in zip(sources, plans)])
    if ranges is not None:
        files.save_csv(part / "labels.csv", ranges, ("video", "first_frame", "last_frame"))
    os.rename(part, root)


def copy(source, place):
    """Copies a file, whole or not at all."""
    with open(source, "rb") as file, files.whole(place) as new:
        shutil.copyfileobj(file, new, 1 << 20)


def extract(source, plan, place):
    """Writes the kept frames as .jpg, scaled down if requested."""
    place.mkdir()
    video = datasets.Video(source.name, source.path, source.frames or ("",) * source.count, True)
    with progress(len(plan.kept), "frame", source.name) as bar:
        for k, frame in enumerate(frames.load(video, plan.kept, 2, "repeat"), 1):
            if frame.shape[:2] != plan.size:
                frame = cv2.resize(frame, plan.size[::-1], interpolation=cv2.INTER_AREA)
            frames.save_image(place / f"{k:06d}.jpg", frame, cv2.IMWRITE_JPEG_QUALITY, 95)
            bar.update()


def look(sources, plans):
    """The highest noise of a video in grey levels, and the share of frames with camera motion; samples at most 12 videos."""
    levels, moved, flow_of = [0.0], [], methods.METHODS["dis"](None, "cpu")
    for k in np.unique(np.linspace(0, len(sources) - 1, 12).astype(int)):
        with contextlib.suppress(UserError):  # a damaged frame: the stages report it
            source, plan = sources[k], plans[k]
            video = datasets.Video(source.name, source.path, source.frames or ("",) * source.count, True)
            wanted = [t for start in range(0, 100, 20) for t in plan.kept[start:start + 2]]
            seen = [cv2.resize(frame, plan.size[::-1], interpolation=cv2.INTER_AREA) for frame in frames.load(video, wanted)]
            levels.append(np.median([boxes.noise(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)) for frame in seen]))
            small = [flow_of.prepare(frame) for frame in seen]
            moved += [boxes.camera_motion(flow_of.flow([pair])[0]).any() for pair in zip(small[::2], small[1::2])]
    return max(levels), np.mean(moved or [False])


def rule(plans, noise, moved):
    """The text of the config file, from the plans and the result of `look`; the rule is in this file's docstring."""
    height, width = min((plan.size for plan in plans), key=min)
    small = sum(len(plan.kept) for plan in plans) < 10_000
    side = max(8, round(min(height, width) / 16))
    flow = methods.FLOWNET2_WEIGHTS.is_file()
    scale = 608 if max(height, width) < 512 else 320
    objects = detector.at_hand(scale)
    objects = f'"{objects}"' if ":" in objects else objects  # a path may contain ; and #
    return "\n".join([
        f"# Own videos; settings by the rule of tools/prepare_videos.py for frames of {height}x{width} (height x width).", "",
        "[dataset]", "layout = plain", f"min_area = {side * side}", f"detector_scale = {scale}", "",
        "[data_parameters]", "h_block = 1", "w_block = 1",
        "flow_method = flownet2" if flow else "flow_method = tvl1    ; FlowNet2's weights are missing",
        f"detector = {objects}" + ("" if objects == "yolov3" else "      ; YOLOv3's weights are missing"),
        f"noise_gate = {'auto' if noise >= boxes.NOISY else 'off'}    ; found noise of up to {noise:.1f} grey levels",
        f"global_motion = {'remove' if moved >= 0.1 else 'keep'}    ; the camera moves in {moved:.0%} of the sampled frames",
        "use_flow = true", *([] if flow else ["w_raw = 1", "w_of = 1"]), *(SMALL if small else []), ""])


def tell(args, root, config, sources, plans, settings):
    """Prints the summary."""
    for source, plan in zip(sources, plans):
        how = {"link": "a link", "links": "links to its frames", "frames": "frames written as .jpg",
               "copy": "a copy", "copies": "copies of its frames"}[plan.how]
        rate = f"{plan.rate:g} fps" if plan.rate else "fps unknown"
        print(f"  {source.name}: {len(plan.kept):,} frames of {plan.size[0]}x{plan.size[1]}, {rate}; {how}")
    print(f"wrote {root}: {len(sources)} videos, {sum(len(plan.kept) for plan in plans):,} frames, "
          f"{'with' if args.labels else 'without'} labels; and {config}: "
          + ", ".join(line.partition("  ")[0].replace(" = ", " ") for line in settings.splitlines() if " = " in line))
    if "weights are missing" in settings:
        print("note: some published weights are missing, so flow or boxes use other methods; for better results first run "
              f"python -m tools.download_weights, then remove {root} and {config} and prepare again")
    for line in cameras(args, sources, plans):
        print(line)
    if "detector = none" in settings:
        print("note: boxes are around anything that moves; to find people and vehicles with a 3.7 MB detector: python -m "
              "tools.download_weights yolox")
    print(f"how long this takes here (python -m tools.doctor --dataset_name {args.name} --mode test):")
    try:
        doctor.main(["--dataset_name", args.name, "--mode", "test"])
    except UserError as error:  # what is written is written
        print(f"warning: {error}")
    print(f"next: python run_pipeline.py --dataset_name {args.name} --mode test"
          "   (add --model data/OTHER/test to use a trained model instead)")


def cameras(args, sources, plans):
    """A note about one model for videos of several sizes or folders, with a command for each of them; or nothing."""
    groups = {}
    for source, plan in zip(sources, plans):
        groups.setdefault((source.path.parent, plan.size), []).append(source.path)
    flags = [f"--{key} {getattr(args, key):g}" for key in ("fps", "long_side") if getattr(args, key)]
    lines = [f"note: {len(groups)} folders or frame sizes: if these are several cameras, what is usual at one counts as usual "
             "at all for a single model. For a model of each (with its own lines of the labels):"]
    for k, ((folder, _), paths) in enumerate(groups.items(), 1):
        alone = sum(folder in source.path.parents for source in sources) == len(paths)
        words = shlex.join(map(str, [folder] if alone else paths))
        lines.append(" ".join([f"    python -m tools.prepare_videos {args.name}_{k} {words}", *flags,
                               *["--skip_bad"] * args.skip_bad]))
    return lines if len(groups) > 1 else []


if __name__ == "__main__":
    run(main)
