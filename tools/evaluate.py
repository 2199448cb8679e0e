"""How sure is the number: every protocol's figures with their intervals, from saved scores, without frames or models.

    python -m tools.evaluate D MODE                     the scores in results/D/MODE
    python -m tools.evaluate D MODE --scores FILE       any method's frame scores: one array of all frames, .npy or text, or
                                                        a folder with one file per video; --boxes FILE adds its box scores,
                                                        (N, 6) rows of frame x1 y1 x2 y2 score
    python -m tools.evaluate D MODE --against OTHER     the same videos scored twice: is the difference more than chance?
    python -m tools.evaluate D MODE --tracks FOLDER     RBDC and TBDC with region and track files, NAME.txt per testing video
    python -m tools.evaluate D MODE --masks             the same with regions and tracks made from the pixel masks
    python -m tools.evaluate D MODE --training          what refinement dropped, and the AUROC, epoch by epoch

reads   results/D/MODE/frame_scores.npy, box_scores.npy, labels.npy, metrics.json; with --scores the dataset's labels
writes  results/D/MODE/protocols.csv, videos.csv; with --training epochs.csv and training.png
docs/EVALUATION.md says what each row means and which paper uses it. Intervals: 95%, by resampling whole videos.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import files, frames, metrics
from utils.boxes import Boxes
from utils.config import dataset_of, parse_config
from utils.errors import UserError
from utils.evaluation import bootstrap, epochs, plots, protocols, regions
from utils.labels import read_labels, read_masks
from utils.run import run


class Scored(NamedTuple):
    """A method's scores of the frames of a mode."""

    frames: protocols.Frames
    window_size: int  # the official smoothing's
    boxes: np.ndarray  # (N, 5) frame x1 y1 x2 y2, sorted by frame, or None
    box_scores: np.ndarray  # (N,) or None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_name", metavar="D")
    parser.add_argument("mode", metavar="MODE", nargs="?", default="test", choices=("test", "merge", "train"),
                        help="test (default), merge or train")
    parser.add_argument("--scores", metavar="FILE", type=Path, help="frame scores of another method")
    parser.add_argument("--boxes", metavar="FILE", type=Path, help="its box scores")
    parser.add_argument("--against", metavar="OTHER", type=Path, help="a folder of results, or frame scores as for --scores")
    parser.add_argument("--tracks", metavar="FOLDER", type=Path, help="true regions and tracks, for RBDC and TBDC")
    parser.add_argument("--masks", action="store_true", help="make regions and tracks from the pixel masks")
    parser.add_argument("--training", action="store_true", help="epoch by epoch")
    parser.add_argument("--data_root_dir", default="data", help="folder of boxes, cubes and models (default: data)")
    parser.add_argument("--results_dir", default="results", help="folder of scores and figures (default: results)")
    args = parser.parse_args()
    folder, results = (Path(root, args.dataset_name, args.mode) for root in (args.data_root_dir, args.results_dir))
    dataset = None
    if args.scores or args.tracks or args.masks or (args.against and not (args.against / "metrics.json").is_file()):
        cfg = parse_config("", ["--dataset_name", args.dataset_name, "--mode", args.mode])
        dataset = dataset_of(cfg)
    scored = read_foreign(args.scores, args.boxes, dataset, cfg.window_size) if args.scores else read_own(results, folder)
    if args.training:
        return show_training(folder, results)
    other = None
    if args.against:
        own = (args.against / "metrics.json").is_file()
        other = read_own(args.against, None) if own else read_foreign(args.against, None, dataset, cfg.window_size)
        require_same(scored, other, args.against)
    rows = protocols.table(scored.frames, scored.window_size)
    videos = of_videos(scored)
    print("\n".join([*protocols.lines(rows), "", *video_lines(videos)]))
    if args.tracks or args.masks:
        show_regions(scored, dataset, args.tracks)
    if other:
        compare(scored, other, args.against)
    if not args.scores:
        files.save_csv(results / "protocols.csv", [{key: row.get(key, "") for key in rows[0]} for row in rows])
        files.save_csv(results / "videos.csv", videos)
        print(f"wrote {results / 'protocols.csv'}, videos.csv")


def read_own(results, folder):
    """What test.py wrote. Raises UserError if it is not there or has no figures."""
    if not (results / "metrics.json").is_file():
        raise UserError(f"{results}/metrics.json: not there, so there are no scores yet: run test.py first")
    made = files.load_json(results / "metrics.json")
    if made["auroc"] is None:
        raise UserError(f"{results}: has no labels of both classes ({made['labels']}), so there are no figures")
    scores, labels = (files.load_array(results / name) for name in ("frame_scores.npy", "labels.npy"))
    boxes = folder and Boxes.load(folder).rows
    return Scored(protocols.of_results(made, scores, labels), made["settings"]["window_size"], boxes,
                  files.load_array(results / "box_scores.npy"))


def read_foreign(path, boxes_path, dataset, window_size):
    """Another method's scores, with the dataset's own labels. Raises UserError where they do not fit the frames."""
    labels, source = read_labels(dataset, [frames.size_of(video) for video in dataset.videos])
    if labels is None or labels.all() or not labels.any():
        raise UserError(f"{dataset.name}: no frame labels of both classes ({source}), so there are no figures")
    if path.is_dir():
        found = [next((f for end in (".npy", ".txt", ".csv") if (f := path / (video.name + end)).is_file()), None)
                 for video in dataset.videos]
        parts = []
        for video, file in zip(dataset.videos, found):
            if file is None:
                raise UserError(f"{path}: no scores of video {video.name} (looked for {video.name}.npy, .txt, .csv)")
            parts.append(numbers(file))
            if len(parts[-1]) != len(video):
                raise UserError(f"{file}: has {len(parts[-1])} scores, video {video.name} has {len(video)} frames")
        scores = np.concatenate(parts)
    else:
        scores = numbers(path)
    if scores.shape != labels.shape:
        raise UserError(f"{path}: has {scores.size:,} scores, {dataset.name} has {len(labels):,} frames in this mode")
    boxes = box_scores = None
    if boxes_path:
        rows = files.load_array(boxes_path)
        if rows.ndim != 2 or rows.shape[1] != 6 or not np.isfinite(rows).all():
            raise UserError(f"{boxes_path}: must be (N, 6) rows of frame x1 y1 x2 y2 score, is {rows.shape}")
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        if len(rows) and not 0 <= rows[0, 0] <= rows[-1, 0] < len(labels):
            raise UserError(f"{boxes_path}: names frames outside 0 to {len(labels) - 1}")
        boxes, box_scores = rows[:, :5], rows[:, 5]
    return Scored(protocols.of_dataset(dataset, scores, labels), window_size, boxes, box_scores)


def numbers(path):
    """The vector in a .npy or text file. Raises UserError if it holds none."""
    try:
        found = files.load_array(path) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",", ndmin=1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: holds no column of numbers: wanted is one score per line, without a header, of all "
                        f"frames in order of the videos ({error})") from None
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.number) or not np.isfinite(found).all():
        raise UserError(f"{path}: must hold one finite score per frame, is {found.shape} of {found.dtype}")
    return found


def of_videos(scored):
    """A row per video: its frames, and its own AUROC with the official smoothing ("" where it has one class alone)."""
    smooth = protocols.box_across(scored.frames, scored.window_size)
    abnormal = [int(part.sum()) for part in smooth.split(smooth.labels)]
    aurocs = protocols.video_aurocs(smooth)
    return [{"video": name, "frames": int(count), "abnormal": bad, "auroc": "" if np.isnan(auroc) else float(auroc)}
            for name, count, bad, auroc in zip(smooth.names, smooth.counts, abnormal, aurocs)]


def video_lines(videos):
    """The videos as text; those of one class are only counted where there are many."""
    shown = [row for row in videos if row["auroc"] != "" or len(videos) <= 40]
    texts = [f"{row['auroc']:.2%}" if row["auroc"] != "" else f"all {'abnormal' if row['abnormal'] else 'normal'}"
             for row in shown]
    return ["each video by itself, official smoothing:",
            *(f"  {row['video']:20} {row['abnormal']:5,} of {row['frames']:5,} abnormal   {text}"
              for row, text in zip(shown, texts)),
            *([f"  and {len(videos) - len(shown)} videos of one class"] if len(shown) < len(videos) else [])]


def show_regions(scored, dataset, folder):
    """Prints RBDC and TBDC over the testing videos."""
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


def require_same(scored, other, path):
    """Raises UserError if two methods' scores are not of the same frames."""
    mine, theirs = scored.frames, other.frames
    if not (np.array_equal(mine.labels, theirs.labels) and np.array_equal(mine.counts, theirs.counts)):
        raise UserError(f"{path}: its {len(theirs.labels):,} frames and their labels are not the {len(mine.labels):,} of the "
                        "first scores, so the two cannot be compared")


def compare(scored, other, path):
    """Prints a paired bootstrap of two score files of the same frames: every resample of videos scores both."""
    mine, theirs = scored.frames, other.frames
    drawn = bootstrap.resamples(len(mine.counts))
    print(f"\nagainst {path}: first less second, over {len(drawn):,} resamples of the {len(mine.counts)} videos")
    for size in dict.fromkeys((scored.window_size, 1)):
        pair = [protocols.box_across(frames, size) for frames in (mine, theirs)]
        once = [list(metrics.evaluate(one.scores, one.labels).values()) for one in pair]
        many = [bootstrap.resampled_figures(one.scores, one.labels, one.video, drawn) for one in pair]
        words = f"average of {size}" if size > 1 else "no smoothing"
        for column, (name, sign) in enumerate((("AUROC", 1), ("EER", -1), ("average precision", 1))):
            a, b = once[0][column], once[1][column]
            difference = (many[0] - many[1])[:, column]
            low, high = np.clip(bootstrap.interval(a - b, difference, len(mine.counts), share=False), -1, 1)
            better = np.mean(sign * difference[np.isfinite(difference)] > 0)
            print(f"{words + ', ' + name:31}: {a:7.2%} and {b:7.2%}, difference {a - b:+.2%} [{low:+.2%}, {high:+.2%}], "
                  f"first better in {better:.0%} of them")


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
