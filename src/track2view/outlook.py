"""Before a path is rendered: how much of it the clip can show, over time, and how far a move can go."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64

from track2view.cameras import MOVES, CameraMove, apply_move
from track2view.errors import UserError
from track2view.pipeline import Shot
from track2view.preflight import disk_needed, tracking_memory
from track2view.progress import progress
from track2view.records import CameraPath
from track2view.warp import WarpRenderer

SHORT_SIDE = 320
"""Of the views that coverage is found in."""
GOOD, FAIR = 0.9, 0.75
"""Shares of a view that are seen, from which on it is green, and yellow; red below."""
SHARES = (0.9, 0.75, 0.5)
MOMENTS = 5
"""In which a move is looked at when its amount is sought."""
FURTHEST = {"degrees": 180.0, "distances": 8.0, "times": 8.0}
"""Amounts beyond which nobody asks, by unit."""
GROWTH = 1.4
PRECISION = 0.02
"""Of an amount, as a share of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """Shares of a path's views that the clip shows, at that time or another.

    Attributes:
        seen: of each frame looked at, in [0, 1].
        seconds: when it is.
    """

    seen: Float64[np.ndarray, "K"]
    seconds: Float64[np.ndarray, "K"]

    @property
    def in_words(self) -> str:
        """What is never seen, on average and at worst, and when the picture is green (90 % seen), yellow (75 %) and red."""
        worst = int(self.seen.argmin())
        unseen = f"never seen {100 * (1 - self.seen.mean()):.0f} % on average, {100 * (1 - self.seen[worst]):.0f} % at worst"
        colours = np.where(self.seen >= GOOD, "green", np.where(self.seen >= FAIR, "yellow", "red")).tolist()
        starts = [index for index in range(len(colours)) if index == 0 or colours[index] != colours[index - 1]]
        spans = ", ".join(f"{colours[index]} from {self.seconds[index]:.1f} s" for index in starts)
        return f"{unseen} (at {self.seconds[worst]:.1f} s); {spans}"


class Outlook:
    """What a clip can show of any number of paths: views of a few frames, of the clip made small, and nothing painted.

    Args:
        shot: the clip and what is known of it.
        device: where to compute.
    """

    def __init__(self, shot: Shot, device: str = "cpu") -> None:
        self.shot, self.device = shot, device
        height, width = shot.scene.size
        scale = min(1.0, SHORT_SIDE / min(height, width))
        self.size = round(height * scale), round(width * scale)
        # views as small as the clip tear where large ones of the large clip do, and colours are of no account
        row, column = (
            ((torch.arange(small) + 0.5) * large / small).long() for small, large in zip(self.size, (height, width), strict=True)
        )
        small = replace(shot.scene, frames=shot.scene.frames[:, :, row[:, None], column])
        self.renderer = WarpRenderer(small, shot.depth, shot.tracking.camera, device)

    def coverage(self, target: CameraPath, frames: Sequence[int] | None = None) -> Coverage:
        """Of some frames of a path; of all by default."""
        frames = range(len(target)) if frames is None else frames
        small = target.resized(self.size)
        shares = [float(self.renderer.seen(small, frame).float().mean()) for frame in progress(frames, "looking ahead", len(frames))]
        return Coverage(seen=np.array(shares), seconds=np.array(frames, np.float64) / float(self.shot.clip.fps))

    def how_far(self, move: CameraMove, shares: Sequence[float] = SHARES) -> Mapping[float, float | None]:
        """For each share of the view, the amount of a move up to which no moment of it shows less; None where that lies beyond all
        that anybody asks for (:data:`FURTHEST`).

        Raises:
            UserError: several moves at once, or one without an amount to find.
        """
        check_findable(move)
        ((name, _),) = move.steps
        kind, frames = MOVES[name], np.unique(np.linspace(0, len(self.shot.clip) - 1, MOMENTS).round().astype(int)).tolist()
        rest = 1.0 if kind.unit == "times" else 0.0
        furthest = 0.95 if name == "dolly-zoom-in" else FURTHEST[kind.unit]
        known: dict[float, float] = {rest: 1.0}

        def least(amount: float) -> float:
            if amount not in known:
                target = apply_move(replace(move, steps=((name, amount),)), self.shot.tracking.camera, self.shot.pivot)
                known[amount] = float(self.coverage(target, frames).seen.min())
            return known[amount]

        step = (kind.default - rest) / 4
        while least(rest + step) > min(shares) and rest + step < furthest:
            step = min(step * GROWTH, furthest - rest)
        found: dict[float, float | None] = {}
        for share in shares:
            inside = max(amount for amount in known if all(known[each] >= share for each in known if each <= amount))
            beyond = min((amount for amount in known if amount > inside), default=math.inf)
            while beyond < math.inf and beyond - inside > PRECISION * (beyond - rest):
                middle = (inside + beyond) / 2
                inside, beyond = (middle, beyond) if least(middle) >= share else (inside, middle)
            found[share] = None if beyond == math.inf else inside
        return found

    def forecast(self, target: CameraPath) -> str:
        """Memory, disk and time that rendering a path will take, from one frame of it."""
        clip = self.shot.clip
        renderer = WarpRenderer(self.shot.scene, self.shot.depth, self.shot.tracking.camera, self.device)
        started = time.perf_counter()
        imagined = renderer.imagine(target)
        once = time.perf_counter()
        renderer.render(target, len(clip) - 1, imagined)
        seconds = once - started + (time.perf_counter() - once) * len(clip)
        memory, disk = tracking_memory(len(clip), clip.size), disk_needed(clip)
        return f"about {memory / 1e9:.1f} GB of memory, {disk / 1e6:.0f} MB of disk, {seconds / 60:.1f} min"


def check_findable(move: CameraMove) -> None:
    """Whether a move has an amount to be found.

    Raises:
        UserError: several moves at once, or one without such an amount.
    """
    if len(move.steps) > 1 or MOVES[move.steps[0][0]].unit not in FURTHEST:
        raise UserError(f"{move.name}: has no single amount to find; name one move, such as orbit-right")
