"""Small pictures for pages and films: thumbnails, cubes with their reconstructions, colours of scores."""

import base64

import cv2
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, to_hex

LONG_SIDE = 480  # of a thumbnail, in px
QUALITY = 55  # of WebP, 0 to 100
BRIGHT = 50  # an error this many times the training cubes' mean error is drawn brightest
SCORES = LinearSegmentedColormap.from_list("scores", ["#4aa3ff", "#7fd1c4", "#ffd23f", "#ff8a3d", "#ff2f4f"])
ERRORS = LinearSegmentedColormap.from_list("errors", ["#0b0e1a", "#3b2a75", "#b5367a", "#fb8861", "#fcfdbf"])


def palette(count=64):
    """Colours of scores from low to high, as #rrggbb."""
    return [to_hex(colour) for colour in SCORES(np.linspace(0, 1, count))]


def colours(scores, limit):
    """(n,) scores -> (n, 3) uint8 BGR: blue at 0, yellow at the limit of an event, red at twice the limit."""
    share = np.clip(np.asarray(scores, np.float64) / (2 * max(limit, 1e-6)), 0, 1)
    return (SCORES(share)[:, 2::-1] * 255).round().astype(np.uint8)


def thumbnail(frame):
    """(H, W, 3) uint8 BGR -> a data URI, not more than LONG_SIDE long."""
    shrink = LONG_SIDE / max(frame.shape[:2])
    if shrink < 1:
        frame = cv2.resize(frame, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return data_uri(frame, QUALITY)


def data_uri(image, quality):
    """(H, W, 3) uint8 BGR -> "data:image/webp;base64,..."."""
    data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")


@torch.no_grad()
def cube_sheets(models, cubes, rows, block, autocast, batch_size=256):
    """For each cube a picture of its frames, their reconstruction and the error, one row each.

    models: models.checkpoint.Models; cubes: utils.cubes.Cubes; rows: (n,) row numbers; block: (N,) block of each row.
    Yields (row, (3P or 4P, T*P, 3) uint8 BGR); with motion enhancement a fourth row shows the error of the flow. Cubes
    in a block without a model get their first row alone.
    """
    for number in np.unique(block[rows]):
        here = rows[block[rows] == number]
        for start in range(0, len(here), batch_size):
            part = here[start:start + batch_size]
            raw, flow = cubes.batch(part)
            sheets = [_frames(raw)]
            if number in models.blocks:
                model = models.blocks[number].model.to(cubes.device).eval()
                with autocast:
                    outputs = model(raw)
                sheets.append(_frames(outputs[0].float().clamp(0, 1)))
                pairs = [(raw, outputs[0]), (flow, outputs[1])][:1 + model.use_flow]
                for mean, (target, output) in zip(models.blocks[number].mean, pairs):
                    sheets.append(_errors(target, output.float(), float(mean), raw.shape[1] // 3))
            yield from zip(part.tolist(), np.concatenate(sheets, axis=1))


def _frames(raw):
    """(B, 3T, P, P) in 0..1 -> (B, P, T*P, 3) uint8."""
    count, channels, height, width = raw.shape
    images = raw.reshape(count, channels // 3, 3, height, width).permute(0, 3, 1, 4, 2)
    return (images * 255).round().byte().cpu().numpy().reshape(count, height, -1, 3)


def _errors(target, output, mean, frames):
    """(B, C, P, P) twice -> (B, P, T*P, 3) uint8: squared error of each pixel, against the training cubes' mean."""
    fields = 3 if target.shape[1] == 3 * frames else 2
    count, channels, height, width = target.shape
    error = (output - target).square().reshape(count, channels // fields, fields, height, width).sum(2)  # (B, T, P, P)
    error = error.permute(0, 2, 1, 3).reshape(count, height, -1).cpu().numpy()
    per_pixel = max(mean, 1e-9) / (height * width * channels / fields)
    shown = ERRORS(np.sqrt(np.clip(error / per_pixel / BRIGHT, 0, 1)))[..., 2::-1]
    return (shown * 255).round().astype(np.uint8)


def path_of(values, low, high, height=100, points=2000):
    """(n,) values -> the path of an SVG curve in a box n wide; NaN leaves a gap; of more points the highest of each few."""
    values = np.asarray(values, np.float64)
    step = -(-len(values) // points)
    values = np.pad(values, (0, -len(values) % step), constant_values=np.nan).reshape(-1, step)
    values = np.where(np.isnan(values), -np.inf, values).max(axis=1)
    words, pen = [], "M"
    for x, value in enumerate(values):
        if value == -np.inf:
            pen = "M"
        else:
            y = height * (high - min(max(value, low), high)) / (high - low)
            words.append(f"{pen}{(x + 0.5) * step:g} {y:.1f}")
            pen = "L"
    return "".join(words)
