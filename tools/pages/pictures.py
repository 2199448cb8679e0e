"""Small pictures for the report and overlays: thumbnails, cubes with reconstructions, score colours, curves."""

import base64

import cv2
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, to_hex

from models.checkpoint import load_models
from utils import frames, record
from utils.cubes import Cubes
from utils.device import device_of, precision_of, workers
from utils.errors import UserError
from utils.evaluation import events

LONG_SIDE = 480  # of a thumbnail, in px
QUALITY = 55  # of WebP, 0 to 100
BRIGHT = 50  # errors of this many times the training cubes' mean error are brightest
SCORES = LinearSegmentedColormap.from_list("scores", ["#4aa3ff", "#7fd1c4", "#ffd23f", "#ff8a3d", "#ff2f4f"])
ERRORS = LinearSegmentedColormap.from_list("errors", ["#0b0e1a", "#3b2a75", "#b5367a", "#fb8861", "#fcfdbf"])


class Pictures:
    """Thumbnails of frames, and of their highest box's cube, reconstruction and error."""

    def __init__(self, results):
        self.results, self.note = results, ""
        try:
            self.models = load_models(results.made["model"])
            made = record.load(results.folder / "cubes.json")
            self.cubes = Cubes(results.folder, self.models.use_flow, device_of(results.cfg.device), made)
            self.block = results.boxes.block(self.models.grid)
        except UserError as error:
            self.models, self.note = None, f"no reconstructions: {error}"
            print(f"note: {self.note}")

    def of_cubes(self, chosen):
        """Indices into the scored frames -> {index: data URI} for frames with a box."""
        if self.models is None:
            return {}
        rows = self.results.highest[chosen]
        autocast = precision_of(self.models.precision, self.cubes.device)
        sheets = cube_sheets(self.models, self.cubes, np.unique(rows[rows >= 0]), self.block, autocast)
        uris = {row: data_uri(sheet) for row, sheet in sheets}
        return {int(i): uris[row] for i, row in zip(chosen, rows) if row >= 0}

    def of_dropped(self, dropped):
        """The cubes from `summary.most_dropped`, each with the `picture` of its middle frame."""
        if self.models is None:
            return []
        middle = 3 * (self.cubes.frames // 2)
        return [{**cube, "picture": data_uri(np.ascontiguousarray(
            self.cubes.raw[cube["row"], middle:middle + 3].transpose(1, 2, 0)))} for cube in dropped]

    def of_frames(self, chosen, tick=lambda: None):
        """Indices into the scored frames, ascending -> {index: data URI}; each video is read once, in order."""
        found = {}
        for video, (start, stop) in zip(self.results.dataset.videos, self.results.dataset.spans):
            here = [int(i) for i in chosen if start <= i < stop]
            stream = frames.load(video, [video.chosen[i - start] for i in here], workers(-1), "repeat")
            for i, uri in zip(here, frames.parallel(thumbnail, stream, workers(-1))):
                found[i] = uri
                tick()
        return found


def palette(count=64):
    """Score colours from low to high, as #rrggbb."""
    return [to_hex(colour) for colour in SCORES(np.linspace(0, 1, count))]


def colours(scores, limit):
    """(n,) scores -> (n, 3) uint8 BGR: blue at 0, yellow at the threshold of an event, red at twice that."""
    return _bgr(SCORES, np.asarray(scores, np.float64) / (2 * max(limit, 1e-6)))


def _bgr(colourmap, values):
    """Values in 0..1, clipped -> uint8 BGR in a last dimension of 3."""
    return (colourmap(np.clip(values, 0, 1))[..., 2::-1] * 255).round().astype(np.uint8)


def thumbnail(frame):
    """(H, W, 3) uint8 BGR -> a data URI, at most LONG_SIDE px long."""
    shrink = LONG_SIDE / max(frame.shape[:2])
    if shrink < 1:
        frame = cv2.resize(frame, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return data_uri(frame)


def data_uri(image):
    """(H, W, 3) uint8 BGR -> "data:image/webp;base64,..."."""
    data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1]
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")


@torch.no_grad()
def cube_sheets(models, cubes, rows, block, autocast, batch_size=256):
    """For each cube a picture of its frames, their reconstruction and the error, stacked vertically.

    models: models.checkpoint.Models; cubes: utils.cubes.Cubes; rows: (n,) row numbers; block: (N,) block of each row.
    Yields (row, (3P or 4P, T*P, 3) uint8 BGR); with motion enhancement the fourth part is the error of the flow. Cubes
    in a block without a model show only their frames.
    """
    for number in np.unique(block[rows]):
        trained, here = models.blocks.get(number), rows[block[rows] == number]
        for part in np.split(here, range(batch_size, len(here), batch_size)):
            raw, flow = cubes.batch(part)
            sheets = [_frames(raw), *(_reconstruction(trained, raw, flow, autocast) if trained else ())]
            yield from zip(part.tolist(), np.concatenate(sheets, axis=1))


def _reconstruction(trained, raw, flow, autocast):
    """The reconstruction and the error of each output, as parts of a sheet."""
    model = trained.model.to(raw.device).eval()
    with autocast:
        outputs = [output.float() for output in model(raw)[:1 + model.use_flow]]
    return [_frames(outputs[0].clamp(0, 1)), *map(_errors, (raw, flow), outputs, trained.mean.tolist(), (3, 2))]


def _frames(raw):
    """(B, 3T, P, P) in 0..1 -> (B, P, T*P, 3) uint8."""
    images = (raw * 255).round().byte().cpu().numpy()
    return _strip(np.moveaxis(images.reshape(len(raw), -1, 3, *raw.shape[2:]), 2, -1))


def _errors(target, output, mean, channels):
    """(B, channels * T, P, P) twice -> (B, P, T*P, 3) uint8: each pixel's squared error over the training cubes' mean."""
    error = (output - target).square().unflatten(1, (-1, channels)).sum(2).cpu().numpy()  # (B, T, P, P)
    return _strip(_bgr(ERRORS, np.sqrt(error / (max(mean, 1e-9) / error[0].size) / BRIGHT)))


def _strip(images):
    """(B, T, P, P, 3) -> (B, P, T*P, 3): the T images side by side."""
    return np.concatenate(np.moveaxis(images, 1, 0), axis=2)


def path_of(values, low, high, height=100, points=2000):
    """(n,) values -> the path of an SVG curve in a box n wide; NaN leaves a gap; extra points are merged into maxima."""
    step = -(-len(values) // points)
    values = np.pad(np.asarray(values, np.float64), (0, -len(values) % step), constant_values=np.nan).reshape(-1, step)
    values = np.fmax.reduce(values, axis=1)  # (at most points,)
    y = height * (high - np.clip(values, low, high)) / (high - low)
    words = [f"{(x + 0.5) * step:g} {value:.1f}" for x, value in enumerate(y)]
    return "".join("M" + "L".join(words[a:b]) for a, b in events.runs(~np.isnan(values), [(0, len(values))]))
