"""Draw the demo dataset: a promenade with walkers, and now and then something that does not belong there.

    python -m tools.make_demo [--out raw_datasets] [--videos 12] [--frames 80] [--seed 0]

Writes OUT/demo in UCSD form: Train/Train001/001.png (normal frames only), Test/Test001/001.png, the pixel masks
Test/Test001_gt/001.bmp (0 or 255), and demo.json, the recipe. The same recipe draws the same bytes.

Walkers are tall near the camera and short far away, some run, all stream to the right. What is anomalous: a cyclist
(fast), a cart (large), a walker against the flow (of normal size and speed). Sensor noise and drifting light lie over all.
"""
import argparse
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.errors import UserError
from utils.run import run

KINDS = ("cyclist", "cart", "against")
CANVAS = (100, 160)  # height, width in px in which a figure is drawn before it is shrunk to its size in the scene
GROUND = 96          # row of the canvas on which figures stand
SKIN = (0.62, 0.78, 1.0)
WALKERS = 5
PHASES = 12          # pictures of one cycle of steps, or of one turn of the wheels


def cloth(rng, contrast, width):
    """A random pattern (plain, stripes, checks, blotches) in two colours -> CANVAS + (3,) uint8."""
    rows, columns = np.indices(CANVAS)
    blotches = cv2.resize(rng.random((25, 40)), CANVAS[::-1], interpolation=cv2.INTER_CUBIC) > 0.5
    pattern = [rows // width % 2, columns // width % 2, (rows // width + columns // width) % 2, blotches,
               np.zeros(CANVAS)][rng.integers(5)]
    base = rng.uniform(70, 190) + rng.uniform(-35, 35, 3)
    return np.clip(base + contrast * rng.uniform(-1, 1, 3) * pattern[..., None], 0, 255).astype(np.uint8)


def colour(rng, low, high, tint):
    """A random opaque BGRA colour: a brightness between low and high, times the tint."""
    return (*(rng.uniform(low, high) * np.array(tint) + rng.uniform(-15, 15, 3)).clip(0, 255).astype(int).tolist(), 255)


def polar(start, angle, length):
    """The point `length` px from `start` (x, y), at `angle` from straight down, towards +x."""
    return start[0] + length * np.sin(angle), start[1] + length * np.cos(angle)


def line(canvas, points, bgra, width):
    cv2.polylines(canvas, [np.int32(np.round(points))], False, bgra, width)


def fill(canvas, points, texture):
    """Fill a polygon of the (H, W, 4) canvas with a (H, W, 3) texture."""
    inside = cv2.fillPoly(np.zeros(CANVAS, np.uint8), [np.int32(np.round(points))], 1) > 0
    canvas[inside, :3], canvas[inside, 3] = texture[inside], 255


def walker(rng):
    """A walker who faces right, in PHASES postures -> (PHASES, *CANVAS, 4) uint8 BGRA."""
    shirt, skin, hair = cloth(rng, 80, rng.integers(4, 9)), colour(rng, 110, 220, SKIN), colour(rng, 50, 130, (0.6, 0.8, 1))
    trousers, shoe = colour(rng, 60, 140, rng.uniform(0.7, 1.2, 3)), colour(rng, 50, 120, (1, 1, 1))
    wide, stride, bag = rng.uniform(8, 12), rng.uniform(0.35, 0.6), rng.random() < 0.4
    cycle = np.zeros((PHASES, *CANVAS, 4), np.uint8)
    for canvas, phase in zip(cycle, np.linspace(0, 2 * np.pi, PHASES, endpoint=False)):
        for side in (np.pi, 0):  # the far limbs first
            hip, angle = (80, 52), stride * np.sin(phase + side)
            knee = polar(hip, angle + 0.15, 22)
            foot = polar(knee, angle - 0.5 * max(0, np.cos(phase + side)), 20)
            line(canvas, [hip, knee, foot], trousers, 9)
            line(canvas, [foot, (foot[0] + 6, foot[1])], shoe, 5)
            if side:
                fill(canvas, [(80 - wide, 20), (80 + wide, 20), (80 + wide * 0.8, 56), (80 - wide * 0.8, 56)], shirt)
                if bag:
                    cv2.rectangle(canvas, (int(78 - wide), 24), (int(70 - wide), 44), shoe, -1)
            elbow = polar((80, 25), -angle * 0.9, 16)
            line(canvas, [(80, 25), elbow, polar(elbow, -angle * 0.9 + 0.5, 14)], skin, 6)
        cv2.circle(canvas, (81, 11), 8, skin, -1)
        cv2.ellipse(canvas, (80, 9), (9, 8), 0, 150, 330, hair, -1)
    return cycle


def wheel(canvas, centre, radius, phase, bgra):
    """A tyre with three turning spokes across."""
    cv2.circle(canvas, centre, radius, bgra, 4)
    for angle in phase / 3 + np.arange(6) * np.pi / 3:
        line(canvas, [centre, polar(centre, angle, radius)], bgra, 2)


def cyclist(rng):
    """A cyclist who rides to the right -> (PHASES, *CANVAS, 4) uint8 BGRA."""
    shirt, skin = cloth(rng, 110, 6), colour(rng, 110, 220, SKIN)
    trousers, frame = [colour(rng, 40, 150, rng.uniform(0.6, 1.2, 3)) for _ in range(2)]
    cycle = np.zeros((PHASES, *CANVAS, 4), np.uint8)
    for canvas, phase in zip(cycle, np.linspace(0, 2 * np.pi, PHASES, endpoint=False)):
        for x in (50, 112):
            wheel(canvas, (x, 75), 19, phase, (25, 25, 25, 255))
        line(canvas, [(50, 75), (70, 50), (104, 50), (80, 76), (50, 75)], frame, 4)
        line(canvas, [(112, 75), (103, 42), (110, 40)], frame, 4)
        for side in (np.pi, 0):
            pedal = polar((80, 76), phase + side, 8)
            line(canvas, [(68, 46), (90, 56 + 5 * np.cos(phase + side)), pedal], trousers, 8)
        fill(canvas, [(62, 48), (76, 50), (98, 24), (86, 14)], shirt)
        line(canvas, [(92, 24), (98, 36), (108, 40)], skin, 6)
        cv2.circle(canvas, (98, 11), 8, skin, -1)
        cv2.ellipse(canvas, (97, 9), (9, 7), 0, 170, 350, frame, -1)
    return cycle


def cart(rng):
    """A delivery cart that drives to the right -> (PHASES, *CANVAS, 4) uint8 BGRA."""
    side, cab, glass, trim = cloth(rng, 160, rng.integers(10, 16)), cloth(rng, 40, 10), (200, 190, 170, 255), colour(rng, 40, 200, (1, 1, 1))
    cycle = np.zeros((PHASES, *CANVAS, 4), np.uint8)
    for canvas, phase in zip(cycle, np.linspace(0, 2 * np.pi, PHASES, endpoint=False)):
        fill(canvas, [(12, 14), (100, 14), (100, 82), (12, 82)], side)
        fill(canvas, [(102, 32), (128, 32), (146, 58), (146, 82), (102, 82)], cab)
        cv2.fillPoly(canvas, [np.int32([(108, 37), (126, 37), (138, 57), (108, 57)])], glass)
        line(canvas, [(12, 74), (146, 74)], trim, 5)
        for x in (36, 122):
            cv2.circle(canvas, (x, 83), 13, (25, 25, 25, 255), -1)
            wheel(canvas, (x, 83), 7, phase, (150, 150, 150, 255))
    return cycle


def background(rng, size):
    """The empty promenade -> (H, W, 3) float32 BGR: house front, hedge, paving in perspective, grain over all."""
    height, width = size
    y, x = np.indices(size, np.float32) / height
    scene = np.empty((height, width, 3), np.float32)
    scene[:] = (112, 122, 132)
    scene[(x % 0.16 < 0.09) & (y % 0.12 > 0.04)] = (92, 84, 76)  # windows
    scene[y > 0.24] = (64, 92, 72)  # hedge
    depth = 1 / np.maximum(y - 0.12, 0.1)
    slabs = (np.floor(depth * 4) + np.floor((x - 0.75) * depth * 2.2)) % 2 * 10
    paving = y > 0.3 + 0.008 * np.sin(40 * x)
    scene[paving] = np.stack([140 + slabs, 146 + slabs, 150 + slabs], -1)[paving]
    for cells, strength in ((8, 5), (30, 3), (90, 4)):
        grain = rng.standard_normal((cells, cells * 3 // 2)).astype(np.float32)
        scene += strength * cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return scene


class Actor:
    """A figure of `height` px on its way through a video of `width` px, at `speed` px per frame (negative: to the left).

    It stands on row y, and starts at column x: anywhere, or (None) just outside the side that it comes from.
    """

    def __init__(self, rng, figure, height, y, speed, width, x=None, start=0):
        scale = height / (GROUND - 3)
        pictures = [cv2.resize(p if speed > 0 else cv2.flip(p, 1), None, fx=scale, fy=scale,
                               interpolation=cv2.INTER_AREA) for p in figure(rng)]
        self.cycle = np.float32(pictures) / 255  # (PHASES, h, w, 4), colours premultiplied by alpha
        half = np.ptp(np.flatnonzero(self.cycle[..., 3].any((0, 1)))) / 2
        self.left, self.span = -half, width + 2 * half
        self.x = x if x is not None else -half if speed > 0 else width + half
        self.y, self.speed, self.start, self.once = y, speed, start, x is None
        self.phase, self.pace = rng.uniform(0, PHASES), PHASES * abs(speed) / (0.95 * height)

    def paint(self, frame, time):
        """Blend the actor into the (H, W, 3) frame in place -> its coverage (H, W) in 0..1."""
        x = self.x + self.speed * (time - self.start)
        if not self.once:  # who walks out on one side comes in again on the other
            x = (x - self.left) % self.span + self.left
        height, width = self.cycle.shape[1:3]
        shift = np.float32([[1, 0, x - width / 2], [0, 1, self.y - height * GROUND / CANVAS[0]]])
        picture = self.cycle[int(self.phase + self.pace * time) % PHASES]
        layer = cv2.warpAffine(picture, shift, frame.shape[1::-1])  # (H, W, 4)
        frame *= 1 - layer[..., 3:]
        frame += layer[..., :3] * 255
        return layer[..., 3]


def tallness(y, height):
    """How tall (px) a person is who stands on row y of a picture of that height: perspective."""
    return height * (0.33 * y / height - 0.02)


def draw_video(rng, scene, frames, kind=None):
    """One video, with one anomaly of a kind or none -> (F, H, W, 3) uint8 BGR, (F, H, W) uint8 masks, 0 or 255."""
    height, width = scene.shape[:2]
    cast = []
    first = rng.uniform(0, width)
    for i, y in enumerate(np.linspace(0.5, 1.0, WALKERS) + rng.uniform(-0.03, 0.03, WALKERS)):
        tall = tallness(y * height, height) * rng.uniform(0.85, 1.15)
        speed = max(1.3, 0.055 * tall * rng.uniform(0.9, 1.15)) * (rng.uniform(1.4, 1.9) if rng.random() < 0.2 else 1)
        x = first + (2 * i / WALKERS + rng.uniform(0, 0.08)) * width  # neighbours in depth start far apart
        cast.append(Actor(rng, walker, tall, y * height, speed, width, x))
    odd = None
    if kind:
        y = rng.uniform(0.65, 0.92) * height
        tall = tallness(y, height)
        figure, size, speed = {"cyclist": (cyclist, 1.15, 0.15), "cart": (cart, 1.1, 0.08),
                               "against": (walker, 1.0, -0.1)}[kind]
        odd = Actor(rng, figure, size * tall, y, speed * tall, width, start=rng.uniform(0.4, 0.6) * frames)
        cast.append(odd)
    cast.sort(key=lambda actor: actor.y)  # the far ones first
    swing, phase = rng.uniform(0.02, 0.06), rng.uniform(0, 2 * np.pi)
    video = np.empty((frames, height, width, 3), np.uint8)
    masks = np.zeros((frames, height, width), np.uint8)
    for time in range(frames):
        frame = scene.copy()
        for actor in cast:
            alpha = actor.paint(frame, time)
            if actor is odd:
                masks[time] = 255 * (alpha > 0.5)
            else:
                masks[time][alpha > 0.5] = 0  # who walks in front hides the anomaly
        frame *= 1 + swing * np.sin(phase + time / 25)
        frame += rng.normal(0, 2.5, frame.shape)
        video[time] = np.clip(frame, 0, 255)
    return video, masks


def kind_of(i):
    return ("cyclist", None, "cart", "against", None, "cyclist")[i % 6]


def demo_videos(seed, videos=12, frames=80, size=(120, 180)):
    scene = background(np.random.default_rng(seed), size)
    return [draw_video(np.random.default_rng([seed, 1, i]), scene, frames, kind_of(i)) for i in range(videos)]
