"""Depth of things that move on their own: from the still ground under their feet (design section 9, step 4).

One camera cannot tell how far a freely moving point is. But most moving things stand on something still, whose depth is
known: tracks are grouped by where they are and how they move, each group's shape and motion are solved up to its size, and the
ground at its lowest point gives the size.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.ndimage import gaussian_filter1d, percentile_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from scipy.stats import siegelslopes

from track2view.trackers.rigid import RigidThing, rigid_thing

SAMPLED_FRAMES = 16
NEIGHBOURS = 8
LINK_DISTANCE = 0.07
LINK_DRIFT = 0.03
LINK_FRAMES = 24
MIN_SHARED = 3
LINK_BATCH = 5000
SAMPLED_MEMBERS = 30
MIN_GROUP = 4
MIN_GROUND = 8
MAX_GROUND = 200
FOOT_PERCENTILE = 99.7
FOOT_MARGIN = 0.02
LOWEST_PERCENTILE = 95
FOOT_BELOW, BESIDE_FOOT = 0.01, 0.06
PAIRINGS = 8
MIN_APART = 0.01
BESIDE, BESIDE_SHARE, STRAY_SHARE = 0.03, 0.95, 0.8
UPRIGHT = 2.0
NEARER_PERCENTILE = 90
NEARER_FRAMES = 61
SMOOTHING_FRAMES = 8.0
GROUNDED_DEVIATION, UNGROUNDED_DEVIATION = 0.1, 0.85
"""Of the depth of what moves, in terms of it: where the ground under its foot tells it, and where nothing does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTracks:
    """Tracks in the image, in units of its longer side, from its middle."""

    points: Float32[np.ndarray, "T N 2"]
    visible: Bool[np.ndarray, "T N"]

    def only(self, keep: Bool[np.ndarray, "N"]) -> "ImageTracks":
        """Some of the tracks."""
        return ImageTracks(points=self.points[:, keep], visible=self.visible[:, keep])


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """Still points that one frame shows, in the units of :class:`ImageTracks`, and their inverse depth."""

    points: Float32[np.ndarray, "M 2"]
    disparity: Float32[np.ndarray, "M"]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The camera that :class:`ImageTracks` come from.

    Attributes:
        focal: focal length in the units of tracks.
        bottom: the image's lowest row.
        pixels: how many pixels of the tracker's working picture make one unit.
    """

    focal: float
    bottom: float
    pixels: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Moving tracks in space, as image points and inverse depths.

    Attributes:
        points: where tracked or, where unseen, where the thing they belong to says.
        known: points that are one or the other.
        grounded: tracks of things whose depth the ground tells, at some frame at least.
    """

    points: Float32[np.ndarray, "T N 2"]
    disparity: Float64[np.ndarray, "T N"]
    known: Bool[np.ndarray, "T N"]
    grounded: Bool[np.ndarray, "N"]


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
    linked = _go_together(tracks, a, b)
    links = coo_array((np.ones(linked.sum(), np.float32), (a[linked], b[linked])), shape=(count, count)).tocsr()
    links = ((links + links.T) > 0).astype(np.float32)
    shared = links.multiply(links @ links)
    shared.data = np.where(shared.data >= MIN_SHARED, shared.data, 0)
    shared.eliminate_zeros()
    _, label = connected_components(shared, directed=False)
    sizes = np.bincount(label, minlength=1)
    return _rejoined(tracks, np.where(sizes[label] >= MIN_GROUP, label, -1).astype(np.int64))


def movers(tracks: ImageTracks, label: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """Label of the thing that each track is a part of: groups that stay beside each other, as limbs do; -1 for strays.

    What passes before another is beside it for a while only.
    """
    frames = np.unique(np.linspace(0, len(tracks.points) - 1, SAMPLED_FRAMES).astype(int))
    groups = np.unique(label[label >= 0])
    both, beside = np.zeros((len(groups), len(groups))), np.zeros((len(groups), len(groups)))
    for frame in frames:
        trees = [tracks.points[frame, (label == each) & tracks.visible[frame]] for each in groups]
        for one in range(len(groups)):
            for other in range(one + 1, len(groups)):
                if len(trees[one]) and len(trees[other]):
                    apart, _ = KDTree(trees[one]).query(trees[other])
                    both[one, other] += 1
                    beside[one, other] += apart.min() < BESIDE
    together = (both > 0) & (beside >= BESIDE_SHARE * np.maximum(both, MIN_SHARED))
    _, part = connected_components(coo_array(together), directed=False)
    out = np.full(len(label), -1, np.int64)
    known = label >= 0
    out[known] = part[np.searchsorted(groups, label[known])]
    strays, grouped = np.flatnonzero(~known), np.flatnonzero(known)
    votes = np.zeros((len(strays), out.max(initial=0) + 1), int)
    for frame in frames:
        mine, others = np.flatnonzero(tracks.visible[frame, strays]), grouped[tracks.visible[frame, grouped]]
        if len(mine) and len(others):
            apart, near = KDTree(tracks.points[frame, others]).query(tracks.points[frame, strays[mine]])
            np.add.at(votes, (mine[apart < BESIDE], out[others[near[apart < BESIDE]]]), 1)
    seen = tracks.visible[frames][:, strays].sum(0)
    joins = votes.max(1, initial=0) >= STRAY_SHARE * np.maximum(seen, 1)
    out[strays[joins]] = votes[joins].argmax(1)
    return out


def _go_together(tracks: ImageTracks, a: Int64[np.ndarray, "L"], b: Int64[np.ndarray, "L"]) -> Bool[np.ndarray, "L"]:
    """Whether two tracks hold their distance in the image while both are seen; less drift is allowed in less time."""
    together = np.zeros(len(a), bool)
    for begin in range(0, len(a), LINK_BATCH):
        piece = slice(begin, begin + LINK_BATCH)
        both = tracks.visible[:, a[piece]] & tracks.visible[:, b[piece]]
        gap = np.where(both[..., None], tracks.points[:, a[piece]] - tracks.points[:, b[piece]], np.nan)
        with np.errstate(invalid="ignore"):
            drift = np.linalg.norm(np.nanmax(gap, axis=0, initial=-9.0) - np.nanmin(gap, axis=0, initial=9.0), axis=-1)
        together[piece] = drift < LINK_DRIFT * np.minimum(both.sum(0) / LINK_FRAMES, 1.0)
    return together


def _rejoined(tracks: ImageTracks, label: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """Splinters put back: a group most of whose tracks go together with a larger one beside them is a part of it.

    Tracks that start at one place in several frames are each other's nearest neighbours, and can shut themselves off.
    """
    label = label.copy()
    for each in sorted(np.unique(label[label >= 0]), key=lambda group: -(label == group).sum()):
        members = np.flatnonzero(label == each)
        sizes = np.bincount(label[label >= 0], minlength=label.max() + 1)
        larger = (label >= 0) & (sizes[label] > len(members))
        votes = []
        for member in members[np.linspace(0, len(members) - 1, min(SAMPLED_MEMBERS, len(members))).astype(int)]:
            seen = np.flatnonzero(tracks.visible[:, member])
            frame = seen[len(seen) // 2]
            others = np.flatnonzero(larger & tracks.visible[frame])
            apart = np.linalg.norm(tracks.points[frame, others] - tracks.points[frame, member], axis=-1)
            near = others[np.argsort(apart)[:NEIGHBOURS]]
            near = near[np.sort(apart)[:NEIGHBOURS] < LINK_DISTANCE]
            with_it = near[_go_together(tracks, np.full(len(near), member), near)]
            votes.append(label[with_it[0]] if 2 * len(with_it) > len(near) else -1)
        joined, count = np.unique(votes, return_counts=True)
        if joined[count.argmax()] >= 0 and 2 * count.max() > len(votes):
            label[members] = joined[count.argmax()]
    return label


def place(moving: ImageTracks, label: Int64[np.ndarray, "N"], mover: Int64[np.ndarray, "N"], ground: list[Ground], view: View) -> Placed:
    """Where every moving track is at every frame its group is seen in (held before and after).

    How the points of a group lie to each other, and how the whole comes nearer, is solved as a rigid thing's where it moves as
    one; else the group is flat, and its growth in the image says how near it comes. The ground under its foot, where that is
    above the image's bottom, gives the one length that is still open; unless that varies less if the thing does not come nearer.
    """
    frames, count = moving.visible.shape
    placed = Placed(
        points=moving.points.copy(),
        disparity=np.empty((frames, count)),
        known=moving.visible.copy(),
        grounded=np.zeros(count, bool),
    )
    known_anywhere = np.concatenate([each.disparity for each in ground])
    typical = float(np.median(known_anywhere)) if len(known_anywhere) else 1.0
    for each in np.unique(mover[mover >= 0]):
        members = np.flatnonzero(mover == each)
        points, visible = moving.points[:, members], moving.visible[:, members]
        whole = len(np.unique(label[members][label[members] >= 0])) == 1
        thing = rigid_thing(points * view.pixels, visible, view.focal * view.pixels) if whole else None
        if thing is None:
            relative = np.repeat(_growth(points, visible)[:, None], len(members), axis=1)
        else:
            relative = _bounded(_relative_disparity(thing, points, visible), points, visible, view.focal)
            span = slice(thing.begin, thing.begin + len(thing.in_camera))
            unseen = np.zeros_like(visible)
            unseen[span, thing.agrees] = ~visible[span, thing.agrees]
            projected = view.focal * thing.in_camera[..., :2] / np.maximum(thing.in_camera[..., 2:], 1e-6)
            spot = np.zeros_like(points)
            spot[span] = projected
            placed.points[:, members] = np.where(unseen[..., None], spot, points)
            placed.known[:, members] |= unseen
        size = np.full(frames, np.nan)
        cut = np.zeros(frames, bool)
        for frame in np.flatnonzero(visible.sum(1) >= min(3, len(members))):
            shown = visible[frame]
            size[frame], foot = _size(points[frame, shown], relative[frame, shown], ground[frame])
            cut[frame] = foot > view.bottom - FOOT_MARGIN
        if np.isfinite(size[~cut]).any():
            size[cut] = np.nan
        placed.grounded[members] = np.isfinite(size).any()
        level = np.median(relative, axis=1)
        stays = _steadier(size * level, size)
        if stays:
            size, relative = size * level, relative / level[:, None]
        placed.disparity[:, members] = relative * _smooth(size, fallback=typical, whole=thing is not None and not stays)[:, None]
    placed.disparity[:, mover < 0] = _neighbours(moving, mover, placed.disparity, ground)
    return placed


def _relative_disparity(
    thing: RigidThing, points: Float32[np.ndarray, "T n 2"], visible: Bool[np.ndarray, "T n"]
) -> Float64[np.ndarray, "T n"]:
    """Inverse depth in the thing's own unit; of tracks that do not agree with it, their neighbours'; held before and after."""
    out = np.full(visible.shape, np.nan)
    out[thing.begin : thing.begin + len(thing.in_camera), thing.agrees] = 1 / thing.in_camera[:, thing.agrees, 2]
    others = np.flatnonzero(~thing.agrees)
    for frame in range(thing.begin, thing.begin + len(thing.in_camera)):
        shown = np.flatnonzero(visible[frame] & thing.agrees)
        known = shown if len(shown) else np.flatnonzero(thing.agrees)
        _, near = KDTree(points[frame, known]).query(points[frame, others], k=min(3, len(known)))
        out[frame, others] = np.median(out[frame, known[near.reshape(-1, min(3, len(known)))]], axis=1)
    last = thing.begin + len(thing.in_camera) - 1
    out[: thing.begin], out[last + 1 :] = out[thing.begin], out[last]
    return out


def _bounded(
    relative: Float64[np.ndarray, "T n"], points: Float32[np.ndarray, "T n 2"], visible: Bool[np.ndarray, "T n"], focal: float
) -> Float64[np.ndarray, "T n"]:
    """Relief no deeper than the thing is wide or, if that is less, high."""
    out = relative.copy()
    for frame in np.flatnonzero(visible.any(1)):
        shown = points[frame, visible[frame]]
        half = 0.5 * (np.percentile(shown, 95, axis=0) - np.percentile(shown, 5, axis=0)).min() / focal
        middle = np.median(relative[frame, visible[frame]])
        out[frame] = np.clip(relative[frame], middle / (1 + half), middle * (1 + half))
    return out


def _steadier(one: Float64[np.ndarray, "T"], other: Float64[np.ndarray, "T"]) -> bool:
    """Whether one of two measurements of what should be constant varies less than the other; so it is where nothing is known."""
    spread = [np.nanstd(np.log(np.where(each > 0, each, np.nan))) if np.isfinite(each).sum() > 1 else 0.0 for each in (one, other)]
    return bool(spread[0] <= spread[1])


def _size(points: Float32[np.ndarray, "n 2"], relative: Float64[np.ndarray, "n"], ground: Ground) -> tuple[float, float]:
    """Disparity of the ground under a group's foot in terms of the foot's relative one (NaN where none is near), and its row."""
    foot = float(np.percentile(points[:, 1], FOOT_PERCENTILE))
    at_foot = points[:, 1] >= np.percentile(points[:, 1], LOWEST_PERCENTILE)
    return _under(points, foot, ground) / float(np.median(relative[at_foot])), foot


def _growth(points: Float32[np.ndarray, "T n 2"], visible: Bool[np.ndarray, "T n"]) -> Float64[np.ndarray, "T"]:
    """Size of a group in the image relative to frame 0: of heights between its points, frame to frame, the median ratio.

    Heights alone, because things turn about the vertical, and show more of a side when they pass: their widths change for
    other reasons than distance.
    """
    step = np.zeros(len(points))
    for frame in range(1, len(points)):
        both = np.flatnonzero(visible[frame] & visible[frame - 1])
        if len(both) < MIN_GROUP:
            continue
        ratios = []
        for shift in range(1, 1 + min(PAIRINGS, len(both) // 2)):
            other = np.roll(both, shift * len(both) // (2 * PAIRINGS) + 1)
            before = points[frame - 1, both] - points[frame - 1, other]
            height = np.abs(before[:, 1])
            upright = (height > MIN_APART) & (height > UPRIGHT * np.abs(before[:, 0]))
            after = np.abs(points[frame, both, 1] - points[frame, other, 1])
            ratios.append(np.log(np.maximum(after[upright], MIN_APART / 2) / height[upright]))
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


def _under(points: Float32[np.ndarray, "n 2"], foot: float, ground: Ground) -> float:
    """Disparity of the still ground at the lowest point of a group, told by what is below or, where too little is, beside it; NaN
    where nothing still is near."""
    lowest = points[points[:, 1] >= np.percentile(points[:, 1], 75)]
    middle, reach = float(np.median(lowest[:, 0])), max(0.06, 0.6 * float(np.ptp(points[:, 0])))
    still = ground.points
    near = (still[:, 1] < foot + 0.10) & (np.abs(still[:, 0] - middle) < reach)
    bands = (near & (still[:, 1] > foot - above) for above in (FOOT_BELOW, BESIDE_FOOT))
    below = next((each for each in bands if each.sum() >= MIN_GROUND), None)
    if below is None:
        return np.nan
    row, disparity = still[below, 1], ground.disparity[below]
    thinned = slice(None, None, -(-len(row) // MAX_GROUND))
    _, value = siegelslopes(disparity[thinned], row[thinned] - foot - FOOT_BELOW)
    return float(np.clip(value, *np.percentile(disparity, [5, 95])))


def _neighbours(
    moving: ImageTracks, label: Int64[np.ndarray, "N"], disparity: Float64[np.ndarray, "T N"], ground: list[Ground]
) -> Float64[np.ndarray, "T n"]:
    """For strays: the median of the nearest points of groups and of the ground, over all frames they were seen in."""
    strays, grouped = np.flatnonzero(label < 0), np.flatnonzero(label >= 0)
    out = np.ones((len(moving.points), len(strays)))
    found = np.full(out.shape, np.nan)
    for frame, here in enumerate(ground):
        chosen = np.flatnonzero(moving.visible[frame, strays])
        others = grouped[moving.visible[frame, grouped]]
        points = np.concatenate([here.points, moving.points[frame, others]])
        if len(points) and len(chosen):
            _, near = KDTree(points).query(moving.points[frame, strays[chosen]], k=min(5, len(points)))
            known = np.concatenate([here.disparity, disparity[frame, others]])
            found[frame, chosen] = np.median(known[near.reshape(len(chosen), -1)], axis=1)
    some = np.isfinite(found).any(0)
    out[:, some] = np.nanmedian(found[:, some], axis=0)
    return out


def _smooth(known: Float64[np.ndarray, "T"], *, fallback: float, whole: bool) -> Float64[np.ndarray, "T"]:
    """Fill gaps, and lean to the nearer: a thing in the air shows ground behind it, never before it. One value for the whole
    clip where nothing makes it drift."""
    have = np.flatnonzero(np.isfinite(known))
    if not len(have):
        return np.full(len(known), fallback)
    if whole:
        return np.full(len(known), np.percentile(known[have], NEARER_PERCENTILE))
    filled = np.interp(np.arange(len(known)), have, known[have])
    nearer = percentile_filter(filled, NEARER_PERCENTILE, size=min(NEARER_FRAMES, 2 * (len(known) // 2) + 1), mode="nearest")
    return gaussian_filter1d(nearer, SMOOTHING_FRAMES, mode="nearest")
