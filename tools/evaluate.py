"""Every protocol's figures with their intervals, from saved scores, without frames or models.

    python -m tools.evaluate D MODE                     the scores in results/D/MODE
    python -m tools.evaluate D MODE --scores SCORES     any method's frame scores, with the labels of dataset D
    python -m tools.evaluate --scores SCORES --labels LABELS     the same without a dataset: 0, 1, or -1 for ignored frames
    ... --against OTHER     is the difference to other scores (a results folder or SCORES) more than chance?
    ... --tracks FOLDER     RBDC and TBDC with region and track files, NAME.txt per testing video; --masks: from pixel masks
    ... --training          what refinement dropped, and the AUROC, epoch by epoch

SCORES, LABELS: a folder with NAME.npy, .txt or .csv per video, an .npz archive of arrays by NAME, or one .npy, .txt or .csv
of all frames in the order of the videos' names (LABELS: with --lengths). Text has one number per line and no header.
A dataset's labels: docs/TESTING.md lists the files that are read, and which count frames from 0 or from 1.

reads   results/D/MODE/frame_scores.npy, box_scores.npy, labels.npy, metrics.json; with --scores the dataset's labels
writes  results/D/MODE/protocols.csv, videos.csv; with --training epochs.csv and training.png; --out: everything printed
docs/EVALUATION.md says what each row means and which paper uses it. Intervals: 95%, by resampling whole videos.
"""

import argparse
import functools
import json
from pathlib import Path

import numpy as np

from utils import files, frames, metrics
from utils.boxes import Boxes
from utils.config import MODES, dataset_of, parse_config
from utils.errors import UserError
from utils.evaluation import alignment, bootstrap, epochs, inputs, plots, protocols, regions
from utils.labels import read_labels, read_masks
from utils.run import run
from utils.settings import SETTINGS

FIGURES = {"auroc": "AUROC", "eer": "EER", "average_precision": "average precision"}


def main():
    args = arguments()
    folder, results = (Path(root, args.dataset_name or "", args.mode) for root in (args.data_root_dir, args.results_dir))
    if args.training:
        return show_training(folder, results)
    truth = functools.cache(lambda: truth_of(args))
    if not args.scores and not (results / "metrics.json").is_file():
        raise UserError(f"{results}/metrics.json: no such file, so there are no scores yet: run test.py first")
    scored, window_size = read(args, args.scores or results, truth)
    made = {"scores": str(args.scores or results), "protocols": protocols.table(scored, window_size),
            "videos": of_videos(scored, window_size), "hints": alignment.hints(scored)}
    if args.tracks or args.masks:
        made["regions"] = of_regions(args, scored, truth()[2], *detections(args, folder, results))
    if args.against:
        other = read(args, args.against, truth)[0]
        made |= {"against": str(args.against), "differences": compare(scored, other, window_size, args.against)}
    wrote = []
    if not args.scores and not args.videos:
        wrote, columns = [results / "protocols.csv", results / "videos.csv"], made["protocols"][0]
        files.save_csv(wrote[0], [{key: row.get(key, "") for key in columns} for row in made["protocols"]])
        files.save_csv(wrote[1], made["videos"])
    if args.out:
        wrote.append(args.out)
        files.save_json(args.out, json.loads(json.dumps(made), parse_constant=lambda nan: None))
    print("\n".join([*lines(made), *(f"wrote {path}" for path in wrote)]))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_name", metavar="D", nargs="?")
    parser.add_argument("mode", metavar="MODE", nargs="?", default="test", choices=MODES,
                        help=f"{', '.join(MODES)} (default: test)")
    parser.add_argument("--scores", type=Path, help="frame scores of any method, higher for more abnormal")
    parser.add_argument("--labels", type=Path, help="frame labels, instead of a dataset's")
    parser.add_argument("--lengths", metavar="180,150", help="each video's frames (or a file of them), if LABELS is one array")
    parser.add_argument("--videos", metavar="NAME,NAME", type=lambda names: names.split(","), help="only these videos")
    parser.add_argument("--repeat", metavar="K", type=int, default=1, help="each score is for a clip of K frames")
    parser.add_argument("--boxes", type=Path, help="box scores of the same method: a .npy of (N, 6) rows of frame (from 0, "
                        "across all videos), x1, y1, x2, y2, score")
    parser.add_argument("--against", metavar="OTHER", type=Path, help="a results folder, or frame scores as for --scores")
    parser.add_argument("--tracks", metavar="FOLDER", type=Path, help="true regions and tracks, for RBDC and TBDC")
    parser.add_argument("--masks", action="store_true", help="make regions and tracks from the pixel masks")
    parser.add_argument("--training", action="store_true", help="figures of each training epoch")
    parser.add_argument("--out", metavar="FILE.json", type=Path, help="also write all figures to this file, with all digits")
    parser.add_argument("--data_root_dir", default="data", help="folder of boxes, cubes and models (default: data)")
    parser.add_argument("--results_dir", default="results", help="folder of scores and figures (default: results)")
    args = parser.parse_args()
    regions_wanted = args.tracks or args.masks
    for wrong, words in (
            (bool(args.dataset_name) == bool(args.labels) or args.labels and not args.scores,
             "give a dataset D, or --scores and --labels without one"),
            (args.labels and (regions_wanted or args.training), "--tracks, --masks and --training need a dataset D"),
            (args.lengths and not args.labels, "--lengths needs --labels"),
            (args.repeat < 1 or args.repeat > 1 and not (args.scores or args.against), "--repeat needs --scores and 1 or more"),
            (args.boxes and not (args.scores and regions_wanted), "--boxes needs --scores, and --tracks or --masks"),
            (args.scores and regions_wanted and not args.boxes, "RBDC and TBDC need box scores: add --boxes")):
        if wrong:
            raise UserError(words)
    return args


def truth_of(args):
    """The frames to be scored: Frames without scores, the official smoothing's window, and the Dataset or None.

    Raises UserError if their labels do not have both classes.
    """
    if args.labels:
        listed = (list(inputs.listed(path)) for path in (args.scores, args.against) if path)
        names = next((names for names in listed if None not in names), [])
        return inputs.labelled(args.labels, args.lengths, names), SETTINGS["window_size"].default, None
    cfg = parse_config("", ["--dataset_name", args.dataset_name, "--mode", args.mode])
    dataset = dataset_of(cfg)
    labels, source = read_labels(dataset, [frames.size_of(video) for video in dataset.videos])
    if labels is None or labels.all() or not labels.any():
        raise UserError(f"{dataset.name}: no frame labels of both classes ({source}), so there are no figures")
    return inputs.of_dataset(dataset, np.zeros(len(labels)), labels), cfg.window_size, dataset


def read(args, path, truth):
    """The Frames of --videos with the scores at `path`, and the official smoothing's window.

    path: a folder that test.py wrote, or another method's scores; truth: returns the result of `truth_of`.
    Raises UserError if scores do not fit the frames, or no figure can be computed.
    """
    if not args.labels and (path / "metrics.json").is_file():
        found, window_size = inputs.of_results(path)
        found = found.only(np.repeat(inputs.chosen(found.names, args.videos, path), found.counts))
    else:
        wanted, window_size, dataset = truth()
        found = inputs.scored(wanted, path, dataset.name if dataset else args.labels, args.repeat, args.videos)
        if count := np.count_nonzero(found.scores == metrics.NO_BOX):
            print(f"note: {path}: {count:,} scores are {metrics.NO_BOX:g}, which means frames without boxes; rows 'as X' "
                  "replace it")
    if not {0, 1} <= set(found.labels.astype(int)):
        raise UserError(f"{path}: the labels of these videos have only one class, so there are no figures")
    return found, window_size


def of_videos(scored, window_size):
    """One row per video: its frames, and its AUROC with the official smoothing ("" if it has only one class)."""
    smooth = protocols.official(scored, window_size)
    parts = zip(smooth.names, smooth.split(smooth.labels), protocols.video_aurocs(smooth).tolist())
    return [{"video": name, "frames": len(labels), "abnormal": int(labels.sum()), "auroc": "" if np.isnan(auroc) else auroc}
            for name, labels, auroc in parts]


def detections(args, folder, results):
    """Boxes (N, 5) sorted by frame and their scores (N,), from --boxes or the run. Raises UserError if they are not valid."""
    if not args.boxes:
        rows, scores = Boxes.load(folder).rows, files.load_array(results / "box_scores.npy")
        if len(rows) != len(scores):
            raise UserError(f"{results}: {len(scores):,} box scores, but {len(rows):,} boxes in {folder}: run test.py again")
        return rows, scores
    rows = files.load_array(args.boxes)
    if rows.ndim != 2 or rows.shape[1] != 6 or not np.isfinite(rows).all():
        raise UserError(f"{args.boxes}: must be (N, 6) rows of frame x1 y1 x2 y2 score, has shape {rows.shape}")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return rows[:, :5], rows[:, 5]


def of_regions(args, scored, dataset, boxes, scores):
    """RBDC and TBDC over the testing videos: the result of `regions.evaluate`, and where the true regions come from."""
    videos = [video for video in dataset.videos if video.testing]
    if scored.counts.sum() != dataset.num_frames:
        raise UserError(f"RBDC and TBDC need the scores of all {dataset.num_frames:,} frames, not only some")
    if len(boxes) and not 0 <= boxes[0, 0] <= boxes[-1, 0] < dataset.num_frames:
        raise UserError(f"{args.boxes or 'boxes'}: has frames outside 0 to {dataset.num_frames - 1}")
    if args.tracks:
        parts = [regions.read_tracks(args.tracks / f"{video.bare}.txt", len(video)) for video in videos]
    else:
        parts = map(regions.from_masks, read_masks(dataset, [frames.size_of(video) for video in dataset.videos]))
    start = videos[0].first  # if training videos come first, count frames from the first testing one
    found = regions.joined(list(parts), [video.first - start for video in videos])
    kept = boxes[:, 0] >= start
    figures = regions.evaluate(boxes[kept] - [start, 0, 0, 0, 0], scores[kept], found, [len(video) for video in videos])
    source = f"files in {args.tracks}" if args.tracks else "made from the pixel masks, not the published ones"
    return {"regions": len(found.boxes), "tracks": len(set(found.track.tolist())), "source": source, **figures}


def compare(scored, other, window_size, path):
    """A paired bootstrap of two methods' scores, using the same resamples of videos for both: one row per figure.

    Raises UserError if they are not for the same frames.
    """
    if not (np.array_equal(scored.labels, other.labels) and np.array_equal(scored.counts, other.counts)):
        raise UserError(f"{path}: its {len(other.labels):,} frames and their labels differ from the {len(scored.labels):,} of "
                        "the first scores, so the two cannot be compared")
    count, rows = len(scored.counts), []
    drawn = bootstrap.resamples(count)
    for size in dict.fromkeys((window_size, 1)):
        pair = [protocols.official(one, size) for one in (scored, other)]
        once = [metrics.evaluate(one.scores, one.labels, official=False) for one in pair]
        first, second = (bootstrap.resampled_figures(one.scores, one.labels, one.video, drawn) for one in pair)
        for name, sign, change in zip(("auroc", "eer", "average_precision"), (1, -1, 1), (first - second).T):
            a, b = (figures[name] for figures in once)
            low, high = np.clip(bootstrap.interval(a - b, change, count, share=False), -1, 1).tolist()
            words = f"{f'average of {size}' if size > 1 else 'no smoothing'}, {FIGURES[name]}"
            rows.append({"figure": words, "first": a, "second": b, "difference": a - b, "low": low, "high": high,
                         "first_better": float(np.mean(sign * change[np.isfinite(change)] > 0))})
    return rows


def lines(made):
    """The results, as text."""
    yield from protocols.lines(made["protocols"])
    yield "\neach video, official smoothing:"
    for row in made["videos"]:
        auroc = "only one class" if row["auroc"] == "" else f"{row['auroc']:.2%}"
        yield f"  {row['video']:20} {row['abnormal']:5,} of {row['frames']:5,} abnormal   {auroc}"
    yield from made["hints"]
    if found := made.get("regions"):
        yield f"\n{found['regions']:,} regions in {found['tracks']:,} tracks ({found['source']})"
        for name in ("rbdc", "tbdc"):
            words = name.upper() + (" " if found["source"].startswith("files") else " from masks ")
            yield words + protocols.figure(found, name, f"{name}_")
    if "against" in made:
        yield (f"\nagainst {made['against']}: first minus second, over {bootstrap.TIMES:,} resamples of the "
               f"{len(made['videos'])} videos")
    for row in made.get("differences", ()):
        yield (f"{row['figure']:31}: {row['first']:7.2%} and {row['second']:7.2%}, difference {row['difference']:+.2%} "
               f"[{row['low']:+.2%}, {row['high']:+.2%}], first better in {row['first_better']:.0%}")


def show_training(folder, results):
    """Prints, writes and plots one row per epoch."""
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
        print("no epoch has scores: train with --score_every 1 to see the AUROC after each epoch")
    print(f"wrote {results / 'epochs.csv'}, training.png")


if __name__ == "__main__":
    run(main)
