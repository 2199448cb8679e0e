"""What a report says of a run beside its timelines: figures, the frames worth a look, what refinement dropped."""

import csv
from pathlib import Path

import numpy as np

from tools.pages import provenance
from utils import files, record
from utils.evaluation import epochs, events
from utils.metrics import NO_BOX

COUNT = 10  # alarms, misses and false alarms shown


def of(res):
    """All of it, as the template's variables."""
    return {"protocols": protocols(res.made), "figures": figures(res), "curves": curves(res.path / "frame_results.npz"),
            "refinement": refinement(res), "taken_away": taken_away(res),
            "stages": provenance.stages(res), "settings": provenance.settings(res), "versions": provenance.versions(res)}


def protocols(made):
    """Rows of the protocol table: name, official; auroc, low and high (its interval), eer, average_precision, pr_auc or None.

    They are what metrics.json holds under "protocols", where there is an AUROC.
    """
    columns = ("auroc", "low", "high", "eer", "average_precision", "pr_auc")
    return [{"name": row["name"], "official": row.get("official", False), **{key: number(row.get(key)) for key in columns}}
            for row in made.get("protocols", [])]


def number(value):
    """A number, or None where there is none."""
    return None if value is None or np.isnan(value) else value


def figures(res):
    """Small facts for the headline: (label, value)."""
    videos = res.dataset.videos
    counted = [("video" if len(videos) == 1 else "videos", f"{len(videos):,}"), ("frames", f"{len(res.curve):,}")]
    if res.made["auroc"] is not None:
        counted = [("EER", f"{res.made['eer']:.1%}"), ("average precision", f"{res.made['average_precision']:.1%}"), *counted]
    if res.labels is not None:
        counted.append(("abnormal frames", f"{int(res.labels.sum()):,}"))
    seconds = [len(video) / rate for video, rate in zip(videos, res.rates) if rate]
    if len(seconds) == len(videos):
        counted.append(("length", clock_time(sum(seconds))))
    counted.append(("boxes", f"{len(res.boxes):,}"))
    return counted if res.made["auroc"] is None else [*counted, ("events", f"{len(res.events):,}")]


def clock_time(seconds):
    """75 -> "1:15"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def scale(res):
    """The lowest and highest score that timelines show."""
    there = res.frame_scores[res.frame_scores > NO_BOX]
    low = min(0.0, float(res.curve.min()), float(there.min()) if len(there) else 0.0)
    high = max(float(res.curve.max()), float(there.max()) if len(there) else 0.0, 1.1 * res.limit)
    return low, high if high > low else low + 1


def lists(res):
    """The highest alarms, and with labels the worst misses and false alarms: dicts of title, text and cards."""
    spans, curve, limit = res.dataset.spans, res.curve, res.limit
    top = sorted(res.events, key=lambda event: -event["score"])[:COUNT]
    cards = [card(res, event["peak"], f"score {event['score']:.2f}", event) for event in top]
    cards += [card(res, i, f"score {curve[i]:.2f}, below the threshold", None) for i in peaks(res, COUNT - len(top))]
    found = [{"title": "Highest alarms", "empty": "There is no frame.", "cards": cards,
              "text": f"{len(res.events)} {'event is' if len(res.events) == 1 else 'events are'} above {limit:.2f}" + (
                  f"; shown are the {len(top)} highest." if len(top) == COUNT else ", then the highest peaks below it.")}]
    if res.labels is None:
        return found
    in_event = np.zeros(len(curve), bool)
    for event in res.events:
        in_event[event["start"]:event["stop"]] = True
    missed = [(float((limit - curve[a:b]).sum()), a, b) for a, b in events.runs(res.labels & ~in_event, spans)]
    found.append({
        "title": "Worst misses", "empty": "Every abnormal frame is in an event.",
        "text": "Abnormal frames outside events: the stretches that lack most, at their lowest frame.",
        "cards": [card(res, a + int(np.argmin(curve[a:b])), f"lowest {curve[a:b].min():.2f}, {b - a} frames",
                       {"start": a, "stop": b}) for _, a, b in sorted(missed, reverse=True)[:COUNT]]})
    normal = [(float(curve[a:b].max()), a + int(np.argmax(curve[a:b])), a, b)
              for a, b in events.runs(~res.labels, spans)]
    found.append({
        "title": "Worst false alarms", "empty": "There is no normal frame.",
        "text": f"Normal stretches with the highest scores; {sum(s > limit for s, *_ in normal)} of {len(normal)} reach "
                "above the threshold.",
        "cards": [card(res, peak, f"score {score:.2f}" + ("" if score > limit else ", below the threshold"), None)
                  for score, peak, a, b in sorted(normal, reverse=True)[:COUNT]]})
    return found


def peaks(res, count, apart=25):
    """Indices of the highest frames outside events, not closer together than `apart` within a video."""
    free, found = res.curve <= res.limit, []
    spans = res.dataset.spans
    for event in res.events:
        low, high = spans[event["video"]]
        free[max(low, event["start"] - apart):min(high, event["stop"] + apart)] = False
    while len(found) < count and free.any():
        i = int(np.argmax(np.where(free, res.curve, -np.inf)))
        low, high = spans[res.video_of(i)[0]]
        free[max(low, i - apart):min(high, i + apart + 1)] = False
        found.append(i)
    return found


def card(res, i, text, event):
    """A frame worth a look: where it is, and its highest box in percent of the frame."""
    v, frame = res.video_of(i)
    (height, width), row, start = res.boxes.sizes[v], res.highest[i], res.dataset.spans[v][0]
    box = None
    if row >= 0:
        x1, y1, x2, y2 = res.boxes.corners[row].clip(0, [width, height] * 2)
        box = [100 * x1 / width, 100 * y1 / height, 100 * (x2 - x1) / width, 100 * (y2 - y1) / height]
    chosen = res.dataset.videos[v].chosen
    return {"i": i, "v": v, "place": i - start, "video": res.dataset.videos[v].name, "frame": frame + 1, "text": text,
            "box": box, "ratio": width / height, "second": clock_time(frame / res.rates[v]) if res.rates[v] else "",
            "frames": [chosen[event["start"] - start] + 1, chosen[event["stop"] - 1 - start] + 1] if event else None}


def curves(path):
    """ROC and precision-recall curve as SVG paths in a box of 100 x 100, or []."""
    if not path.is_file():
        return []
    with np.load(path) as known:
        roc = known["fpr"], known["tpr"], float(known["roc_auc"])
        recall, precision, area = known["recall_norm"], known["precision_norm"], float(known["pr_auc_norm"])
    return [{"title": "ROC", "x": "false positive rate", "y": "true positive rate", "area": roc[2], "path": line(*roc[:2])},
            {"title": "Precision and recall", "x": "recall", "y": "precision", "area": area, "path": line(recall, precision)}]


def line(x, y, points=400):
    """(n,), (n,) in 0..1 -> an SVG path, of not many more than `points` points."""
    kept = np.unique(np.linspace(0, len(x) - 1, points).astype(int))
    return "M" + "L".join(f"{100 * a:.2f} {100 - 100 * b:.2f}" for a, b in zip(x[kept], y[kept]))


def refinement(res):
    """What training did per epoch, from training_log.csv: list of blocks with their rows, or []."""
    path = (res.model_folder or Path()) / "training_log.csv"
    if not res.model_folder or not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
    blocks = {}
    for row in rows:
        blocks.setdefault((int(row["row"]), int(row["column"])), []).append(row)
    highest = max(max(row["weight_0"] + row["weight_between"] for row in rows), 0.01)
    return [{"name": f"block {row}, {column}" if len(blocks) > 1 else "", "rows": of_block, "top": highest}
            for (row, column), of_block in blocks.items()]


def kept_weights(res):
    """The self-paced weights (epochs, N) of the cubes that were scored, or None: not kept, or trained on other cubes."""
    path = (res.model_folder or Path()) / "epoch_weights.npy"
    trained = record.load(path.with_name("train.json"))
    if not path.is_file() or not trained or trained["input"].get("cubes") != record.load(res.folder / "cubes.json")["id"]:
        return None
    return files.load_array(path, mmap=True)


def taken_away(res):
    """A sentence on where the weight lay that refinement took away in the last epoch, or ""."""
    weights = kept_weights(res)
    if weights is None or res.labels is None or not 0 < res.labels.mean() < 1:
        return ""
    abnormal = epochs.on_abnormal(res.boxes, res.dataset.chosen, res.labels)
    share, on_abnormal = epochs.dropped(weights[-1], abnormal)
    return "" if share <= 0 else (f"Of the weight that was taken away in the last epoch {on_abnormal:.0%} lay on cubes of "
                                  f"abnormal frames, which hold {abnormal.mean():.0%} of all cubes.")


def most_dropped(res, count=20, apart=25):
    """The cubes that refinement took most weight from, in a video not closer than `apart` frames: dicts of row, v, number,
    video, frame and weight, its mean over the refined epochs.
    """
    weights = kept_weights(res)
    if weights is None:
        return []
    lost = 1 - np.asarray(weights, np.float32)  # (epochs, N)
    lost = lost.sum(axis=0) / max(1, lost.any(axis=1).sum())
    firsts, found = [video.first for video in res.dataset.videos], []
    for row in np.lexsort((-res.box_scores, -lost))[:100 * count]:
        number = int(res.boxes.frame[row])
        v = int(np.searchsorted(firsts, number, "right")) - 1
        if lost[row] <= 0 or len(found) == count:
            break
        if all(v != other["v"] or abs(number - other["number"]) >= apart for other in found):
            found.append({"row": int(row), "v": v, "number": number, "video": res.dataset.videos[v].name,
                          "frame": number - firsts[v] + 1, "weight": float(1 - lost[row])})
    return found
