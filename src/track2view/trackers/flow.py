"""Dense optical flow between neighbouring frames, and chains of it: OpenCV's DIS, checked forwards and backwards."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Float64, UInt8

from track2view.progress import progress
from track2view.records import Clip, Size
from track2view.trackers.flashes import flashes

WORKING_SHORT_SIDE = 480
STORED_STRIDE = 2
ROUND_TRIP_PIXELS = 1.0
REFRESH_FRAMES = 6
REFRESH_PIXELS = 3.0
WINDOW = 13
EDGE_WINDOW = 7
PATCH_SIDE = 19
SHEET_COLUMNS = 256
STRETCH_ARM = 6.0
STRETCH_ARMS = np.array([[STRETCH_ARM, 0], [-STRETCH_ARM, 0], [0, STRETCH_ARM], [0, -STRETCH_ARM]], np.float32)
MAX_STRETCH = 2.0
PATCH_ERROR = 12.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourFlow:
    """Flow between all neighbouring frames, stored at half the working size, which is the size DIS solves at.

    Attributes:
        size: (H, W) of the working images; flow is in their pixels.
        grey: the working images; of a flash, what was there without it.
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
    for before, after in flashes(grey):
        grey[before + 1 : after] = _between(grey[before], grey[after], after - before, solver)
    for step in progress(range(len(clip) - 1), "dense flow", len(clip) - 1):
        there = _halve(solver.calc(grey[step], grey[step + 1], None))  # pyrefly: ignore
        back = _halve(solver.calc(grey[step + 1], grey[step], None))  # pyrefly: ignore
        forward[step], backward[step] = _with_trust(there, back), _with_trust(back, there)
    return NeighbourFlow(size=size, grey=grey, forward=forward, backward=backward)


def follow(
    flow: NeighbourFlow, query_frame: int, query_points: Float32[np.ndarray, "N 2"], frames: range, smaller_window: int | None = None
) -> tuple[Float32[np.ndarray, "T N 2"], Bool[np.ndarray, "T N"]]:
    """Chain flow from points of one frame through ``frames``; positions are meaningless (but finite) where not visible.

    Chained flow drifts, and sticks to what passes in front. So every few frames the patch around each point is matched to
    where the track last was sure of itself, and to the query's own patch where that still looks alike, both stretched as
    the flow around the point stretched: the difference is spread over the frames between, and a track that matches
    neither ends.

    Args:
        smaller_window: side, in pixels, of a window in which a track is matched once more before it ends. The edge of a thing
            may cross the full window: more tracks live beside edges so, some of them on the wrong side, which a camera that is
            still to be found does not stand (``arc 0 dynamic`` in docs/benchmarks.md).
    """
    points = np.zeros((len(frames), len(query_points), 2), np.float32)
    visible = np.zeros((len(frames), len(query_points)), bool)
    query = query_frame - frames.start
    points[query], visible[query] = query_points, True
    for direction, stop in ((1, len(frames)), (-1, -1)):
        sure, stretch = query, np.tile(np.eye(2, dtype=np.float32), (len(query_points), 1, 1))
        around = query_points[:, None] + STRETCH_ARMS
        for here in range(query + direction, stop, direction):
            before = here - direction
            alive = np.flatnonzero(visible[before])
            if not len(alive):
                break
            after, trusted = flow.step(frames[before], direction, points[before, alive])
            points[here, alive], visible[here, alive] = after, trusted
            around[alive], _ = flow.step(frames[before], direction, around[alive])
            if abs(here - sure) == REFRESH_FRAMES or here + direction == stop:
                since_sure = np.stack([around[:, 0] - around[:, 1], around[:, 2] - around[:, 3]], axis=-1) / (2 * STRETCH_ARM)
                _refresh(flow, frames, points, visible, (query, sure, here), since_sure, since_sure @ stretch, smaller_window)
                sure, stretch = here, since_sure @ stretch
                around = points[here, :, None] + STRETCH_ARMS
    return points, visible


def _refresh(
    flow: NeighbourFlow,
    frames: range,
    points: Float32[np.ndarray, "T N 2"],
    visible: Bool[np.ndarray, "T N"],
    rows: tuple[int, int, int],
    since_sure: Float32[np.ndarray, "N 2 2"],
    since_query: Float32[np.ndarray, "N 2 2"],
    smaller_window: int | None,
) -> None:
    """Correct tracks, in place, between the rows of the query, the last sure frame, and the present one."""
    query, sure, here = rows
    alive = np.flatnonzero(visible[here])
    if not len(alive):
        return
    image, guess = flow.grey[frames[here]], points[here, alive]
    matched, good = match(flow.grey[frames[sure]], image, points[sure, alive], guess, since_sure[alive])
    if sure != query:
        better = np.where(good[:, None], matched, guess)
        to_query, alike = match(flow.grey[frames[query]], image, points[query, alive], better, since_query[alive])
        matched = np.where(alike[:, None], to_query, matched)
        good |= alike
    left = np.flatnonzero(~good)
    if smaller_window is not None and len(left):
        begun, turned = points[sure, alive[left]], since_sure[alive[left]]
        matched[left], good[left] = match(flow.grey[frames[sure]], image, begun, guess[left], turned, smaller_window)
    lost = alive[~good]
    direction = 1 if here > sure else -1
    steps = abs(here - sure)
    for step in range(1, steps + 1):
        row = sure + direction * step
        points[row, alive] += np.where(good[:, None], (matched - guess) * (step / steps), 0).astype(np.float32)
        if step > steps // 2:
            visible[row, lost] = False


def match(
    template: UInt8[np.ndarray, "H W"],
    image: UInt8[np.ndarray, "H W"],
    at: Float32[np.ndarray, "n 2"],
    guess: Float32[np.ndarray, "n 2"],
    stretch: Float32[np.ndarray, "n 2 2"],
    window: int = WINDOW,
) -> tuple[Float32[np.ndarray, "n 2"], Bool[np.ndarray, "n"]]:
    """Lucas-Kanade from a good guess, and whether it moved little and the patches look alike.

    Template patches are stretched (``image_from_template``, a 2×2 matrix each) before they are compared. All patches are
    laid out side by side in two sheets, so that one call matches them all; of each, a ``window`` (its side, in pixels) is
    compared. Where a patch has too little texture to be matched, the guess stands if the patches look alike there.
    """
    lengths = np.linalg.svd(stretch, compute_uv=False)
    tame = ((lengths[:, 0] < MAX_STRETCH) & (lengths[:, 1] > 1 / MAX_STRETCH))[:, None, None]
    template_from_image = np.linalg.inv(np.where(tame, stretch, np.eye(2)))
    base = np.floor(guess)
    fraction = guess - base - np.float32(0.5)
    before = _sheet(template, at - (template_from_image @ fraction[..., None])[..., 0], template_from_image)
    after = _sheet(image, base + np.float32(0.5), np.tile(np.eye(2), (len(at), 1, 1)))
    corner = np.stack(np.divmod(np.arange(len(at)), SHEET_COLUMNS)[::-1], axis=-1) * PATCH_SIDE
    start = (corner + PATCH_SIDE // 2 + fraction).astype(np.float32)[:, None]
    found, status, error = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        start,
        start.copy(),
        winSize=(window, window),
        maxLevel=0,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01),
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    shift = found[:, 0] - start[:, 0]
    good = (status[:, 0] == 1) & (np.linalg.norm(shift, axis=-1) < REFRESH_PIXELS) & (error[:, 0] < PATCH_ERROR)
    plain = np.flatnonzero(status[:, 0] == 0)
    if len(plain):
        shift[plain] = 0
        offsets = np.stack(np.meshgrid([-4, 0, 4], [-4, 0, 4]), axis=-1).reshape(1, -1, 2).astype(np.float32)
        was, now = sample(template, at[plain, None] + offsets), sample(image, guess[plain, None] + offsets)
        good[plain] = np.abs(was.astype(np.float32) - now).mean(axis=1) < PATCH_ERROR
    return guess + shift, good


def _sheet(
    image: UInt8[np.ndarray, "H W"], middle: Float[np.ndarray, "n 2"], image_from_patch: Float64[np.ndarray, "n 2 2"]
) -> UInt8[np.ndarray, "S s"]:
    """Square patches around points, sampled bilinearly, side by side in one picture."""
    rows = -(-len(middle) // SHEET_COLUMNS)
    where = np.zeros((rows * SHEET_COLUMNS, 2, 3), np.float32)
    where[: len(middle)] = np.concatenate([image_from_patch, middle[..., None] - 0.5], axis=-1)
    across, down, offset = where.reshape(rows, 1, SHEET_COLUMNS, 1, 2, 3).transpose(5, 4, 0, 1, 2, 3)
    step = np.arange(PATCH_SIDE, dtype=np.float32) - PATCH_SIDE // 2
    side = (rows * PATCH_SIDE, SHEET_COLUMNS * PATCH_SIDE)
    u, v = (across[axis] * step + (down[axis] * step[:, None, None] + offset[axis]) for axis in (0, 1))
    return cv2.remap(image, u.reshape(side), v.reshape(side), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _between(
    first: UInt8[np.ndarray, "H W"], last: UInt8[np.ndarray, "H W"], steps: int, solver: cv2.DISOpticalFlow
) -> list[UInt8[np.ndarray, "H W"]]:
    """Pictures between two that are so many frames apart, each its share of the way along the flow between them."""
    height, width = first.shape
    column, row = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    back = solver.calc(last, first, None)  # pyrefly: ignore
    found = []
    for step in range(1, steps):
        share = np.float32(step / steps)
        moved = cv2.remap(
            first, column + share * back[..., 0], row + share * back[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        found.append(moved)
    return found


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
