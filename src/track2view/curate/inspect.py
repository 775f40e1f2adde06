"""A sample drawn: its two views beside each other, every track a dot of one colour in both; a ring where its place is a guess."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import UInt8

from track2view.curate.synchronise import CERTAIN
from track2view.errors import UserError
from track2view.records import Clip, PairedTracks, ViewTracks
from track2view.samples import find_samples, load_record
from track2view.video import VideoWriter, read_clip

DRAWN_TRACKS = 300
PICTURED = (0.0, 0.5, 1.0)


def draw_sample(folder: Path, out: Path) -> None:
    """Write a picture of three moments (``.png``), or all frames (``.mp4``).

    Raises:
        UserError: no sample there, or another suffix.
    """
    load_record(folder)
    pairs = PairedTracks.load(folder / "tracks.npz")
    clips = [read_clip(folder / f"{name}.mp4") for name in ("source", "target")]
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        last = len(clips[0]) - 1
        rows = list(_drawn(clips, pairs, [round(share * last) for share in PICTURED]))
        cv2.imwrite(str(out), np.concatenate(rows, axis=0)[..., ::-1])
    elif out.suffix == ".mp4":
        with VideoWriter(out, clips[0].fps) as video:
            for image in _drawn(clips, pairs, list(range(len(clips[0])))):
                video.add(image)
    else:
        raise UserError(f"{out}: a sample is drawn to .png or .mp4")


def draw_samples(root: Path, out: Path) -> list[Path]:
    """A picture in ``out`` of every sample below ``root``, named after its place; of ``root`` itself, if it is one, ``out``; returns them.

    Raises:
        UserError: no samples there.
    """
    if (root / "sample.json").exists():
        draw_sample(root, out)
        return [out]
    folders = find_samples(root)
    if not folders:
        raise UserError(f"{root}: no samples there (…/sample.json); `track2view curate run` makes some")
    pictures = [out / f"{'-'.join(folder.relative_to(root).parts)}.png" for folder in folders]
    for folder, picture in zip(folders, pictures, strict=True):
        draw_sample(folder, picture)
    return pictures


def _drawn(clips: list[Clip], pairs: PairedTracks, frames: list[int]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    count = pairs.confidence.shape[1]
    shown = np.unique(np.linspace(0, count - 1, min(DRAWN_TRACKS, count)).astype(int))
    hue = np.random.default_rng(0).permutation(len(shown)) / len(shown)
    colours = (np.array([matplotlib.colors.hsv_to_rgb((each, 0.9, 1.0)) for each in hue]) * 255).astype(int)
    for frame in frames:
        source, target = (clip.image(frame) for clip in clips)
        seen = np.ones(len(shown), bool)
        certain = (pairs.confidence[frame, shown] >= CERTAIN).numpy()
        halves = _dotted(source, pairs.source, frame, shown, seen, colours), _dotted(target, pairs.target, frame, shown, certain, colours)
        yield np.concatenate(halves, axis=1)


def _dotted(
    image: UInt8[np.ndarray, "H W 3"], view: ViewTracks, frame: int, shown: np.ndarray, certain: np.ndarray, colours: np.ndarray
) -> UInt8[np.ndarray, "H W 3"]:
    height, width = image.shape[:2]
    radius = max(2, height // 120)
    drawn = (image * 0.6).astype(np.uint8)
    for index, sure, colour in zip(shown, certain, colours, strict=True):
        if bool(view.valid[frame, index]):
            u, v = (view.uv[frame, index].numpy() * [width, height]).round().astype(int)
            cv2.circle(drawn, (int(u), int(v)), radius, tuple(map(int, colour)), cv2.FILLED if sure else 1, cv2.LINE_AA)
    return drawn
