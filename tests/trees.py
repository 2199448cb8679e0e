"""Small trees of the official folder layouts, with textured squares that walk over a noisy floor."""

from pathlib import Path

import cv2
import numpy as np
import scipy.io

SIZE = (60, 90)


def draw(frames, seed, odd=False, size=SIZE):
    """A video (F, H, W, 3) uint8 and the mask of its odd square (F, H, W) uint8, which moves from its second half on."""
    rng = np.random.default_rng(seed)
    height, width = size
    floor = cv2.GaussianBlur(rng.integers(90, 160, (height, width, 3), dtype=np.uint8), (0, 0), 3)
    video, masks = np.stack([floor] * frames), np.zeros((frames, height, width), np.uint8)
    for k in range(3 + odd):
        strange = k == 3
        side = int(rng.integers(12, 17)) + 8 * strange
        patch = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        patch = patch if strange else cv2.GaussianBlur(patch, (0, 0), 3)
        x, y, speed = rng.uniform(0, width - side), rng.uniform(0, height - side), rng.uniform(1.5, 2.5) + 2 * strange
        for t in range(frames // 2 if strange else 0, frames):
            left, top = int(x + speed * t) % (width - side), int(y)
            video[t, top:top + side, left:left + side] = patch
            masks[t, top:top + side, left:left + side] = 255 * strange
    return video, masks


def write_frames(folder, video, suffix):
    """001.tif, 002.tif, ..."""
    Path(folder).mkdir(parents=True)
    for t, frame in enumerate(video, 1):
        cv2.imwrite(str(Path(folder, f"{t:03d}{suffix}")), frame)


def write_video(path, video):
    """One .avi file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, video.shape[2:0:-1])
    for frame in video:
        writer.write(frame)
    writer.release()


def ucsd_tree(root, name="UCSDped2", train=1, test=2, frames=14, size=SIZE, suffix=".tif", ranges=False):
    """raw_datasets/NAME with Train/Train001.., Test/Test001.. and masks Test001_gt, or NAME.m with frame ranges."""
    base = Path(root, "raw_datasets", name)
    for k in range(1, train + 1):
        write_frames(base / "Train" / f"Train{k:03d}", draw(frames, 100 + k, size=size)[0], suffix)
    lines = ["TestVideoFile = {};"]
    for k in range(1, test + 1):
        video, masks = draw(frames, k, odd=True, size=size)
        write_frames(base / "Test" / f"Test{k:03d}", video, suffix)
        if not ranges:
            write_frames(base / "Test" / f"Test{k:03d}_gt", masks, ".bmp")
        abnormal = np.flatnonzero(masks.any(axis=(1, 2))) + 1
        lines.append(f"TestVideoFile{{end+1}}.gt_frame = [{abnormal[0]}:{abnormal[-1]}];")
    if ranges:
        (base / "Test" / f"{name}.m").write_text("\n".join(lines) + "\n")
    (base / "Test" / "._junk").write_bytes(b"junk")
    (base / "Test" / "Test001" / ".DS_Store").write_bytes(b"junk")
    (base / "Test" / "Test001" / "._001.tif").write_bytes(b"junk")
    return base


def avenue_tree(root, train=1, test=2, frames=14, as_avi=False):
    """raw_datasets/avenue from frames or straight from .avi files, with the masks in .mat files."""
    base = Path(root, "raw_datasets", "avenue")
    masks_folder = base / "ground_truth_demo" / "testing_label_mask"
    masks_folder.mkdir(parents=True)
    for part, count in (("training", train), ("testing", test)):
        for k in range(1, count + 1):
            video, masks = draw(frames, k, odd=part == "testing")
            if as_avi:
                write_video(base / f"{part}_videos" / f"{k:02d}.avi", video)
            else:
                write_frames(base / part / "frames" / f"{k:02d}", video, ".jpg")
            if part == "testing":
                cells = np.empty((1, frames), object)
                cells[0, :] = list(masks // 255)
                scipy.io.savemat(masks_folder / f"{k}_label.mat", {"volLabel": cells})
    return base


def shanghaitech_tree(root, frames=14, distributed=False):
    """raw_datasets/ShanghaiTech unpacked as the official code wants it, or as it is distributed."""
    base = Path(root, "raw_datasets", "ShanghaiTech")
    video = draw(frames, 7)[0]
    if distributed:
        write_video(base / "training" / "videos" / "01_001.avi", video)
    else:
        write_frames(base / "training" / "videosFrame" / "01_001", video, ".jpg")
    testing = base / ("testing" if distributed else "Testing")
    (testing / "test_frame_mask").mkdir(parents=True)
    # By name part2's video comes first: labels must still find their video.
    for k, (part, name) in enumerate((("frames_part1", "02_0014"), ("frames_part2", "01_0015"))):
        video, masks = draw(frames, k, odd=True)
        write_frames(testing / ("frames" if distributed else part) / name, video, ".jpg")
        np.save(testing / "test_frame_mask" / f"{name}.npy", masks.any(axis=(1, 2)).astype(np.int8))
    return base
