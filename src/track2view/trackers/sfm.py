"""The default tracker: no weights, no GPU. Flow tracks, bundle adjustment, triangulation, and ground depth for what moves."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from track2view.errors import UserError
from track2view.geometry import project, rigid, unproject
from track2view.progress import progress
from track2view.records import CameraPath, Clip, Queries, TrackSet, horizontal_fov, scale_of
from track2view.trackers.again import seen_again
from track2view.trackers.bundle import BundleState, Observations, canonical_pixels, residuals, triangulate, world_directions
from track2view.trackers.camera_motion import CameraMotion, estimate
from track2view.trackers.certainty import CONFIDENT, FIRM, MOVING_CONFIDENCE, Halves, held_share, looseness, path_deviation, rim_of
from track2view.trackers.flow import EDGE_WINDOW, NeighbourFlow, follow, neighbour_flow
from track2view.trackers.growth import STATIC_PIXELS
from track2view.trackers.moving_things import (
    GROUNDED_DEVIATION,
    UNGROUNDED_DEVIATION,
    Ground,
    ImageTracks,
    View,
    carry,
    group,
    movers,
    place,
)
from track2view.trackers.passing import LASTING_FRAMES, moves_after_all
from track2view.trackers.protocol import Tracking, TrackingReport, guessed_depth
from track2view.trackers.shots import shot_changes

LOW_PARALLAX_DEGREES = 0.5
STATIC_SHARE = 0.6
SUPPORT_SPACING = 16
SUPPORT_INTERVAL = 10
SUPPORT_BATCHES = 40
TRIANGULATION_SCALE = 1.0
FLAT_IMAGE = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lifted:
    """Flow tracks with depth: ``points`` are canonical pixels (focal of frame 0, relative to the principal point), ``own`` how much of
    its depth each track's views have told, rather than the guess that it is drawn to."""

    focal: float
    points: Float32[np.ndarray, "T N 2"]
    visible: Bool[np.ndarray, "T N"]
    query_frame: Int64[np.ndarray, "N"]
    xyz: Float64[np.ndarray, "N 3"]
    moving: Bool[np.ndarray, "N"]
    error: Float64[np.ndarray, "N"]
    depth_deviation: Float64[np.ndarray, "N"]
    own: Float64[np.ndarray, "N"]
    parallax: Float64[np.ndarray, "N"]
    firm: Float64[np.ndarray, "N"]


@dataclass(frozen=True, kw_only=True)
class SfmTracker:
    """Design section 9's default tracker.

    Attributes:
        fov: horizontal field of view in degrees where the user knows it; else what the clip tells, weighed with what lenses people
            have.
    """

    fov: float | None = None
    name: str = field(default="sfm", init=False)

    def __post_init__(self) -> None:
        if self.fov is not None and not 1.0 < self.fov < 175.0:
            raise UserError(f"--fov: expected degrees between 1 and 175, got {self.fov:g}")

    def track(self, clip: Clip, queries: Queries, camera: CameraPath | None = None) -> Tracking:
        """Track ``queries``; see :class:`track2view.trackers.Tracker`.

        Raises:
            UserError: a single frame, frames without any texture, or a camera path of another length.
        """
        if len(clip) < 2:
            raise UserError("the clip has one frame; a camera path can only be found from two or more")
        if camera is not None and len(camera) != len(clip):
            raise UserError(f"the source camera has {len(camera)} frames, the clip has {len(clip)}; they must match")
        if max(float(clip.frames[index].float().std()) for index in (0, len(clip) // 2, -1)) < FLAT_IMAGE:
            raise UserError("the frames are blank (all one colour); there is nothing to track")
        flow = neighbour_flow(clip)
        if changes := shot_changes(flow):
            raise UserError(f"{changes[0].in_words(float(clip.fps))}, counted from the window's start")
        known_fov = self.fov is not None or camera is not None
        if camera is None:
            camera, motion = _estimate_camera(clip, flow, self.fov)
        else:
            camera, motion = camera.resized(clip.size), None
        support = _lift(flow, camera, _support_queries(flow))
        wanted, support = (_doubted(each, support, camera) for each in (_lift(flow, camera, queries), support))
        xyz, placed_deviation = _positions(wanted, support, camera)
        start = queries.pixels(flow.size).float().numpy()
        wanted = replace(wanted, visible=seen_again(flow, camera.resized(flow.size), wanted.query_frame, start, xyz, wanted.visible))
        confidence = _confidence(wanted)
        tracks = TrackSet(
            xyz_world=torch.from_numpy(xyz),
            visible=torch.from_numpy(wanted.visible),
            confidence=torch.from_numpy(confidence),
            query_frame=queries.frame.clone(),
            moving=torch.from_numpy(wanted.moving),
        )
        if camera.unit == "scene":
            scale = scale_of(tracks, camera)
            tracks = replace(tracks, xyz_world=tracks.xyz_world / scale)
            camera = camera.scaled(1 / scale, "scene")
        report = _report(self.name, wanted, support, camera, motion, known_fov=known_fov)
        return Tracking(
            tracks=tracks,
            camera=camera,
            report=report,
            flow=flow,
            depth_deviation=placed_deviation,
            path_deviation=0.0 if motion is None else path_deviation(report.parallax_degrees),
        )


def _estimate_camera(clip: Clip, flow: NeighbourFlow, fov: float | None) -> tuple[CameraPath, CameraMotion]:
    """The path, and what it follows from."""
    height, width = flow.size
    motion = estimate(flow, None if fov is None else 0.5 * width / math.tan(math.radians(fov) / 2))
    poses = rigid(torch.from_numpy(motion.rotation).mT, torch.from_numpy(motion.centre))
    intrinsics = torch.tensor([[motion.focal, 0, width / 2], [0, motion.focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    intrinsics = intrinsics.repeat(len(clip), 1, 1)
    intrinsics[:, [0, 1], [0, 1]] *= torch.from_numpy(motion.zoom)[:, None]
    working = CameraPath(
        world_from_camera=poses,
        intrinsics=intrinsics,
        size=(height, width),
        unit="scene",
        fps=float(clip.fps),
    )
    return working.resized(clip.size), motion


def _support_queries(flow: NeighbourFlow) -> Queries:
    """A finer grid at many frames: the ground that moving things stand on, and enough points on these to tell them apart."""
    frames = len(flow.grey)
    interval = max(SUPPORT_INTERVAL, -(-frames // SUPPORT_BATCHES))
    height, width = flow.size
    spacing = max(6, SUPPORT_SPACING * min(height, width) // 480)
    return Queries.grid(sorted({*range(0, frames, interval), frames - 1}), height // spacing, width // spacing)


def _lift(flow: NeighbourFlow, camera: CameraPath, queries: Queries) -> _Lifted:
    """Follow queries through the clip, triangulate them as if still, and see which ones are not.

    What passes in front drags flow along, so a still track is cut where it leaves its point; one that hardly ever agrees moves.
    """
    frames, count = len(camera), len(queries.frame)
    query_frame = queries.frame.numpy()
    start = queries.pixels(flow.size).float().numpy()
    intrinsics = camera.resized(flow.size).intrinsics.numpy()
    rotation, centre = camera.camera_from_world[:, :3, :3].numpy(), camera.world_from_camera[:, :3, 3].numpy()
    points, visible = np.empty((frames, count, 2), np.float32), np.empty((frames, count), bool)
    xyz, moving = np.empty((count, 3)), np.empty(count, bool)
    error, depth_deviation, own, parallax, firm = (np.empty(count) for _ in range(5))
    rim = rim_of(intrinsics[:, 0, 0], flow.size)
    for frame in progress(np.unique(query_frame), "tracks", len(np.unique(query_frame))):
        batch = np.flatnonzero(query_frame == frame)
        followed, visible[:, batch] = follow(flow, int(frame), start[batch], range(frames), EDGE_WINDOW)
        points[:, batch], focal = canonical_pixels(followed, intrinsics)
        state = BundleState(rotation=rotation, centre=centre, inverse_depth=np.ones(len(batch)), focal=focal)
        loose = looseness(flow.grey[frame], start[batch])
        state, seen, information, own[batch] = _triangulated(state, points[:, batch], visible[:, batch], int(frame), loose, rim)
        residual, in_front = residuals(state, seen)
        size = np.where(in_front, np.linalg.norm(residual, axis=-1), 99.0)
        directions = world_directions(state, seen)
        agrees = size <= STATIC_PIXELS
        observed, agreeing = np.bincount(seen.track, minlength=len(batch)), np.bincount(seen.track, agrees, len(batch))
        still = agreeing >= STATIC_SHARE * observed
        dragged = still[seen.track] & ~agrees
        visible[seen.frame[dragged], batch[seen.track[dragged]]] = False
        xyz[batch] = centre[frame] + directions / state.inverse_depth[:, None]
        moving[batch] = ~still
        error[batch] = np.bincount(seen.track, np.where(dragged, 0.0, size), len(batch)) / np.maximum(
            np.where(still, agreeing, observed), 1
        )
        depth_deviation[batch] = 1 / np.sqrt(information + 1e-9) / state.inverse_depth
        parallax[batch] = _parallax(state, seen, directions)
        firm[batch] = 1 / loose
    return _Lifted(
        focal=float(intrinsics[0, 0, 0]),
        points=points,
        visible=visible,
        query_frame=query_frame,
        xyz=xyz,
        moving=moving,
        error=error,
        depth_deviation=depth_deviation,
        own=own,
        parallax=parallax,
        firm=firm,
    )


def _doubted(lifted: _Lifted, support: _Lifted, camera: CameraPath) -> _Lifted:
    """Tracks that were followed for moments only asked again whether they are still, beside those that last."""
    moving = lifted.moving.copy()
    passing, lasting = lifted.visible.sum(0) < LASTING_FRAMES, support.visible.sum(0) >= LASTING_FRAMES
    for frame in np.unique(lifted.query_frame):
        asked = np.flatnonzero(passing & ~lifted.moving & (lifted.query_frame == frame))
        beside = np.flatnonzero(lasting & support.visible[frame])
        moving[asked] = moves_after_all(
            lifted.points[frame, asked],
            _disparity(lifted.xyz[asked], camera, int(frame)),
            support.points[frame, beside],
            _disparity(support.xyz[beside], camera, int(frame)),
            support.moving[beside],
        )
    return replace(lifted, moving=moving)


def _disparity(xyz: Float64[np.ndarray, "n 3"], camera: CameraPath, frame: int) -> Float64[np.ndarray, "n"]:
    """Inverse depth of world points before one frame's camera."""
    _, depth = project(torch.from_numpy(xyz), camera.camera_from_world[frame], camera.intrinsics[frame])
    return (1 / depth.clamp(min=1e-3)).numpy()


def _triangulated(
    state: BundleState,
    points: Float32[np.ndarray, "T N 2"],
    visible: Bool[np.ndarray, "T N"],
    frame: int,
    loose: Float64[np.ndarray, "N"],
    rim: float,
) -> tuple[BundleState, Observations, Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """Inverse depths of tracks that start in one frame, and what the views tell of them beside a guess that they are drawn to.

    The guess is smooth: what surer tracks around say, and the typical inverse depth as far as these say little. Where the camera
    hardly travels, all that is left of it is a flat scene.

    Args:
        loose: variance of each track in terms of a firm one's, as the picture tells it.
        rim: by how many pixels the lens's zoom moves the picture's rim.
    """
    count = points.shape[1]
    seen = Observations.of(points, visible, np.full(count, frame))
    halves = Halves.of(state, seen, state.inverse_depth, TRIANGULATION_SCALE, rim=rim, held=held_share(loose))
    variance = halves.variance(points[frame])
    guess, spread = halves.believed(points[frame], variance)
    prior = variance / np.maximum(spread, 1e-12)
    inverse_depth, information = triangulate(state, seen, guess, TRIANGULATION_SCALE, prior=prior)
    own = information / (information + prior)
    return replace(state, inverse_depth=inverse_depth), seen, information / (np.sqrt(loose) * variance), own


def _parallax(state: BundleState, seen: Observations, directions: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, "N"]:
    """Largest angle, in degrees, between a track's own ray and any other it was seen along."""
    ray = directions[seen.track]
    baseline = state.centre[seen.frame] - state.centre[seen.anchor[seen.track]]
    across = np.linalg.norm(np.cross(ray, baseline), axis=-1) / np.linalg.norm(ray, axis=-1)
    parallax = np.zeros(len(directions))
    np.maximum.at(parallax, seen.track, np.degrees(np.arctan(across * state.inverse_depth[seen.track])))
    return parallax


def _typical_parallax(lifted: _Lifted) -> float:
    still = ~lifted.moving & (lifted.visible.sum(0) > 2)
    return float(np.median(lifted.parallax[still])) if still.any() else 0.0


def _positions(wanted: _Lifted, support: _Lifted, camera: CameraPath) -> tuple[Float32[np.ndarray, "T N 3"], Float64[np.ndarray, "N"]]:
    """World positions in all frames: still tracks where triangulated, moving ones at the depth of the ground they stand on; and the
    deviation of their depth, in terms of it."""
    frames = len(camera)
    out = np.repeat(wanted.xyz[None].astype(np.float32), frames, axis=0)
    deviation = wanted.depth_deviation / np.maximum(wanted.own, 1e-6)
    mine, other = np.flatnonzero(wanted.moving), np.flatnonzero(support.moving)
    if not len(mine):
        return out, deviation
    focal = float(camera.intrinsics[0, 0, 0])
    longer = float(max(camera.size))
    working_focal = wanted.focal
    unit = working_focal / focal * longer
    moving = ImageTracks(
        points=np.concatenate([wanted.points[:, mine], support.points[:, other]], axis=1) / unit,
        visible=np.concatenate([wanted.visible[:, mine], support.visible[:, other]], axis=1),
    )
    firm = np.concatenate([wanted.firm[mine], support.firm[other]]) >= FIRM
    label = np.full(len(firm), -1)
    label[firm] = group(moving.only(firm))
    view = View(focal=focal / longer, bottom=0.5 * camera.size[0] / longer, pixels=unit)
    placed = place(moving, label, movers(moving, label), _ground(support, camera, unit), view)
    lifted = np.empty((*placed.disparity.shape, 3), np.float32)
    centred = torch.tensor([[focal, 0.0, 0.0], [0.0, focal, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    for frame, pose in enumerate(camera.world_from_camera):
        pixels = torch.from_numpy(placed.points[frame]).double() * longer
        lifted[frame] = unproject(pixels, torch.from_numpy(1 / placed.disparity[frame]), pose, centred).numpy()
    out[:, mine] = carry(lifted, placed.known, label)[:, : len(mine)]
    known = (support.depth_deviation / np.maximum(support.own, 1e-6))[_known(support)]
    grounded = np.hypot(GROUNDED_DEVIATION, np.median(known) if len(known) else UNGROUNDED_DEVIATION)
    deviation[mine] = np.where(placed.grounded[: len(mine)], grounded, UNGROUNDED_DEVIATION)
    return out, deviation


def _known(support: _Lifted) -> Bool[np.ndarray, "N"]:
    """Still tracks whose depth is more than a guess."""
    return ~support.moving & (support.depth_deviation <= 1.0)


def _ground(support: _Lifted, camera: CameraPath, unit: float) -> list[Ground]:
    """The still points that each frame shows."""
    known = _known(support)
    ground = []
    for frame in range(len(camera)):
        chosen = known & support.visible[frame]
        disparity = _disparity(support.xyz[chosen], camera, frame).astype(np.float32)
        ground.append(Ground(points=support.points[frame, chosen] / np.float32(unit), disparity=disparity))
    return ground


def _confidence(lifted: _Lifted) -> Float32[np.ndarray, "T N"]:
    """In [0, 1]: how well depth is known, how well a still point explains the track, and whether it is seen."""
    depth = 1 / (1 + (lifted.depth_deviation / CONFIDENT) ** 2)
    fit = 1 / (1 + (lifted.error / 2.0) ** 2)
    per_track = np.where(lifted.moving, MOVING_CONFIDENCE * lifted.firm, depth * fit)
    return np.where(lifted.visible, np.float32(1.0), np.float32(0.5)) * per_track.astype(np.float32)


def _report(
    name: str, wanted: _Lifted, support: _Lifted, camera: CameraPath, motion: CameraMotion | None, *, known_fov: bool
) -> TrackingReport:
    still = ~support.moving & (support.visible.sum(0) > 2)
    parallax = _typical_parallax(support)
    fov = horizontal_fov(camera.intrinsics[0], camera.size)
    estimated = camera.focal_known if motion is None else motion.focal_estimated
    fov_deviation = 0.0 if motion is None else math.degrees(motion.focal_deviation * math.sin(math.radians(fov)))
    moving = float(support.moving.mean())
    lost = 1.0 - float(wanted.visible.mean())
    warnings = []
    if parallax < LOW_PARALLAX_DEGREES:
        warnings.append(guessed_depth(parallax))
    if not estimated and not known_fov:
        warnings.append(
            f"the clip hardly tells the focal length: {fov:.0f}° wide, give or take {fov_deviation:.0f}°; give --fov if you know it"
        )
    if motion is not None and motion.zooms and not motion.zoom_told:
        warnings.append(
            f"the picture grows {motion.zoom.max() / motion.zoom.min():.2f} times and shows no parallax: taken as a zoom of the lens; "
            "if the camera came nearer instead, give its path as --source-camera"
        )
    if moving > 0.5:
        warnings.append(f"{100 * moving:.0f} % of the tracks move on their own: the camera's path may follow them instead of the scene")
    if lost > 0.8:
        warnings.append(f"tracks are lost {100 * lost:.0f} % of the time: the motion is fast or the frames are blurred")
    return TrackingReport(
        tracker=name,
        focal_estimated=estimated,
        horizontal_fov=fov,
        parallax_degrees=parallax,
        reprojection_pixels=float(np.median(support.error[still])) if still.any() else 0.0,
        share_lost=lost,
        share_moving=float(wanted.moving.mean()) if len(wanted.moving) else 0.0,
        warnings=tuple(warnings),
        fov_deviation=fov_deviation,
    )
