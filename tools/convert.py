"""Convert files to and from the formats of the official code and projects based on it.

    python -m tools.convert boxes data/D/MODE/bboxes.npy D_MODE_bboxes.npy    ours -> one (n, 4) array per frame (pickled)
    python -m tools.convert boxes D_MODE_bboxes.npy bboxes.npy                theirs -> ours, (N, 5) frame x1 y1 x2 y2
    python -m tools.convert boxes data/D/MODE/bboxes.npy boxes.json           either -> COCO
    python -m tools.convert boxes boxes.json bboxes.npy --dataset_name D      COCO -> ours; images are matched by file_name
    python -m tools.convert model data/D/MODE D_model.npy                     ours -> official, training scores next to it
    python -m tools.convert model D_model.npy data/D/official                 official -> ours, for test.py --model
    python -m tools.convert flow optical_flow/D official/optical_flow/D       ours -> official, float32
    python -m tools.convert flow official/optical_flow/D optical_flow/D       official or from other code -> ours, with records

One (n, 4) array per frame is the form of the official code, VEC_VAD and hf2vad. To take such boxes straight into a run there
is extract_bbox.py --boxes_from. Flow becomes float16, up to 0.05 % off, unless --flow_dtype float32 keeps it as it is.

Flow from other code must be in the folders of the videos: one .npy (height, width, 2) or .flo file per frame, or one array per
video. N - 1 fields for N frames are from each frame to the next: field k becomes the flow of frame k + 1, and the first frame
gets zeros. The frame of a box counts from 0 across all videos of a mode; COCO names its images instead.
"""

import argparse
import functools
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch

from fore_det.published import read_boxes
from models.checkpoint import load_models, scores_file
from utils import exchange, files, frames, record, stages
from utils.config import MODES, dataset_of, parse_config
from utils.errors import UserError
from utils.run import progress, run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("boxes", "model", "flow"))
    parser.add_argument("source", metavar="SOURCE", type=Path)
    parser.add_argument("target", metavar="TARGET", type=Path)
    parser.add_argument("--flow_dtype", choices=("float16", "float32"), default="float16", help="(default: float16)")
    parser.add_argument("--frames", type=int, help="number of frames, for a file of (N, 5) rows without a record "
                        "(default: up to the last box)")
    parser.add_argument("--dataset_name", metavar="D", help="COCO -> ours: the dataset whose frames file_name refers to")
    parser.add_argument("--mode", choices=MODES, default="test", help="its mode, which numbers the frames (default: test)")
    args = parser.parse_args()
    if not args.source.exists():
        raise UserError(f"{args.source}: no such file or folder")
    if args.target.exists() and (args.target.is_file() or any(args.target.iterdir())):
        raise UserError(f"{args.target}: already exists: remove it, or choose another path")
    {"boxes": convert_boxes, "model": convert_model, "flow": convert_flow}[args.what](args)


def convert_boxes(args):
    """Ours to theirs, theirs to ours; .json means COCO."""
    rows, num_frames, ours = coco_in(args) if args.source.suffix == ".json" else boxes_in(args.source, args.frames)
    if args.target.suffix == ".json":
        files.save_json(args.target, coco(rows, images(args.source, num_frames)))
        form = "COCO"
    elif ours:
        ends = np.searchsorted(rows[:, 0], np.arange(num_frames + 1))
        exchange.save_object_array(args.target, [rows[a:b, 1:] for a, b in zip(ends[:-1], ends[1:])])
        form = "one (n, 4) array per frame"
    else:
        files.save_array(args.target, rows)
        form = "(N, 5) rows"
    print(f"wrote {args.target}: {len(rows):,} boxes in {num_frames:,} frames, {form}")


def boxes_in(path, count=None):
    """The rows (N, 5) in a file, the number of frames (or count), and whether it is in our own format."""
    array = files.load_object_array(path)
    if array.ndim == 2 and array.shape[1] == 5:
        made = record.load(path.with_name("boxes.json"))
        last = int(array[:, 0].max()) + 1 if len(array) else 0
        num_frames = made["num_frames"] if made and path.name == "bboxes.npy" else count or last
        return read_boxes(path, num_frames), num_frames, True
    return read_boxes(path, len(array)), len(array), False


def coco_in(args):
    """The rows (N, 5) in a COCO file, the number of frames, and False: not in our own format."""
    content = files.load_json(args.source)
    try:
        numbers, num_frames = frames_of_images(content["images"], args)
        frame = {image["id"]: number for image, number in zip(content["images"], numbers)}
        if min(len(frame), len(set(numbers))) < len(numbers):
            raise ValueError("two images have the same id or frame")
        rows = np.array([[frame[one["image_id"]], *one["bbox"]] for one in content["annotations"]] or np.empty((0, 5)), float)
        if rows.shape[1:] != (5,) or not np.isfinite(rows).all() or (rows[:, 3:] < 0).any():
            raise ValueError("a bbox is not x, y, width, height")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{args.source}: not a COCO file of images and annotations ({type(error).__name__}: {error})") from None
    rows[:, 3:] += rows[:, 1:3]  # x, y, width, height -> x1, y1, x2, y2
    return rows[np.argsort(rows[:, 0], kind="stable")].astype(np.float32), num_frames, False


def frames_of_images(images, args):
    """The frame number of each COCO image, and the number of frames. Raises UserError if one is ambiguous.

    Without --dataset_name only our own files work, where an image's id is its frame, counted from 0 across all videos.
    """
    if args.dataset_name is None:
        own = {(image.get("video"), image["id"] - image.get("frame", 0)) for image in images}
        if None in dict(own) or len(own) > len(dict(own)):
            raise UserError(f"{args.source}: its images can only be matched by file_name: add --dataset_name D and --mode")
        return [image["id"] for image in images], args.frames or max([image["id"] + 1 for image in images], default=0)
    dataset, known = dataset_of(parse_config("", ["--dataset_name", args.dataset_name, "--mode", args.mode])), {}
    keys = [(image["video"], image["frame"]) if "video" in image else
            tuple(Path(image["file_name"].replace("\\", "/")).with_suffix("").parts) for image in images]
    lengths = set(map(len, keys))
    for video in dataset.videos:
        for t, name in enumerate(video.frames):
            place = (*video.path.parts[1:], Path(name).stem)
            tails = () if video.is_file else (place[-length:] for length in lengths)  # frames of a video file have no files
            for key in {(video.name, t + 1), *tails}:
                known.setdefault(key, []).append(video.first + t)
    for key, found in ((key, len(known.get(key, ()))) for key in keys):
        if found != 1:
            raise UserError(f"{args.source}: image {'/'.join(map(str, key))} matches {found} frames of {dataset.name}, mode "
                            f"{args.mode}: file_name must be the end of one frame's path, such as Test001/001.tif")
    return [known[key][0] for key in keys], dataset.num_frames


def images(path, num_frames):
    """COCO's list of images: with names, sizes and videos if there is a record of the boxes."""
    made = record.load(path.with_name("boxes.json")) if path.name == "bboxes.npy" else None
    if made is None:
        return [{"id": i, "file_name": f"{i:06d}", "video": "", "frame": i + 1} for i in range(num_frames)]
    found = {}
    files_of = names_of(path, made)
    for (name, first, count), (height, width) in zip(made["videos"], made["sizes"]):
        for t in range(count):
            found[first + t] = {"id": first + t, "file_name": files_of.get(first + t, f"{name}/{t + 1:06d}"), "width": width,
                                "height": height, "video": name, "frame": t + 1}
    return list(found.values())


def names_of(path, made):
    """Number -> path of each frame below raw_datasets/D, if the dataset is present and has frames as files."""
    try:
        dataset = dataset_of(parse_config("", ["--dataset_name", path.parent.parent.name, "--mode", path.parent.name]))
    except (UserError, SystemExit):
        return {}
    if [[v.name, v.first, len(v)] for v in dataset.videos] != made["videos"]:
        return {}
    return {v.first + t: "/".join([*v.path.parts[2:], name]) for v in dataset.videos if not v.is_file
            for t, name in enumerate(v.frames)}


def coco(rows, images):
    """COCO's object detection format: bbox is x, y, width, height."""
    known = {image["id"] for image in images}
    annotations = [{"id": k, "image_id": int(frame), "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                   for k, (frame, x1, y1, x2, y2) in enumerate(rows.astype(np.float64).tolist(), 1) if int(frame) in known]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "foreground"}]}


def convert_model(args):
    """Our folder of models to an official file with its training scores, or the reverse."""
    models = load_models(args.source)
    if args.source.is_file():
        to_ours(models, args.source, args.target)
        return
    kinds = ["raw", "of"] if models.use_flow else ["raw"]
    paths = [scores_file(args.target, kind) for kind in kinds]
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: already exists: remove it, or choose another path")
    rows, columns = (range(count) for count in models.grid)
    cells = [[models.blocks.get(row * models.grid[1] + column) for column in columns] for row in rows]
    for k, path in enumerate(paths):
        exchange.save_torch_arrays(path, [[np.float32([]) if cell is None else np.float32(cell.scores[:, k]) for cell in row]
                                          for row in cells])
    files.save_torch(args.target, [[[] if cell is None else [dict(cell.model.state_dict())] for cell in row] for row in cells])
    print(f"wrote {args.target} and {', '.join(path.name for path in paths)}: {len(models.blocks)} blocks of "
          f"{models.grid[0]}x{models.grid[1]}")


def to_ours(models, source, folder):
    """Writes models as train.py does, so that test.py --model can use the folder."""
    first = next(iter(models.blocks.values())).model
    made = record.wanted("train", {
        "h_block": models.grid[0], "w_block": models.grid[1], "precision": models.precision, "use_flow": first.use_flow,
        "num_feature_root": first.args["features_root"]}, {"cubes": None, "official": models.recipe["id"]})
    names = []
    for number, block in models.blocks.items():
        place = divmod(number, models.grid[1])
        names.append("model_{}_{}.pt".format(*place))
        files.save_torch(folder / names[-1], {
            **made, "block": list(place), "grid": list(models.grid), "model_args": block.model.args,
            "model": block.model.state_dict(),
            "scores": torch.from_numpy(np.float32(block.scores)), "score_mean": block.mean.tolist(),
            "score_std": block.std.tolist()})
    outputs = {name: record.describe(folder / name) for name in names}
    record.save(folder / "train.json", made, outputs, {"models": names, "seconds": 0})
    print(f"wrote {', '.join(names)} in {folder}; score with them: python test.py --dataset_name D --model {folder}")


def convert_flow(args):
    """Our flow to official float32 files, or those to ours, with the records that the next stages need."""
    if any(args.source.rglob("flow.json")):
        paths = sorted(args.source.rglob("*.npy"))
        with progress(len(paths), "frame", "flow") as bar:
            for path in paths:
                files.save_array(args.target / path.relative_to(args.source), files.load_array(path).astype(np.float32))
                bar.update()
        print(f"wrote {len(paths):,} flow files below {args.target}, float32")
        return
    found = []
    for mode in ("train", "test"):
        cfg = parse_config("", ["--dataset_name", args.target.name, "--mode", mode, "--flow_root_dir", str(args.target.parent),
                                "--flow_method", "flownet2", "--flow_dtype", args.flow_dtype])
        try:
            dataset = dataset_of(cfg)
        except UserError:
            if mode == "test":  # the training videos are often missing
                raise
            continue
        for video in dataset.videos:
            folder = args.source / video.flow_folder.relative_to(args.target)
            fields = fields_of(folder, video)
            found += [(cfg, video, fields)] if fields else []
    if not found:
        raise UserError(f"{args.source}: no flow of the videos of {args.target.name} (looked for the same folders as in "
                        f"raw_datasets/{args.target.name})")
    count = sum(flow_of_video(*one) for one in found)  # all are checked before the first is written
    print(f"wrote {count:,} flow files below {args.target}, {args.flow_dtype}")


def fields_of(folder, video):
    """A video's flow from another program: a function from frame number t to its flow (H, W, 2) float32; None if there is none.

    One .npy or .flo file per frame, by name; or N - 1 of them, or one array of N or N - 1 fields (folder/*.npy, folder.npy).
    N - 1 fields are from each frame to the next: field k becomes the flow of frame k + 1, the first frame's is zero.
    Raises UserError if the count or the shape of a field is wrong.
    """
    paths = sorted(p for end in ("npy", "flo") for p in folder.glob(f"*.{end}")) or [
        p for p in [folder.with_name(folder.name + ".npy")] if p.is_file()]
    if not paths:
        return None
    read = [functools.partial(read_field, path) for path in paths]
    if len(paths) == 1 and len(video) > 1:
        array = files.load_array(paths[0], mmap=True)
        read = [functools.partial(np.asarray, field) for field in array]
    if len(read) not in (len(video), len(video) - 1):
        raise UserError(f"{paths[0].parent}: {len(read)} flow fields, but {video.name} has {len(video)} frames: give one per "
                        "frame, or one per pair of neighbours")
    if len(read) == len(video) == len(paths):
        order = {path.stem: one for path, one in zip(paths, read)}
        missing = [name for name in video.frames if Path(name).stem not in order]
        if missing:
            raise UserError(f"{folder}: no flow for frame {missing[0]}: name the flow files like the frames")
        read = [order[Path(name).stem] for name in video.frames]
    wanted, first = (*frames.size_of(video), 2), read[0]().shape
    if first != wanted:
        raise UserError(f"{paths[0]}: a field has shape {first}, must be {wanted}: (height, width, 2) of the frames, in "
                        "their pixels")
    skip = len(video) - len(read)
    return lambda t: np.zeros(wanted, np.float32) if t < skip else checked_field(read[t - skip](), wanted, folder, t)


def read_field(path):
    """One flow field from a .npy or a .flo file."""
    if path.suffix == ".npy":
        return files.load_array(path)
    field = cv2.readOpticalFlow(str(path))
    if field is None:
        raise UserError(f"{path}: not a complete .flo file")
    return field


def checked_field(field, shape, folder, t):
    """A field as float32. Raises UserError if it has another shape or is not finite."""
    if field.shape != shape or field.dtype.kind != "f" or not np.isfinite(field).all():
        raise UserError(f"{folder}: the flow of frame {t + 1} has shape {field.shape} and type {field.dtype}, or is not finite")
    return field.astype(np.float32)


def flow_of_video(cfg, video, field):
    """Copies the flow of all frames of one video, whole or not at all; returns their number."""
    part = video.flow_folder.with_name(video.flow_folder.name + ".part")
    files.new_folder(part)
    with progress(len(video), "frame", video.name) as bar:
        try:
            for t in range(len(video)):
                files.save_array(part / video.flow_file(t).name, field(t).astype(cfg.flow_dtype))
                bar.update()
            files.rename(part, video.flow_folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    stages.Flow(cfg, video, frames.size_of(video), lambda: ["converted", 0], given=True).finish(0, ())
    return len(video)


if __name__ == "__main__":
    run(main)
