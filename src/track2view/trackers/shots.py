"""Where one shot becomes another: by a cut, a fade or a wipe. A flash is none of these."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

THUMBNAIL = (32, 24)
CUT_TRUST, CUT_LIKENESS = 0.25, 0.6
"""Share of flow that can be trusted across a cut, and how much what is before it looks like what is behind it, at most."""
FLASH_FRAMES = 5
FLASH_LEVELS, FLASH_LIKENESS = 30.0, 0.8
LENGTHS = (6, 12, 24, 48)
"""Frames from wholly the one to wholly the other that are tried."""
FADE_LEFT, WIPE_LEFT = 0.15, 0.25
"""Of the difference between two shots, what a mixture of them may leave unexplained in the worst frame."""
DIFFERENT_LEVELS, DIFFERENT_SHARE = 20.0, 0.4
MIXED = (0.15, 0.85)
"""Shares of the second shot that are surely mixtures: what moves within a shot looks like a little of another."""
BACK, ONWARD = -0.08, 0.5
"""How far a mixture may go from one frame to the next."""
MIXED_FRAMES = 2

Thumbnails = Float32[np.ndarray, "T p"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotChange:
    """One shot becomes another.

    Attributes:
        kind: how.
        begins: first frame that is not wholly of the old shot.
        ends: first frame that is wholly of the new one; the same for a cut.
    """

    kind: Literal["cut", "fade", "wipe"]
    begins: int
    ends: int

    def in_words(self, fps: float) -> str:
        """What happens when, and which parts of the window are one shot."""
        begins, ends = self.begins / fps, self.ends / fps
        if self.kind == "cut":
            what = f"the shot changes at {ends:.2f} s (frame {self.ends} of the window)"
        else:
            verb = "fades into" if self.kind == "fade" else "is wiped over by"
            what = f"the shot {verb} another from {begins:.2f} to {ends:.2f} s (frames {self.begins} to {self.ends} of the window)"
        return f"{what}; one camera path cannot span it: use --end {begins:.2f} or --start {ends:.2f}"


def shot_changes(grey: UInt8[np.ndarray, "T H W"], trusted: Float32[np.ndarray, "S"]) -> list[ShotChange]:
    """All of them, in order.

    Args:
        grey: the frames.
        trusted: share of the flow from each to the next that can be trusted.
    """
    small = _thumbnails(grey)
    cuts = [ShotChange(kind="cut", begins=frame, ends=frame) for frame in _cuts(small, trusted)]
    return sorted([*cuts, *_gradual(small)], key=lambda change: change.begins)


def flashes(grey: UInt8[np.ndarray, "T H W"]) -> list[tuple[int, int]]:
    """Last frame before and first frame behind each moment that is much brighter than what is alike on both sides of it."""
    small = _thumbnails(grey)
    bright = small.mean(1)
    found, frame = [], 0
    while frame < len(small) - 2:
        for after in range(frame + 2, min(frame + FLASH_FRAMES + 2, len(small))):
            lit = bright[frame + 1 : after].min() > max(bright[frame], bright[after]) + FLASH_LEVELS
            if lit and _likeness(small[frame], small[after]) > FLASH_LIKENESS:
                found.append((frame, after))
                frame = after - 1
                break
        frame += 1
    return found


def _thumbnails(grey: UInt8[np.ndarray, "T H W"]) -> Thumbnails:
    return np.stack([cv2.resize(each, THUMBNAIL, interpolation=cv2.INTER_AREA).ravel() for each in grey]).astype(np.float32)


def _likeness(one: Float32[np.ndarray, "p"], other: Float32[np.ndarray, "p"]) -> float:
    """Correlation; a blank picture is like none."""
    return float(np.corrcoef(one, other)[0, 1]) if min(np.ptp(one), np.ptp(other)) > 0 else 0.0


def _cuts(small: Thumbnails, trusted: Float32[np.ndarray, "S"]) -> list[int]:
    """Frames that begin a new shot: hardly any flow can be trusted across the cut, unlike around it, and nothing shortly before
    looks like anything shortly behind."""
    cuts = []
    for step in np.flatnonzero(trusted < CUT_TRUST):
        around = np.concatenate([trusted[max(0, step - 3) : step], trusted[step + 1 : step + 4]])
        before, behind = small[max(0, step - FLASH_FRAMES) : step + 1], small[step + 1 : step + 2 + FLASH_FRAMES]
        alike = max(_likeness(one, other) for one in before for other in behind)
        if (not len(around) or np.median(around) > 2 * CUT_TRUST) and alike < CUT_LIKENESS:
            cuts.append(int(step) + 1)
    return cuts


def _gradual(small: Thumbnails) -> list[ShotChange]:
    """Fades and wipes: frames that are mixtures of two unlike ones, of ever more of the second."""
    found: list[ShotChange] = []
    for length in LENGTHS:
        for start in range(0, len(small) - length, max(1, length // 4)):
            part = small[start : start + length + 1]
            if _likeness(part[0], part[-1]) >= CUT_LIKENESS:
                continue
            for kind, (share, left) in (("fade", _faded(part)), ("wipe", _wiped(part))):
                mixed = np.flatnonzero((share > MIXED[0]) & (share < MIXED[1]))
                steps = np.diff(share)
                steady = steps.min() > BACK and steps.max() < ONWARD and share[-1] > MIXED[1]
                if steady and len(mixed) >= MIXED_FRAMES and left < (FADE_LEFT if kind == "fade" else WIPE_LEFT):
                    slope, at_start = np.polyfit(mixed, share[mixed], 1)
                    begins, ends = (start + round(float((end - at_start) / slope)) for end in (0, 1))
                    found.append(ShotChange(kind=kind, begins=begins + 1, ends=ends))
    best: list[ShotChange] = []
    for change in sorted(found, key=lambda each: each.begins - each.ends):  # a part of a fade is a fade
        if all(change.ends <= other.begins or change.begins >= other.ends for other in best):
            best.append(change)
    return best


def _faded(part: Thumbnails) -> tuple[Float32[np.ndarray, "T"], float]:
    """Of which share each frame is the last one, the rest the first; and what that leaves of their difference at worst."""
    way = part[-1] - part[0]
    share = (part - part[0]) @ way / max(float(way @ way), 1e-6)
    left = ((part - part[0] - share[:, None] * way) ** 2).sum(1) / max(float(way @ way), 1e-6)
    return share, float(left.max())


def _wiped(part: Thumbnails) -> tuple[Float32[np.ndarray, "T"], float]:
    """The same where each pixel is of the one or of the other."""
    apart = np.abs(part[-1] - part[0])
    differs = apart > DIFFERENT_LEVELS
    if differs.mean() < DIFFERENT_SHARE:
        return np.zeros(len(part), np.float32), 1.0
    from_first, from_last = np.abs(part - part[0])[:, differs], np.abs(part - part[-1])[:, differs]
    share = (from_last < from_first).mean(1, dtype=np.float32)
    left = np.minimum(from_first, from_last).mean(1) / apart[differs].mean()
    return share, float(left.max())
