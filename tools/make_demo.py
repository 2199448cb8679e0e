"""Draw the demo dataset: a promenade with walkers, and sometimes something that does not belong there.

    python -m tools.make_demo [--out raw_datasets] [--videos 10] [--frames 100] [--seed 0]

writes  OUT/demo/Train/Train001/001.png ...     normal frames only
        OUT/demo/Test/Test001/001.png ...
        OUT/demo/Test/Test001_gt/001.bmp ...    pixel masks, 0 or 255
        OUT/demo/demo.json                      the recipe; the same recipe gives the same bytes

Walkers are tall near the camera and short far away, some walk in pairs, some run, all move to the right. Anomalies are
cyclists (fast), carts (large) and runners against the flow, whose size and speed are normal.
"""

import argparse
import contextlib
from pathlib import Path

import cv2
import numpy as np

from utils import files
from utils.errors import UserError
from utils.frames import save_image
from utils.locks import locked
from utils.run import progress, run

SIZE = (120, 160)    # height, width of a frame in px
CANVAS = (100, 160)  # height, width in px in which a figure is drawn before it is scaled down into the scene
GROUND = 96          # row of the canvas on which figures stand
PHASES = 12          # pictures per cycle of steps, or per turn of the wheels
PARTIES = 5          # walkers or pairs of walkers in a video
NOISE = 2            # standard deviation of the sensor's noise, in grey levels
SKIN = (0.62, 0.78, 1.0)
TYRE, SPOKE, GLASS = (25, 25, 25, 255), (230, 230, 230, 255), (200, 190, 170, 255)
# The testing videos' anomalies, repeated as needed.
PLAN = ("cyclist", None, "cart", None, "against", "cyclist", None, "cart", None, "cyclist")


def cloth(rng, contrast, width):
    """A random pattern (plain, stripes, checks, blotches) in two colours -> CANVAS + (3,) uint8."""
    rows, columns = np.indices(CANVAS) // width
    blotches = cv2.resize(rng.random((25, 40)), CANVAS[::-1], interpolation=cv2.INTER_CUBIC) > 0.5
    pattern = (np.zeros(CANVAS), rows % 2, columns % 2, (rows + columns) % 2, blotches)[rng.integers(5)]
    base = rng.uniform(85, 185) + rng.uniform(-30, 30, 3)
    return np.clip(base + contrast * rng.uniform(-1, 1, 3) * pattern[..., None], 0, 255).astype(np.uint8)


def colour(rng, low, high, tint):
    """A random opaque BGRA colour: a brightness between low and high, times the tint."""
    bgr = rng.uniform(low, high) * np.array(tint) + rng.uniform(-15, 15, 3)
    return (*bgr.clip(0, 255).astype(int).tolist(), 255)


def polar(start, angle, length):
    """The point `length` px from `start` (x, y), at `angle` from straight down, towards +x."""
    return start[0] + length * np.sin(angle), start[1] + length * np.cos(angle)


def line(canvas, points, bgra, width):
    cv2.polylines(canvas, [np.int32(np.round(points))], False, bgra, width)


def fill(canvas, points, texture):
    """Fill a polygon of the (H, W, 4) canvas with a (H, W, 3) texture."""
    inside = cv2.fillPoly(np.zeros(CANVAS, np.uint8), [np.int32(np.round(points))], 1) > 0
    canvas[inside, :3], canvas[inside, 3] = texture[inside], 255


def wheel(canvas, centre, radius, phase):
    """A tyre with three turning spokes."""
    cv2.circle(canvas, centre, radius, TYRE, 5)
    for angle in phase / 3 + np.arange(3) * np.pi * 2 / 3:
        line(canvas, [centre, polar(centre, angle, radius)], SPOKE, 4)


def cycle_of(draw):
    """draw(canvas, phase in radians), for each phase of a cycle -> (PHASES, *CANVAS, 4) uint8 BGRA."""
    cycle = np.zeros((PHASES, *CANVAS, 4), np.uint8)
    for canvas, phase in zip(cycle, np.arange(PHASES) * 2 * np.pi / PHASES):
        draw(canvas, phase)
    return cycle


def walker(rng):
    """A walker who faces right."""
    shirt, skin, hair = cloth(rng, 60, rng.integers(4, 9)), colour(rng, 130, 210, SKIN), colour(rng, 60, 120, SKIN)
    trousers, shoe = colour(rng, 80, 150, rng.uniform(0.75, 1.15, 3)), colour(rng, 70, 130, (1, 1, 1))
    wide, stride, bag = rng.uniform(8, 12), rng.uniform(0.35, 0.6), rng.random() < 0.4

    def draw(canvas, phase):
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
    return cycle_of(draw)


def cyclist(rng):
    """A cyclist who rides to the right."""
    shirt, skin = cloth(rng, 160, 7), colour(rng, 110, 220, SKIN)
    trousers, frame = [colour(rng, 40, 150, rng.uniform(0.6, 1.2, 3)) for _ in range(2)]

    def draw(canvas, phase):
        wheel(canvas, (50, 75), 20, phase)
        wheel(canvas, (112, 75), 20, phase)
        line(canvas, [(50, 75), (70, 50), (104, 50), (80, 76), (50, 75)], frame, 4)
        line(canvas, [(112, 75), (103, 42), (110, 40)], frame, 4)
        for side in (np.pi, 0):
            knee = (90, 56 + 5 * np.cos(phase + side))
            line(canvas, [(68, 46), knee, polar((80, 76), phase + side, 8)], trousers, 8)
        fill(canvas, [(62, 48), (76, 50), (98, 24), (86, 14)], shirt)
        line(canvas, [(92, 24), (98, 36), (108, 40)], skin, 6)
        cv2.circle(canvas, (98, 11), 8, skin, -1)
        cv2.ellipse(canvas, (97, 9), (9, 7), 0, 170, 350, frame, -1)
    return cycle_of(draw)


def cart(rng):
    """A cart full of coloured crates that drives to the right."""
    crates = cv2.resize(rng.integers(30, 240, (8, 13, 3), np.uint8), CANVAS[::-1], interpolation=cv2.INTER_NEAREST)
    cab, trim = cloth(rng, 40, 10), colour(rng, 40, 200, (1, 1, 1))

    def draw(canvas, phase):
        fill(canvas, [(12, 14), (100, 14), (100, 82), (12, 82)], crates)
        fill(canvas, [(102, 32), (128, 32), (146, 58), (146, 82), (102, 82)], cab)
        cv2.fillPoly(canvas, [np.int32([(108, 37), (126, 37), (138, 57), (108, 57)])], GLASS)
        line(canvas, [(12, 74), (146, 74)], trim, 5)
        wheel(canvas, (36, 82), 12, phase)
        wheel(canvas, (122, 82), 12, phase)
    return cycle_of(draw)


# For each anomaly: the figure, its height in walker heights, its speed in walker heights per frame.
KINDS = {"cyclist": (cyclist, 1.0, 0.145), "cart": (cart, 0.9, 0.105), "against": (walker, 1.0, -0.105)}


def background(rng, size):
    """The empty promenade -> (H, W, 3) float32 BGR: house front, hedge, paving in perspective, grain over all."""
    height, width = size
    y, x = np.indices(size, np.float32) / height
    scene = np.full((height, width, 3), (112, 122, 132), np.float32)
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
    """A figure of `height` px on its way through a video of `width` px, at `speed` px per frame (below 0: to the left).

    It stands on row y and starts at column x; None: just outside the side that it comes from.
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
        if not self.once:  # whoever leaves on one side re-enters on the other
            x = (x - self.left) % self.span + self.left
        height, width = self.cycle.shape[1:3]
        shift = np.float32([[1, 0, x - width / 2], [0, 1, self.y - height * GROUND / CANVAS[0]]])
        picture = self.cycle[int(self.phase + self.pace * time) % PHASES]
        layer = cv2.warpAffine(picture, shift, frame.shape[1::-1])  # (H, W, 4)
        frame *= 1 - layer[..., 3:]
        frame += layer[..., :3] * 255
        return layer[..., 3]


def draw_video(rng, scene, frames, kind=None):
    """One video, with one anomaly of this kind or none -> (F, H, W, 3) uint8 BGR, (F, H, W) uint8 masks, 0 or 255."""
    height, width = scene.shape[:2]

    def tall(y):
        """Height in px of a person standing on row y (perspective)."""
        return 0.38 * y - 0.05 * height

    cast, first = [], rng.uniform(0, width)
    for i, y in enumerate(height * (np.linspace(0.5, 1, PARTIES) + rng.uniform(-0.03, 0.03, PARTIES))):
        size = tall(y) * rng.uniform(0.88, 1.12)
        speed = max(0.7, 0.033 * size * rng.uniform(0.9, 1.15)) * (rng.uniform(1.8, 2.8) if rng.random() < 0.25 else 1)
        x = first + (2 * i / PARTIES + rng.uniform(0, 0.08)) * width  # neighbours in depth start far apart
        for friend in range(1 + (rng.random() < 0.2)):  # alone or in pairs
            cast.append(Actor(rng, walker, size * (1 - 0.1 * friend), y - friend, speed, width,
                              x=x + 0.4 * friend * size))
    odd = None
    if kind:
        figure, scale, pace = KINDS[kind]
        y = rng.uniform(0.66, 0.84) * height
        odd = Actor(rng, figure, scale * tall(y), y, pace * tall(y), width, start=rng.uniform(0.1, 0.25) * frames)
        cast.append(odd)
    cast.sort(key=lambda actor: actor.y)  # far ones are painted first
    swing, phase = rng.uniform(0.02, 0.06), rng.uniform(0, 2 * np.pi)
    video, masks = np.empty((frames, *scene.shape), np.uint8), np.zeros((frames, height, width), np.uint8)
    for time in range(frames):
        frame = scene.copy()
        for actor in cast:
            covered = actor.paint(frame, time) > 0.5
            masks[time][covered] = 255 * (actor is odd)  # a walker in front hides the anomaly
        frame *= 1 + swing * np.sin(phase + time / 25)  # the light drifts
        frame += NOISE * rng.standard_normal(frame.shape, np.float32)
        video[time] = np.clip(frame, 0, 255)
    return video, masks


def write_frames(folder, pictures, suffix):
    """Writes 001.png, 002.png, ..."""
    for number, picture in enumerate(pictures, 1):
        save_image(folder / f"{number:03d}{suffix}", picture)


def make_dataset(folder, videos, train_videos, frames, seed, size=SIZE, tick=lambda: None):
    """Draw a whole dataset in UCSD layout into a folder; size: (H, W) in px; tick is called after each video."""
    folder, scene = Path(folder), background(np.random.default_rng(seed), size)
    for testing, part, count in ((0, "Train", train_videos), (1, "Test", videos)):
        for i in range(count):
            name, kind = folder / part / f"{part}{i + 1:03d}", PLAN[i % len(PLAN)] if testing else None
            video, masks = draw_video(np.random.default_rng((seed, testing, i)), scene, frames, kind)
            write_frames(name, video, ".png")
            if testing:
                write_frames(name.with_name(f"{name.name}_gt"), masks, ".bmp")
            tick()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("raw_datasets"), help="parent folder (default raw_datasets)")
    parser.add_argument("--videos", type=int, default=10, help="testing videos; adds a third as many for training (default 10)")
    parser.add_argument("--frames", type=int, default=100, help="frames of each video (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="a different seed gives different videos (default 0)")
    args = parser.parse_args()
    if args.videos < 1 or args.frames < 8 or args.seed < 0:
        raise UserError("--videos must be 1 or more, --frames 8 or more, --seed 0 or more")
    found, folder, train_videos = None, args.out / "demo", -(-args.videos // 3)
    recipe = {"videos": args.videos, "train_videos": train_videos, "frames": args.frames, "seed": args.seed,
              "drawing": 1}  # increase when the drawing changes
    if folder.exists():
        with contextlib.suppress(UserError):
            found = files.load_json(folder / "demo.json")
        if found != recipe:
            raise UserError(f"{folder}: already exists, made from {found or 'something else'}, not from {recipe}: "
                            "move it away, or use another --out")
        print(f"{folder} already exists, made from this recipe")
    else:
        part = folder.with_name("demo.part")
        with locked(args.out), progress(args.videos + train_videos, "video", "demo") as bar:
            files.new_folder(part)
            make_dataset(part, args.videos, train_videos, args.frames, args.seed, tick=bar.update)
            files.save_json(part / "demo.json", recipe)
            part.rename(folder)
        print(f"wrote {folder}: {args.videos} testing and {train_videos} training videos of {args.frames} frames")
    print("next: python run_pipeline.py --dataset_name demo --mode test")


if __name__ == "__main__":
    run(main)
