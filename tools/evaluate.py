"""How sure is the number: every protocol's figures with their intervals, from saved scores, without frames or models.

    python -m tools.evaluate D MODE                     the scores in results/D/MODE
    python -m tools.evaluate D MODE --scores SCORES     any method's frame scores, with the labels of dataset D
    python -m tools.evaluate --scores SCORES --labels LABELS     the same without a dataset: 0, 1, or -1 for frames left out
    ... --against OTHER     the same videos scored twice, by results in a folder or SCORES: is the difference more than chance?
    ... --tracks FOLDER     RBDC and TBDC with region and track files, NAME.txt per testing video; --masks: from pixel masks
    ... --training          what refinement dropped, and the AUROC, epoch by epoch

SCORES, LABELS: a folder with NAME.npy, .txt or .csv per video, an .npz archive of arrays by NAME, or one .npy, .txt or .csv
of all frames in order of the videos' names (LABELS: with --lengths). Text has one number per line and no header.
A dataset's labels: docs/TESTING.md says which files are read, and which count frames from 0 or from 1.

reads   results/D/MODE/frame_scores.npy, box_scores.npy, labels.npy, metrics.json; with --scores the dataset's labels
writes  results/D/MODE/protocols.csv, videos.csv; with --training epochs.csv and training.png; --out: all that is printed
docs/EVALUATION.md says what each row means and which paper uses it. Intervals: 95%, by resampling whole videos.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import files, frames, metrics
from utils.boxes import Boxes
from utils.config import dataset_of, parse_config
from utils.errors import UserError
from utils.evaluation import alignment, bootstrap, epochs, inputs, plots, protocols, regions
from utils.labels import read_labels, read_masks
from utils.run import run
from utils.settings import SETTINGS


class Scored(NamedTuple):
    """A method's scores of the frames of a mode."""

    frames: inputs.Frames
    window_size: int  # the official smoothing's
    boxes: np.ndarray = None  # (N, 5) frame x1 y1 x2 y2, sorted by frame
    box_scores: np.ndarray = None  # (N,)
    dataset: object = None


def main():
    args = arguments()
    folder, results = (Path(root, args.dataset_name or "", args.mode) for root in (args.data_root_dir, args.results_dir))
    if args.training:
        return show_training(folder, results)
    foreign = args.scores or args.against and not (args.against / "metrics.json").is_file()
    truth = truth_of(args) if foreign or args.tracks or args.masks else None
    scored = read_foreign(args, args.scores, truth) if args.scores else read_own(results, folder)
    other = None
    if args.against:
        own = (args.against / "metrics.json").is_file()
        other = read_own(args.against, None) if own else read_foreign(args, args.against, truth)
        require_same(scored, other, args.against)
    made = {"scores": str(args.scores or results), "protocols": protocols.table(scored.frames, scored.window_size),
            "videos": of_videos(scored), "hints": alignment.hints(scored.frames)}
    print("\n".join([*protocols.lines(made["protocols"]), *video_lines(made["videos"]), *made["hints"]]))
    if args.tracks or args.masks:
        made["regions"] = show_regions(scored, truth.dataset, args.tracks)
    if other:
        made |= {"against": str(args.against), "differences": compare(scored, other, args.against)}
    if not args.scores:
        columns = made["protocols"][0]
        files.save_csv(results / "protocols.csv", [{key: row.get(key, "") for key in columns} for row in made["protocols"]])
        files.save_csv(results / "videos.csv", made["videos"])
        print(f"wrote {results / 'protocols.csv'}, videos.csv")
    if args.out:
        files.save_json(args.out, json.loads(json.dumps(made), parse_constant=lambda nan: None))
        print(f"wrote {args.out}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_name", metavar="D", nargs="?")
    parser.add_argument("mode", metavar="MODE", nargs="?", default="test", choices=("test", "merge", "train"),
                        help="test (default), merge or train")
    parser.add_argument("--scores", type=Path, help="frame scores of another method, higher for more abnormal")
    parser.add_argument("--labels", type=Path, help="frame labels, in place of a dataset's")
    parser.add_argument("--lengths", metavar="180,150", help="each video's frames (or a file of them), for LABELS in one array")
    parser.add_argument("--videos", metavar="NAME,NAME", help="only these of the videos that have labels")
    parser.add_argument("--repeat", metavar="K", type=int, default=1, help="scores are of clips of K frames")
    parser.add_argument("--boxes", type=Path, help="box scores of the same method: a .npy of (N, 6) rows of frame (from 0, "
                        "through all videos), x1, y1, x2, y2, score")
    parser.add_argument("--against", metavar="OTHER", type=Path, help="a folder of results, or frame scores as for --scores")
    parser.add_argument("--tracks", metavar="FOLDER", type=Path, help="true regions and tracks, for RBDC and TBDC")
    parser.add_argument("--masks", action="store_true", help="make regions and tracks from the pixel masks")
    parser.add_argument("--training", action="store_true", help="epoch by epoch")
    parser.add_argument("--out", metavar="FILE.json", type=Path, help="write all figures there, with all digits")
    parser.add_argument("--data_root_dir", default="data", help="folder of boxes, cubes and models (default: data)")
    parser.add_argument("--results_dir", default="results", help="folder of scores and figures (default: results)")
    args = parser.parse_args()
    if bool(args.dataset_name) == bool(args.labels) or args.labels and not args.scores:
        raise UserError("give a dataset D, or --scores and --labels without one")
    if args.labels and (args.tracks or args.masks or args.training):
        raise UserError("--tracks, --masks and --training need a dataset D")
    foreign = args.videos or args.boxes or args.repeat != 1
    if foreign and not args.scores or args.lengths and not args.labels or args.repeat < 1:
        raise UserError("--videos, --repeat (1 or more) and --boxes go with --scores, --lengths with --labels")
    return args


def truth_of(args):
    """The frames that scores are wanted for, with their labels: a Scored without scores. Raises UserError if there are none."""
    if args.labels:
        return Scored(inputs.labelled(args.labels, args.lengths, inputs.listed(args.scores)), SETTINGS["window_size"].default)
    cfg = parse_config("", ["--dataset_name", args.dataset_name, "--mode", args.mode])
    dataset = dataset_of(cfg)
    labels, source = read_labels(dataset, [frames.size_of(video) for video in dataset.videos])
    if labels is None or labels.all() or not labels.any():
        raise UserError(f"{dataset.name}: no frame labels of both classes ({source}), so there are no figures")
    return Scored(inputs.of_dataset(dataset, np.zeros(len(labels)), labels), cfg.window_size, dataset=dataset)


def read_own(results, folder):
    """What test.py wrote. Raises UserError if it is not there or has no figures."""
    if not (results / "metrics.json").is_file():
        raise UserError(f"{results}/metrics.json: not there, so there are no scores yet: run test.py first")
    made = files.load_json(results / "metrics.json")
    if made["auroc"] is None:
        raise UserError(f"{results}: has no labels of both classes ({made['labels']}), so there are no figures")
    scores, labels = (files.load_array(results / name) for name in ("frame_scores.npy", "labels.npy"))
    boxes = folder and Boxes.load(folder).rows
    return Scored(inputs.of_results(made, scores, labels), made["settings"]["window_size"], boxes,
                  files.load_array(results / "box_scores.npy"))


def read_foreign(args, path, truth):
    """Another method's scores at `path`. Raises UserError where they do not fit the frames, or no figure comes of them."""
    of = truth.dataset.name if truth.dataset else str(args.labels)
    found = inputs.scored(truth.frames, path, of, args.repeat, args.videos and args.videos.split(","))
    if not {0, 1} <= set(found.labels.astype(int)):
        raise UserError(f"--videos {args.videos}: have labels of one class alone, so there are no figures")
    if count := np.count_nonzero(found.scores == metrics.NO_BOX):
        print(f"note: {path}: {count:,} scores are {metrics.NO_BOX:g}, which stands for frames without boxes; rows 'as X' give "
              "those another one")
    if not args.boxes or path != args.scores:
        return truth._replace(frames=found)
    rows = files.load_array(args.boxes)
    if rows.ndim != 2 or rows.shape[1] != 6 or not np.isfinite(rows).all():
        raise UserError(f"{args.boxes}: must be (N, 6) rows of frame x1 y1 x2 y2 score, is {rows.shape}")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    if len(rows) and not 0 <= rows[0, 0] <= rows[-1, 0] < len(truth.frames.labels):
        raise UserError(f"{args.boxes}: names frames outside 0 to {len(truth.frames.labels) - 1}")
    return truth._replace(frames=found, boxes=rows[:, :5], box_scores=rows[:, 5])


def of_videos(scored):
    """A row per video: its frames, and its own AUROC with the official smoothing ("" where it has one class alone)."""
    smooth = protocols.official(scored.frames, scored.window_size)
    parts = zip(smooth.names, smooth.split(smooth.labels), protocols.video_aurocs(smooth).tolist())
    return [{"video": name, "frames": len(labels), "abnormal": int(labels.sum()), "auroc": "" if np.isnan(auroc) else auroc}
            for name, labels, auroc in parts]


def video_lines(videos):
    """The videos as text."""
    return ["", "each video by itself, official smoothing:", *(
        f"  {row['video']:20} {row['abnormal']:5,} of {row['frames']:5,} abnormal   " + (
            f"{row['auroc']:.2%}" if row["auroc"] != "" else "one class alone") for row in videos)]


def show_regions(scored, dataset, folder):
    """Prints RBDC and TBDC over the testing videos, and returns them."""
    videos = [video for video in dataset.videos if video.testing]
    if scored.boxes is None:
        raise UserError("RBDC and TBDC need box scores: give them with --boxes")
    if scored.frames.counts.sum() != dataset.num_frames:
        raise UserError(f"RBDC and TBDC need the scores of all {dataset.num_frames:,} frames, these are a trial's")
    if folder:
        found = regions.read_tracks(folder, videos)
    else:
        sizes = [frames.size_of(video) for video in dataset.videos]
        found = regions.joined([regions.from_masks(masks, video.first)
                                for video, masks in zip(videos, read_masks(dataset, sizes))])
    kept = scored.boxes[:, 0] >= videos[0].first
    from_start = np.array([videos[0].first, 0, 0, 0, 0])
    result = regions.evaluate(scored.boxes[kept] - from_start, scored.box_scores[kept],
                              found._replace(boxes=found.boxes - from_start), [len(video) for video in videos])
    kind = f"files in {folder}" if folder else "made from the pixel masks, not the published ones"
    print(f"\n{len(found.boxes):,} regions in {found.track.max(initial=-1) + 1:,} tracks ({kind})")
    for name in ("rbdc", "tbdc"):
        print(f"{name.upper() + (' ' if folder else ' from masks ')}{protocols.figure(result, name, f'{name}_')}")
    return {"source": kind, **result}


def require_same(scored, other, path):
    """Raises UserError if two methods' scores are not of the same frames."""
    mine, theirs = scored.frames, other.frames
    if not (np.array_equal(mine.labels, theirs.labels) and np.array_equal(mine.counts, theirs.counts)):
        raise UserError(f"{path}: its {len(theirs.labels):,} frames and their labels are not the {len(mine.labels):,} of the "
                        "first scores, so the two cannot be compared")


def compare(scored, other, path):
    """Prints a paired bootstrap of two score files of the same frames, every resample of videos scoring both; returns rows."""
    count, rows = len(scored.frames.counts), []
    drawn = bootstrap.resamples(count)
    print(f"\nagainst {path}: first less second, over {len(drawn):,} resamples of the {count} videos")
    for size in dict.fromkeys((scored.window_size, 1)):
        pair = [protocols.official(one.frames, size) for one in (scored, other)]
        once = [list(metrics.evaluate(one.scores, one.labels, official=False).values()) for one in pair]
        many = [bootstrap.resampled_figures(one.scores, one.labels, one.video, drawn) for one in pair]
        words = f"average of {size}" if size > 1 else "no smoothing"
        for column, (name, sign) in enumerate((("AUROC", 1), ("EER", -1), ("average precision", 1))):
            a, b = once[0][column], once[1][column]
            difference = (many[0] - many[1])[:, column]
            low, high = np.clip(bootstrap.interval(a - b, difference, count, share=False), -1, 1).tolist()
            better = float(np.mean(sign * difference[np.isfinite(difference)] > 0))
            print(f"{words + ', ' + name:31}: {a:7.2%} and {b:7.2%}, difference {a - b:+.2%} [{low:+.2%}, {high:+.2%}], "
                  f"first better in {better:.0%} of them")
            rows.append({"figure": f"{words}, {name}", "first": a, "second": b, "difference": a - b, "low": low, "high": high,
                         "first_better": better})
    return rows


def show_training(folder, results):
    """Prints, writes and draws a row per epoch."""
    training = epochs.load(folder, results)
    rows = epochs.table(training)
    for row in rows:
        print(epochs.line(row))
    files.save_csv(results / "epochs.csv", rows)
    losses = training.scores[-1][:, 0] if training.epochs else None
    plots.save(plots.training(rows, losses, training.abnormal), results / "training.png")
    last = [row for row in rows if row["auroc"] != ""][-8:]
    for key, form in (("auroc", ".2%"), ("auroc_unsmoothed", ".2%"), ("score_mean", ".2f")) if last else ():
        values = [row[key] for row in last]
        print(f"last {len(last)} epochs, {key}: median {np.median(values):{form}}, "
              f"{min(values):{form}} to {max(values):{form}}")
    if not last:
        print("no epoch has scores: train with --score_every 1 to see the AUROC after each")
    print(f"wrote {results / 'epochs.csv'}, training.png")


if __name__ == "__main__":
    run(main)
