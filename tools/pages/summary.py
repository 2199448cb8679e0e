"""What the report shows of a run besides timelines: curves, notable frames, what refinement dropped."""

import csv
from pathlib import Path

import numpy as np

from utils import files, record
from utils.evaluation import epochs, events
from utils.metrics import NO_BOX

COUNT = 10  # alarms, misses and false alarms shown
APART = 25  # minimum frames between two of them in one video


def seconds(results):
    """Length of all videos, or None if a frame rate is unknown."""
    rates = results.rates
    return sum(len(video) / rate for video, rate in zip(results.dataset.videos, rates)) if all(rates) else None


def scale(results):
    """The lowest and highest score that timelines show."""
    there = results.frame_scores[results.frame_scores > NO_BOX]
    shown = np.concatenate([results.curve, there, [0, 1.1 * results.limit]])
    low, high = float(shown.min()), float(shown.max())
    return low, high if high > low else low + 1


def lists(results):
    """The highest alarms, and with labels the worst misses and false alarms: dicts of title, text, empty and cards."""
    top = sorted(results.events, key=lambda event: -event["score"])[:COUNT]
    cards = [card(results, event["peak"], (event["start"], event["stop"])) for event in top]
    cards += [card(results, i) for i in peaks(results, COUNT - len(top))]
    count = f"{len(results.events)} {'event is' if len(results.events) == 1 else 'events are'} above {results.limit:.2f}"
    rest = f"; these are the {COUNT} highest." if len(top) == COUNT else ", followed by the highest peaks below it."
    found = [{"title": "Highest alarms", "empty": "There are no frames.", "text": count + rest, "cards": cards}]
    return found if results.labels is None else [*found, misses(results), false_alarms(results)]


def misses(results):
    """The list of abnormal stretches outside events, those furthest below the threshold first."""
    curve, flags = results.curve, results.labels.astype(bool)
    for event in results.events:
        flags[event["start"]:event["stop"]] = False
    missed = sorted(events.runs(flags, results.dataset.spans), reverse=True,
                    key=lambda span: ((results.limit - curve[slice(*span)]).sum(), span))
    return {"title": "Worst misses", "empty": "Every abnormal frame is in an event.",
            "text": "Abnormal frames outside events, furthest below the threshold first; each is shown at its lowest frame.",
            "cards": [card(results, a + int(np.argmin(curve[a:b])), (a, b), f", lowest of {b - a} frames")
                      for a, b in missed[:COUNT]]}


def false_alarms(results):
    """The list of normal stretches with the highest scores."""
    normal = [a + int(np.argmax(results.curve[a:b])) for a, b in events.runs(~results.labels, results.dataset.spans)]
    normal.sort(key=lambda i: (results.curve[i], i), reverse=True)
    above = int((results.curve[normal] > results.limit).sum())
    return {"title": "Worst false alarms", "empty": "There are no normal frames.",
            "text": f"Normal stretches with the highest scores; {above} of {len(normal)} exceed {results.limit:.2f}.",
            "cards": [card(results, i) for i in normal[:COUNT]]}


def peaks(results, count):
    """Indices of the highest frames outside events and away from them."""
    values = np.where(results.curve <= results.limit, results.curve, -np.inf)
    spans = results.dataset.spans
    for event in results.events:
        low, high = spans[event["video"]]
        values[max(low, event["start"] - APART):min(high, event["stop"] + APART)] = -np.inf
    return highest(values, np.repeat(np.arange(len(spans)), np.diff(spans).ravel()), np.arange(len(values)), count)


def highest(values, video, frame, count):
    """Indices of the `count` highest values, at least APART frames apart within a video; never of -inf."""
    values, found = values.astype(np.float64), []
    while len(found) < count and values.max(initial=-np.inf) > -np.inf:
        found.append(int(np.argmax(values)))
        values[(video == video[found[-1]]) & (abs(frame - frame[found[-1]]) < APART)] = -np.inf
    return found


def card(results, i, stretch=None, words=""):
    """A notable frame: its position, its score, and its highest box in percent of the frame."""
    v, frame = results.video_of(i)
    video, start, rate = results.dataset.videos[v], results.dataset.spans[v][0], results.rates[v]
    (height, width), row, box = results.boxes.sizes[v], results.highest[i], None
    if row >= 0:
        x1, y1, x2, y2 = 100 * results.boxes.corners[row].clip(0, [width, height] * 2) / ([width, height] * 2)
        box = [x1, y1, x2 - x1, y2 - y1]
    score = results.curve[i]
    return {"i": i, "v": v, "place": i - start, "video": video.name, "frame": frame + 1, "text": f"score {score:.2f}{words}",
            "score": None if words else round(float(score), 4), "box": box, "ratio": width / height,
            "time": events.clock(frame / rate) if rate else "",
            "frames": [video.chosen[k - start] + 1 for k in (stretch[0], stretch[1] - 1)] if stretch else None}


def curves(path, points=400):
    """ROC and precision-recall curve as SVG paths in a box of 100 x 100, of at most `points` points, or []."""
    if not path.is_file():
        return []
    with np.load(path) as found:
        arrays = dict(found)
    return [{"title": title, "x": x_name, "y": y_name, "area": float(arrays[area]), "path": line(arrays[x], arrays[y], points)}
            for title, x, y, area, x_name, y_name in (
                ("ROC", "fpr", "tpr", "roc_auc", "false positive rate", "true positive rate"),
                ("Precision and recall", "recall_norm", "precision_norm", "pr_auc_norm", "recall", "precision"))]


def line(x, y, points):
    """(n,), (n,) in 0..1 -> an SVG path."""
    kept = np.unique(np.linspace(0, len(x) - 1, points).astype(int))
    return "M" + "L".join(f"{100 * a:.2f} {100 - 100 * b:.2f}" for a, b in zip(x[kept], y[kept]))


def refinement(results):
    """The training per block and epoch: the rows of training_log.csv as numbers, or []."""
    path = (results.model_folder or Path()) / "training_log.csv"
    if not results.model_folder or not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
    return [{**row, "block": (int(row["row"]), int(row["column"])), "taken": row["weight_0"] + row["weight_between"]}
            for row in rows]


def kept_weights(results):
    """The self-paced weights (epochs, N) of the scored cubes, or None if not kept or trained on other cubes."""
    path = (results.model_folder or Path()) / "epoch_weights.npy"
    trained = record.load(path.with_name("train.json"))
    if not path.is_file() or not trained or trained["input"].get("cubes") != record.load(results.folder / "cubes.json")["id"]:
        return None
    return files.load_array(path, mmap=True)


def taken_away(results, weights):
    """A sentence on which cubes lost weight by refinement in the last epoch, or ""."""
    if weights is None or results.labels is None or not 0 < results.labels.mean() < 1:
        return ""
    abnormal = epochs.on_abnormal(results.boxes, results.dataset.chosen, results.labels)
    share, on_abnormal = epochs.dropped(weights[-1], abnormal)
    return "" if share <= 0 else (f"Of the weight removed in the last epoch, {on_abnormal:.0%} was on cubes of "
                                  f"abnormal frames, which are {abnormal.mean():.0%} of all cubes.")


def most_dropped(results, weights, count=20):
    """The cubes that lost most weight by refinement, higher scores first among equals: dicts of row, video, frame and
    weight, its mean over the refined epochs.
    """
    if weights is None:
        return []
    lost = 1 - np.asarray(weights, np.float32)  # (epochs, N)
    lost = lost.sum(axis=0) / max(1, lost.any(axis=1).sum())
    rank = np.where(lost > 0, np.argsort(np.lexsort((results.box_scores, lost))), -np.inf)
    video, frame = results.boxes.video, results.boxes.frame
    return [{"row": row, "video": results.dataset.videos[video[row]].name, "weight": float(1 - lost[row]),
             "frame": int(frame[row] - results.boxes.firsts[video[row]]) + 1} for row in highest(rank, video, frame, count)]
