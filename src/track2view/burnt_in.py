"""What is burnt into the picture and never moves: captions, logos, black bars. Found, taken out of the scene, laid back unmoved."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from track2view.records import Clip

SAMPLES = 24
STILL, NEARLY_STILL, MOVED = 10, 25, 25
"""Grey levels, of 255, that a pixel varies by (10th to 90th percentile over time): by compression alone; smoothed with what is beside
it; because another thing is seen."""
EDGE = 15
"""Grey levels a pixel: an edge that cannot move by a third of a pixel without being noticed."""
SLANT = 0.05
"""Edges all along one direction may slide along themselves; letters have others."""
SHARE_AROUND, SHARE_TRAVELLING = 0.6, 0.7
"""Of the pixels around a mark, and of all other edges, those that vary: a camera that stands still tells nothing of what is burnt in."""
LEAST_OF_PICTURE, MOST_OF_PICTURE = 0.002, 0.25
BLACK = 28
BORDER, LIT_AT_BORDER = 3, 0.3
"""Lines within which a picture begins behind a bar, and how much of such a line is lit: a night sky ends otherwise."""
MOST_OF_SIDE = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class BurntIn:
    """Pixels that belong to the screen, not to the scene.

    Attributes:
        mask: True at captions, logos and bars.
        top, bottom, left, right: thickness of black bars in pixels.
    """

    mask: Bool[np.ndarray, "H W"]
    top: int
    bottom: int
    left: int
    right: int

    def in_words(self) -> str:
        """What was found, for a person."""
        height, width = self.mask.shape
        marks = self.mask[self.top : height - self.bottom, self.left : width - self.right]
        found = ["black bars"] * (self.top + self.bottom + self.left + self.right > 0)
        found += ["a caption or logo"] * bool(marks.any())
        return " and ".join(found)

    def taken_out(self, clip: Clip) -> Clip:
        """The clip with captions painted over from around them, and bars from the picture's edge."""
        height, width = self.mask.shape
        inner = (slice(self.top, height - self.bottom), slice(self.left, width - self.right))
        marks = self.mask[inner].astype(np.uint8)
        frames = clip.frames.clone()
        for index in range(len(clip)):
            image = np.ascontiguousarray(clip.image(index)[inner])
            image = cv2.inpaint(image, marks, 3, cv2.INPAINT_TELEA) if marks.any() else image
            whole = cv2.copyMakeBorder(image, self.top, self.bottom, self.left, self.right, cv2.BORDER_REPLICATE)
            frames[index].permute(1, 2, 0).numpy()[:] = whole
        return replace(clip, frames=frames)

    def laid_back(self, image: UInt8[np.ndarray, "H W 3"], source: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """A re-filmed frame with what is burnt into the source's frame of that moment."""
        return np.where(self.mask[..., None], source, image)


def find_burnt_in(clip: Clip) -> BurntIn | None:
    """Groups of edges that keep still while all around them moves, and black borders; None where there are none."""
    chosen = np.unique(np.linspace(0, len(clip) - 1, min(SAMPLES, len(clip))).round().astype(int))
    grey = np.stack([cv2.cvtColor(clip.image(int(index)), cv2.COLOR_RGB2GRAY) for index in chosen])
    top, bottom = _bars(grey.max((0, 2)), (grey.max(0) > BLACK).mean(1))
    left, right = _bars(grey.max((0, 1)), (grey.max(0) > BLACK).mean(0))
    height, width = clip.size
    inner = (slice(top, height - bottom), slice(left, width - right))
    marks = _still_marks(grey[:, *inner])
    if not (marks.any() or top + bottom + left + right):
        return None
    mask = np.ones((height, width), bool)
    mask[inner] = marks
    return BurntIn(mask=mask, top=top, bottom=bottom, left=left, right=right)


def _bars(brightest: UInt8[np.ndarray, "N"], lit: Float64[np.ndarray, "N"]) -> tuple[int, int]:
    """How many lines at the beginning and at the end are black in all frames, up to a border behind which the picture begins at once.

    Args:
        brightest: of each line.
        lit: share of each line's pixels that are not black at all times.
    """
    bright = np.flatnonzero(brightest > BLACK)
    if not len(bright):
        return 0, 0
    first, last = int(bright[0]), int(bright[-1])
    before = first if lit[first : first + BORDER].max() > LIT_AT_BORDER else 0
    behind = len(lit) - 1 - last if lit[max(0, last + 1 - BORDER) : last + 1].max() > LIT_AT_BORDER else 0
    return (before, behind) if before + behind <= MOST_OF_SIDE * len(lit) else (0, 0)


def _still_marks(grey: UInt8[np.ndarray, "T H W"]) -> Bool[np.ndarray, "H W"]:
    """Groups of edges that keep still in all directions, before a scene that moves all around them."""
    low, middle, high = np.percentile(grey, [10, 50, 90], axis=0).astype(np.float32)
    varies = high - low
    across, down = _slopes(middle)
    edges = (np.hypot(across, down) > EDGE) & (varies <= STILL)
    reach = max(2, round(min(grey.shape[1:]) / 60))
    strokes = _grown(edges, reach) & (varies <= NEARLY_STILL)
    count, label = cv2.connectedComponents(_grown(strokes, 2 * reach).astype(np.uint8))
    marks = np.zeros(edges.shape, bool)
    for each in range(1, count):
        mine = label == each
        mark = _grown(strokes & mine, 1)
        around = _grown(mark, 2 * reach) & ~_grown(mark, reach // 2)
        slopes = np.stack([across[edges & mine], down[edges & mine]])
        weakest, strongest = np.linalg.eigvalsh(slopes @ slopes.T)
        if weakest > SLANT * strongest and (varies[around] > MOVED).mean() > SHARE_AROUND:
            marks |= mark
    others = (np.hypot(*_slopes(grey[0].astype(np.float32))) > EDGE) & ~marks
    travels = (varies[others] > MOVED).mean() > SHARE_TRAVELLING if others.any() else False
    return marks if travels and LEAST_OF_PICTURE <= marks.mean() <= MOST_OF_PICTURE else np.zeros_like(marks)


def _slopes(image: Float32[np.ndarray, "H W"]) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """Grey levels a pixel, to the right and downwards."""
    return cv2.Sobel(image, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(image, cv2.CV_32F, 0, 1, scale=0.125)


def _grown(mask: Bool[np.ndarray, "H W"], by: int) -> Bool[np.ndarray, "H W"]:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)).astype(bool)
