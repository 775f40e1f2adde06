"""Dense optical flow between neighbouring frames, and chains of it: OpenCV's DIS, checked forwards and backwards."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float16, Float32, UInt8

from track2view.records import Clip, Size
from track2view.video import progress

WORKING_SHORT_SIDE = 480
STORED_STRIDE = 2
ROUND_TRIP_PIXELS = 1.0
REFRESH_FRAMES = 6
REFRESH_PIXELS = 3.0
PATCH = (13, 13)
PATCH_ERROR = 12.0
CUT_TRUST = 0.25
CUT_LIKENESS = 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourFlow:
    """Flow between all neighbouring frames, stored at half the working size, which is the size DIS solves at.

    Attributes:
        size: (H, W) of the working images; flow is in their pixels.
        grey: the working images.
        forward: channels (du, dv, trusted) from frame t to t + 1; trusted is 1 where forward and backward agree.
        backward: the same from frame t + 1 to t.
    """

    size: Size
    grey: UInt8[np.ndarray, "T H W"]
    forward: Float16[np.ndarray, "S h w 3"]
    backward: Float16[np.ndarray, "S h w 3"]

    def step(
        self, frame: int, direction: int, points: Float32[np.ndarray, "*n 2"]
    ) -> tuple[Float32[np.ndarray, "*n 2"], Bool[np.ndarray, "*n"]]:
        """Move points of ``frame`` one frame on (``direction`` 1) or back (-1); also whether the step can be trusted."""
        field = self.forward[frame] if direction > 0 else self.backward[frame - 1]
        moved = sample(field, points / STORED_STRIDE)
        after = points + moved[..., :2]
        height, width = self.size
        within = (after >= 0).all(-1) & (after[..., 0] <= width) & (after[..., 1] <= height)
        return after, within & (moved[..., 2] > 0.5)


def sample(field: np.ndarray, points: Float32[np.ndarray, "*n 2"]) -> np.ndarray:
    """Bilinear samples of an image at continuous pixel coordinates (centres at .5); border values are held."""
    flat = points.reshape(-1, 2).astype(np.float32) - np.float32(0.5)
    width = min(len(flat), 4096)
    rows = -(-max(len(flat), 1) // max(width, 1))
    padded = np.zeros((rows * max(width, 1), 2), dtype=np.float32)
    padded[: len(flat)] = flat
    grid = padded.reshape(rows, max(width, 1), 2)
    source = field.astype(np.float32) if field.dtype == np.float16 else field
    out = cv2.remap(source, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return out.reshape(rows * max(width, 1), *field.shape[2:])[: len(flat)].reshape(*points.shape[:-1], *field.shape[2:])


def working_size(size: Size) -> Size:
    """Size that flow is computed at: the short side at most 480."""
    scale = min(1.0, WORKING_SHORT_SIDE / min(size))
    return max(16, round(size[0] * scale)), max(16, round(size[1] * scale))


def neighbour_flow(clip: Clip) -> NeighbourFlow:
    """Flow between all neighbouring frames in both directions."""
    size = working_size(clip.size)
    stored = (len(clip) - 1, size[0] // STORED_STRIDE, size[1] // STORED_STRIDE, 3)
    forward, backward = np.empty(stored, np.float16), np.empty(stored, np.float16)
    grey = np.stack([_grey_frame(clip, index) for index in range(len(clip))])
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for step in progress(range(len(clip) - 1), "dense flow", len(clip) - 1):
        there = _halve(solver.calc(grey[step], grey[step + 1], None))  # pyrefly: ignore
        back = _halve(solver.calc(grey[step + 1], grey[step], None))  # pyrefly: ignore
        forward[step], backward[step] = _with_trust(there, back), _with_trust(back, there)
    return NeighbourFlow(size=size, grey=grey, forward=forward, backward=backward)


def follow(
    flow: NeighbourFlow, query_frame: int, query_points: Float32[np.ndarray, "N 2"], frames: range
) -> tuple[Float32[np.ndarray, "T N 2"], Bool[np.ndarray, "T N"]]:
    """Chain flow from points of one frame through ``frames``; positions are meaningless (but finite) where not visible.

    Chained flow drifts, and sticks to what passes in front. So every few frames the patch around each point is matched to
    where the track last was sure of itself, and to the query's own patch where that still looks alike: the difference is
    spread over the frames between, and a track that matches neither ends.
    """
    points = np.zeros((len(frames), len(query_points), 2), np.float32)
    visible = np.zeros((len(frames), len(query_points)), bool)
    start = query_frame - frames.start
    points[start], visible[start] = query_points, True
    for direction, stop in ((1, len(frames)), (-1, -1)):
        sure = start
        for here in range(start + direction, stop, direction):
            before = here - direction
            alive = np.flatnonzero(visible[before])
            if not len(alive):
                break
            after, trusted = flow.step(frames[before], direction, points[before, alive])
            points[here, alive], visible[here, alive] = after, trusted
            if abs(here - sure) == REFRESH_FRAMES or here + direction == stop:
                _refresh(flow, frames, points, visible, start, sure, here)
                sure = here
    return points, visible


def _refresh(flow: NeighbourFlow, frames: range, points: np.ndarray, visible: np.ndarray, query: int, sure: int, here: int) -> None:
    alive = np.flatnonzero(visible[here])
    if not len(alive):
        return
    image, guess = flow.grey[frames[here]], points[here, alive]
    matched, good = _match(flow.grey[frames[sure]], image, points[sure, alive], guess)
    if sure != query:
        to_query, alike = _match(flow.grey[frames[query]], image, points[query, alive], np.where(good[:, None], matched, guess))
        matched = np.where(alike[:, None], to_query, matched)
        good |= alike
    lost = alive[~good]
    direction = 1 if here > sure else -1
    steps = abs(here - sure)
    for step in range(1, steps + 1):
        row = sure + direction * step
        points[row, alive] += np.where(good[:, None], (matched - guess) * (step / steps), 0).astype(np.float32)
        if step > steps // 2:
            visible[row, lost] = False


def _match(
    template: UInt8[np.ndarray, "H W"], image: UInt8[np.ndarray, "H W"], at: np.ndarray, guess: np.ndarray
) -> tuple[Float32[np.ndarray, "n 2"], Bool[np.ndarray, "n"]]:
    """Lucas-Kanade from a good guess, and whether it moved little and the patches look alike.

    Where a patch has too little texture to be matched, the guess stands if the patches look alike there.
    """
    half = np.float32(0.5)
    found, status, error = cv2.calcOpticalFlowPyrLK(
        template,
        image,
        (at - half).astype(np.float32)[:, None],
        (guess - half).astype(np.float32)[:, None].copy(),
        winSize=PATCH,
        maxLevel=1,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    found = found[:, 0] + half
    good = (status[:, 0] == 1) & (np.linalg.norm(found - guess, axis=-1) < REFRESH_PIXELS) & (error[:, 0] < PATCH_ERROR)
    plain = np.flatnonzero(status[:, 0] == 0)
    if len(plain):
        found[plain] = guess[plain]
        offsets = np.stack(np.meshgrid([-4, 0, 4], [-4, 0, 4]), axis=-1).reshape(1, -1, 2).astype(np.float32)
        before, after = sample(template, at[plain, None] + offsets), sample(image, guess[plain, None] + offsets)
        good[plain] = np.abs(before.astype(np.float32) - after).mean(axis=1) < PATCH_ERROR
    return found, good


def shot_changes(flow: NeighbourFlow) -> list[int]:
    """Frames that begin a new shot: hardly any flow can be trusted across the cut, unlike around it, and nothing looks alike."""
    trusted = flow.forward[..., 2].mean((1, 2), dtype=np.float32)
    cuts = []
    for step in np.flatnonzero(trusted < CUT_TRUST):
        around = np.concatenate([trusted[max(0, step - 3) : step], trusted[step + 1 : step + 4]])
        small = [cv2.resize(flow.grey[index], (32, 24), interpolation=cv2.INTER_AREA).ravel() for index in (step, step + 1)]
        alike = np.corrcoef(small[0], small[1])[0, 1] if min(np.ptp(each) for each in small) else 0.0
        if (not len(around) or np.median(around) > 2 * CUT_TRUST) and alike < CUT_LIKENESS:
            cuts.append(int(step) + 1)
    return cuts


def _halve(field: Float32[np.ndarray, "H W 2"]) -> Float32[np.ndarray, "h w 2"]:
    height, width = field.shape[0] // STORED_STRIDE, field.shape[1] // STORED_STRIDE
    return cv2.resize(field[: height * STORED_STRIDE, : width * STORED_STRIDE], (width, height), interpolation=cv2.INTER_AREA)


def _with_trust(there: Float32[np.ndarray, "h w 2"], back: Float32[np.ndarray, "h w 2"]) -> Float16[np.ndarray, "h w 3"]:
    height, width = there.shape[:2]
    v, u = np.mgrid[:height, :width].astype(np.float32)
    returned = cv2.remap(
        back, u + there[..., 0] / STORED_STRIDE, v + there[..., 1] / STORED_STRIDE, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    error = np.linalg.norm(there + returned, axis=-1)
    allowed = ROUND_TRIP_PIXELS + 0.02 * np.linalg.norm(there, axis=-1)
    return np.concatenate([there, (error < allowed)[..., None]], axis=-1).astype(np.float16)


def _grey_frame(clip: Clip, index: int) -> UInt8[np.ndarray, "H W"]:
    """A frame at the working size, as luminance."""
    grey = cv2.cvtColor(clip.image(index), cv2.COLOR_RGB2GRAY)
    height, width = working_size(clip.size)
    return grey if grey.shape == (height, width) else cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
