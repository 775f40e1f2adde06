"""Where one shot becomes another: by a cut, a fade or a wipe. A flash is none of these."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32

from track2view.trackers.flashes import Thumbnails, likeness, thumbnails
from track2view.trackers.flow import NeighbourFlow, sample

CUT_TRUST, CUT_LIKENESS = 0.25, 0.6
"""Share of flow that can be trusted across a cut, and how much what is before it looks like what is behind it, at most."""
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
SAME_LEVELS, MOST_CARRIED = 12.0, 0.4
"""How little brightness may differ to be the same, and how much of the picture may stay so across a change of shots."""


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


def shot_changes(flow: NeighbourFlow) -> list[ShotChange]:
    """All of them, in order."""
    small = thumbnails(flow.grey)
    cuts = [ShotChange(kind="cut", begins=frame, ends=frame) for frame in _cuts(small, flow.forward[..., 2].mean((1, 2), dtype=np.float32))]
    gradual = [change for change in _gradual(small) if _carried(flow, change) < MOST_CARRIED]
    return sorted([*cuts, *gradual], key=lambda change: change.begins)


def _carried(flow: NeighbourFlow, change: ShotChange) -> float:
    """Share of the picture that flow carries across a change, and whose brightness stays: what only moves is one shot."""
    first, last = max(0, change.begins - 1), min(change.ends, len(flow.grey) - 1)
    height, width = flow.size
    row, column = np.meshgrid(np.linspace(0.03, 0.97, 24) * height, np.linspace(0.03, 0.97, 32) * width, indexing="ij")
    start = np.stack([column, row], axis=-1).reshape(-1, 2).astype(np.float32)
    points, carried = start, np.ones(len(start), bool)
    for frame in range(first, last):
        points, trusted = flow.step(frame, 1, points)
        carried &= trusted
    before, behind = (sample(cv2.blur(flow.grey[frame], (5, 5)), at) for frame, at in ((first, start), (last, points)))
    return float((carried & (np.abs(before.astype(np.float32) - behind) < SAME_LEVELS)).mean())


def _cuts(small: Thumbnails, trusted: Float32[np.ndarray, "S"]) -> list[int]:
    """Frames that begin a new shot: hardly any flow can be trusted across the cut, unlike around it, and nothing looks alike."""
    cuts = []
    for step in np.flatnonzero(trusted < CUT_TRUST):
        around = np.concatenate([trusted[max(0, step - 3) : step], trusted[step + 1 : step + 4]])
        alike = likeness(small[step], small[step + 1])
        if (not len(around) or np.median(around) > 2 * CUT_TRUST) and alike < CUT_LIKENESS:
            cuts.append(int(step) + 1)
    return cuts


def _gradual(small: Thumbnails) -> list[ShotChange]:
    """Fades and wipes: frames that are mixtures of two unlike ones, of ever more of the second."""
    found: list[ShotChange] = []
    for length in LENGTHS:
        for start in range(0, len(small) - length, max(1, length // 4)):
            part = small[start : start + length + 1]
            if likeness(part[0], part[-1]) >= CUT_LIKENESS:
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
