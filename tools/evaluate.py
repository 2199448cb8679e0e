"""Figures from saved scores, without frames or models.

    python -m tools.evaluate D MODE               the frame scores in results/D/MODE, at several smoothings
    python -m tools.evaluate D MODE --training    the cubes' scores after every kept epoch (train.py --score_every N)

A model's scores jump between epochs, so the last epoch alone says little: --training shows each kept epoch and ends with
the median and range of the last 8. It writes results/D/MODE/epochs.csv.
"""

import argparse
from pathlib import Path

import numpy as np

from utils import files, metrics, record
from utils.errors import UserError
from utils.run import run
from utils.stc import block_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_name", metavar="D")
    parser.add_argument("mode", metavar="MODE", choices=("test", "merge", "train"))
    parser.add_argument("--training", action="store_true", help="figures after every kept epoch")
    parser.add_argument("--data_root_dir", default="data", help="folder of boxes, cubes and models (default: data)")
    parser.add_argument("--results_dir", default="results", help="folder of scores and figures (default: results)")
    args = parser.parse_args()
    results = Path(args.results_dir, args.dataset_name, args.mode)
    if not (results / "metrics.json").is_file():
        raise UserError(f"{results}/metrics.json: not there, so there are no scores yet: run test.py first")
    made = files.load_json(results / "metrics.json")
    if made["auroc"] is None:
        raise UserError(f"{results}: has no labels of both classes ({made['labels']}), so there are no figures")
    labels = files.load_array(results / "labels.npy")
    if args.training:
        of_epochs(Path(args.data_root_dir, args.dataset_name, args.mode), results, made, labels)
    else:
        scores = files.load_array(results / "frame_scores.npy")
        print("smoothing      AUROC      EER   average precision")
        for window_size in sorted({1, 10, made["settings"]["window_size"]}):
            found = metrics.evaluate(metrics.moving_average(scores, window_size), labels)
            print(f"{window_size:9d}   {found['auroc']:8.2%} {found['eer']:8.2%}   {found['average_precision']:8.2%}")


def of_epochs(folder, results, made, labels):
    """Prints and writes a row per kept epoch."""
    trained = record.require(folder / "train.json", "train", "models")
    settings, path = trained["settings"], folder / "epoch_scores.npy"
    if not path.is_file():
        raise UserError(f"{path}: not there: train with --score_every 1 to keep the scores of every epoch")
    kept = files.load_array(path, mmap=True)  # (E, N, 1 or 2)
    boxes, boxes_made = files.load_array(folder / "bboxes.npy"), record.require(folder / "boxes.json", "boxes", "boxes")
    sizes = record.sizes_of(boxes, boxes_made)
    block = block_of(boxes[:, 1:], sizes, settings["h_block"], settings["w_block"])
    chosen = np.concatenate([first + np.arange(count) * settings["frame_step"] for _, first, count in made["videos"]])
    rows = []
    for index, scores in enumerate(kept):
        z = np.empty_like(scores)
        for number in np.unique(block):
            of_block = scores[block == number]
            z[block == number] = metrics.normalise(of_block, of_block.mean(axis=0), of_block.std(axis=0))
        box_scores = z[:, 0] if z.shape[1] == 1 else z @ np.float32([made["settings"]["w_raw"], made["settings"]["w_of"]])
        frames = metrics.frame_scores(box_scores, boxes, boxes_made["num_frames"], sizes)[chosen]
        auroc = [metrics.evaluate(metrics.moving_average(frames, size), labels)["auroc"] for size in (10, 1)]
        raw = scores[:, 0].astype(np.float64)
        rows.append({"epoch": (index + 1) * settings["score_every"],
                     "auroc_smoothing_10": auroc[0], "auroc_smoothing_1": auroc[1],
                     "score_mean": raw.mean(), "score_std": raw.std(), "score_max": raw.max()})
        print("epoch {epoch:3d}: AUROC {auroc_smoothing_10:.2%} (without smoothing {auroc_smoothing_1:.2%}), "
              "scores {score_mean:.2f} +- {score_std:.2f}, highest {score_max:.0f}".format(**rows[-1]))
    files.save_csv(results / "epochs.csv", rows)
    last = rows[-8:]
    for key, form in (("auroc_smoothing_10", ".2%"), ("auroc_smoothing_1", ".2%"), ("score_mean", ".2f")):
        values = [row[key] for row in last]
        print(f"last {len(last)} epochs, {key}: median {np.median(values):{form}}, "
              f"{min(values):{form}} to {max(values):{form}}")
    print(f"wrote {results / 'epochs.csv'}")


if __name__ == "__main__":
    run(main)
