"""Depth of things that move on their own: from the still ground under their feet (design section 9, step 4).

One camera cannot tell how far a freely moving point is. But most moving things stand on something still, whose depth is
known: tracks are grouped by where they are and how they move, and each group takes the depth of the ground at its lowest point.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.ndimage import gaussian_filter1d, percentile_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from scipy.stats import siegelslopes

SAMPLED_FRAMES = 16
NEIGHBOURS = 8
LINK_DISTANCE = 0.07
LINK_DRIFT = 0.03
LINK_FRAMES = 24
MIN_SHARED = 3
LINK_BATCH = 5000
MIN_GROUP = 4
MIN_GROUND = 8
MAX_GROUND = 200
FOOT_PERCENTILE = 99.7
FOOT_MARGIN = 0.02
PAIRINGS = 8
MIN_APART = 0.01
NEARER_PERCENTILE = 70
NEARER_FRAMES = 61
SMOOTHING_FRAMES = 8.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTracks:
    """Tracks in the image, in units of its longer side, from its middle."""

    points: Float32[np.ndarray, "T N 2"]
    visible: Bool[np.ndarray, "T N"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """Still points that one frame shows, in the units of :class:`ImageTracks`, and their inverse depth."""

    points: Float32[np.ndarray, "M 2"]
    disparity: Float32[np.ndarray, "M"]


def group(tracks: ImageTracks) -> Int64[np.ndarray, "N"]:
    """Label of the rigid-looking group each track belongs to, -1 for strays."""
    frames, count = tracks.visible.shape
    first, second = [np.zeros(0, int)], [np.zeros(0, int)]
    for frame in np.unique(np.linspace(0, frames - 1, SAMPLED_FRAMES).astype(int)):
        alive = np.flatnonzero(tracks.visible[frame])
        if len(alive) <= 1:
            continue
        near, other = KDTree(tracks.points[frame, alive]).query(
            tracks.points[frame, alive], k=min(NEIGHBOURS + 1, len(alive)), distance_upper_bound=LINK_DISTANCE
        )
        row, column = np.nonzero(np.isfinite(near[:, 1:]))
        first.append(alive[row])
        second.append(alive[other[row, column + 1]])
    a, b = np.concatenate(first), np.concatenate(second)
    linked = np.zeros(len(a), bool)
    for begin in range(0, len(a), LINK_BATCH):
        piece = slice(begin, begin + LINK_BATCH)
        both = tracks.visible[:, a[piece]] & tracks.visible[:, b[piece]]
        gap = np.where(both[..., None], tracks.points[:, a[piece]] - tracks.points[:, b[piece]], np.nan)
        with np.errstate(invalid="ignore"):
            drift = np.linalg.norm(np.nanmax(gap, axis=0, initial=-9.0) - np.nanmin(gap, axis=0, initial=9.0), axis=-1)
        linked[piece] = drift < LINK_DRIFT * np.minimum(both.sum(0) / LINK_FRAMES, 1.0)
    links = coo_array((np.ones(linked.sum(), np.float32), (a[linked], b[linked])), shape=(count, count)).tocsr()
    links = ((links + links.T) > 0).astype(np.float32)
    shared = links.multiply(links @ links)
    shared.data = np.where(shared.data >= MIN_SHARED, shared.data, 0)
    shared.eliminate_zeros()
    _, label = connected_components(shared, directed=False)
    sizes = np.bincount(label, minlength=1)
    return np.where(sizes[label] >= MIN_GROUP, label, -1).astype(np.int64)


def disparity_from_ground(
    moving: ImageTracks, label: Int64[np.ndarray, "N"], ground: list[Ground], bottom: float
) -> Float64[np.ndarray, "T N"]:
    """Inverse depth of every moving track at every frame its group is seen in (held before and after).

    The ground under a group's foot says how near it is, where the foot is above the image's ``bottom``; how the group grows
    and shrinks in the image says how that changes, also while its foot is out of sight or off the ground.
    """
    frames, count = moving.visible.shape
    out = np.empty((frames, count))
    known_anywhere = np.concatenate([each.disparity for each in ground])
    typical = float(np.median(known_anywhere)) if len(known_anywhere) else 1.0
    for each in np.unique(label):
        members = np.flatnonzero(label == each)
        if each < 0:
            out[:, members] = _neighbours(moving, members, ground)
            continue
        visible = moving.visible[:, members]
        known, cut = np.full(frames, np.nan), np.zeros(frames, bool)
        for frame in np.flatnonzero(visible.sum(1) >= min(3, len(members))):
            points = moving.points[frame, members[visible[frame]]]
            known[frame] = _under(points, ground[frame])
            cut[frame] = np.percentile(points[:, 1], FOOT_PERCENTILE) > bottom - FOOT_MARGIN
        if np.isfinite(known[~cut]).any():
            known[cut] = np.nan
        size = _growth(moving.points[:, members], visible)
        out[:, members] = (size * _smooth(known / size, fallback=typical))[:, None]
    return out


def _growth(points: Float32[np.ndarray, "T n 2"], visible: Bool[np.ndarray, "T n"]) -> Float64[np.ndarray, "T"]:
    """Size of a group in the image relative to frame 0: of distances between its points, frame to frame, the median ratio."""
    step = np.zeros(len(points))
    for frame in range(1, len(points)):
        both = np.flatnonzero(visible[frame] & visible[frame - 1])
        if len(both) < MIN_GROUP:
            continue
        ratios = []
        for shift in range(1, 1 + min(PAIRINGS, len(both) // 2)):
            other = np.roll(both, shift * len(both) // (2 * PAIRINGS) + 1)
            before = np.linalg.norm(points[frame - 1, both] - points[frame - 1, other], axis=-1)
            after = np.linalg.norm(points[frame, both] - points[frame, other], axis=-1)
            apart = before > MIN_APART
            ratios.append(np.log(np.maximum(after[apart], MIN_APART) / before[apart]))
        ratio = np.concatenate(ratios)
        step[frame] = np.median(ratio) if len(ratio) else 0.0
    return np.exp(np.cumsum(step))


def carry(
    position: Float32[np.ndarray, "T N 3"], visible: Bool[np.ndarray, "T N"], label: Int64[np.ndarray, "N"]
) -> Float32[np.ndarray, "T N 3"]:
    """Positions in unseen frames: tracks go on as their group does, in step with its median displacement."""
    out = position.copy()
    for each in np.unique(label):
        members = np.flatnonzero(label == each)
        both = visible[1:, members] & visible[:-1, members]
        step = np.where(both[..., None], np.diff(position[:, members], axis=0), np.nan)
        moved = np.zeros((len(position), 3))
        some = both.any(1)
        moved[1:][some] = np.nanmedian(step[some], axis=1)
        path = np.cumsum(moved, axis=0)
        for member in members:
            seen = np.flatnonzero(visible[:, member])
            nearest = seen[np.abs(np.arange(len(position))[:, None] - seen).argmin(1)]
            out[:, member] = position[nearest, member] + path - path[nearest]
    return out


def _under(points: Float32[np.ndarray, "n 2"], ground: Ground) -> float:
    """Disparity of the still ground at the lowest point of a group; NaN where nothing still is near."""
    foot = np.percentile(points[:, 1], FOOT_PERCENTILE)
    lowest = points[points[:, 1] >= np.percentile(points[:, 1], 75)]
    middle, reach = float(np.median(lowest[:, 0])), max(0.06, 0.6 * float(np.ptp(points[:, 0])))
    still = ground.points
    below = (still[:, 1] > foot - 0.01) & (still[:, 1] < foot + 0.10) & (np.abs(still[:, 0] - middle) < reach)
    row, disparity = still[below, 1], ground.disparity[below]
    if len(row) < MIN_GROUND:
        return np.nan
    thinned = slice(None, None, -(-len(row) // MAX_GROUND))
    _, value = siegelslopes(disparity[thinned], row[thinned] - foot)
    return float(np.clip(value, *np.percentile(disparity, [5, 95])))


def _neighbours(moving: ImageTracks, members: Int64[np.ndarray, "n"], ground: list[Ground]) -> Float64[np.ndarray, "T n"]:
    """For strays: the median of the nearest still points, over all frames they were seen in."""
    out = np.ones((len(moving.points), len(members)))
    found = np.full(out.shape, np.nan)
    for frame in range(len(moving.points)):
        here = ground[frame]
        chosen = np.flatnonzero(moving.visible[frame, members])
        if len(here.points) and len(chosen):
            _, near = KDTree(here.points).query(moving.points[frame, members[chosen]], k=min(5, len(here.points)))
            found[frame, chosen] = np.median(here.disparity[near.reshape(len(chosen), -1)], axis=1)
    some = np.isfinite(found).any(0)
    out[:, some] = np.nanmedian(found[:, some], axis=0)
    return out


def _smooth(known: Float64[np.ndarray, "T"], fallback: float) -> Float64[np.ndarray, "T"]:
    """Fill gaps, and lean to the nearer: a thing in the air shows ground behind it, never before it."""
    have = np.flatnonzero(np.isfinite(known))
    if not len(have):
        return np.full(len(known), fallback)
    filled = np.interp(np.arange(len(known)), have, known[have])
    nearer = percentile_filter(filled, NEARER_PERCENTILE, size=min(NEARER_FRAMES, 2 * (len(known) // 2) + 1), mode="nearest")
    return gaussian_filter1d(nearer, SMOOTHING_FRAMES, mode="nearest")
