"""One world at one time: what the two halves of a joined clip say of a point, made to agree (paper section 3.3; ours).

The joined clip shows every moment twice, once to each camera. So a point seen in both halves at one time is triangulated, even
if it moves; one seen in the source alone is where the source saw it; and where nothing tells its place in the target, the entry
is unknown, not guessed.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from track2view.geometry import project
from track2view.records import CameraPath, TrackSet

AGREE_SHARE = 4 / 480
MORE_PARALLAX = 3.0
SURE = 0.95
MIN_SINE = 0.005
CARRIED_FRAMES = 12
PROBE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Synchronised:
    """Joined tracks whose halves agree, and the share of twice-seen entries whose two rays met; 1 if all rays are parallel."""

    tracks: TrackSet
    agreement: float


def synchronise(tracks: TrackSet, joined: CameraPath) -> Synchronised:
    """Make the halves of joined tracks one world; positions that nothing tells become NaN.

    Still points keep their place; where the target does not see one, its place is unknown unless the tracker is sure of the
    track, and the target's parallax of it is at most three times what it was triangulated with. Moving points are
    triangulated where both halves see them; where only the source does, the depth of its ray is corrected as at the nearest
    time at which both did. Entries whose two rays do not meet are kept in the source and unknown in the target.

    What one half shows at the shared frame 0, so does the other: the picture is one.

    Args:
        tracks: of a clip that :func:`track2view.pairing.join_views` made; 2T frames.
        joined: its cameras.
    """
    count = len(joined) // 2
    moving = torch.zeros_like(tracks.query_frame, dtype=torch.bool) if tracks.moving is None else tracks.moving
    halves = tracks.xyz_world.double()
    source, target = halves[:count].flip(0), halves[count:].clone()
    in_source, in_target = tracks.visible[:count].flip(0), tracks.visible[count:].clone()
    source[0] = torch.where((in_target[0] & ~in_source[0])[:, None], target[0], source[0])
    target[0] = torch.where((in_source[0] & ~in_target[0])[:, None], source[0], target[0])
    in_source[0] = in_target[0] = in_source[0] | in_target[0]
    eye, target_eye = joined.world_from_camera[:count, :3, 3].flip(0)[:, None], joined.world_from_camera[count:, :3, 3][:, None]
    both = in_source & in_target
    met, sine = _meeting(eye, source - eye, target_eye, target - target_eye)
    sine = torch.minimum(sine, (target_eye - eye).norm(dim=-1) / (source - eye).norm(dim=-1).clamp(min=1e-9))
    met = torch.where((sine > MIN_SINE)[..., None], met, source)  # cameras that only turn give rays that only seem to cross
    tolerance = AGREE_SHARE * min(joined.size)
    cameras = joined.camera_from_world[:count].flip(0), joined.camera_from_world[count:]
    intrinsics = joined.intrinsics[:count].flip(0), joined.intrinsics[count:]
    apart = torch.stack(
        [_apart(met, seen, *camera) for seen, camera in zip((source, target), zip(cameras, intrinsics, strict=True), strict=True)]
    ).amax(0)
    agree = both & (apart < tolerance)
    placed = torch.where((agree & (sine > MIN_SINE) & moving)[..., None], met, source)
    carried, near = _carried(placed, source, eye, agree & (sine > MIN_SINE))
    known = both & agree | (~both & in_target) | torch.where(moving, in_source & ~both & near, ~both & _well_seen(tracks, joined)[count:])
    in_both = torch.where((in_source & ~both & near & moving)[..., None], carried, placed)
    only_target = (in_target & ~in_source)[..., None]
    fused_target = torch.where(known[..., None], torch.where(only_target, target, in_both), torch.nan)
    xyz = torch.cat([in_both.flip(0), fused_target]).float()
    visible = torch.cat([in_source.flip(0), in_target & known])
    told = both & (sine > MIN_SINE)
    share = float((agree & told).sum() / told.sum()) if bool(told.any()) else 1.0
    return Synchronised(tracks=replace(tracks, xyz_world=xyz, visible=visible), agreement=share)


def _meeting(
    eye: Float64[Tensor, "T 1 3"], ray: Float64[Tensor, "T N 3"], other_eye: Float64[Tensor, "T 1 3"], other: Float64[Tensor, "T N 3"]
) -> tuple[Float64[Tensor, "T N 3"], Float64[Tensor, "T N"]]:
    """Midpoints of the shortest way between two rays, and the sine of the angle between these."""
    ray, other = torch.nn.functional.normalize(ray, dim=-1), torch.nn.functional.normalize(other, dim=-1)
    baseline = other_eye - eye
    cosine = (ray * other).sum(-1)
    squared = (1 - cosine.square()).clamp(min=1e-12)
    along, along_other = (baseline * ray).sum(-1), (baseline * other).sum(-1)
    first = (along - cosine * along_other) / squared
    second = (cosine * along - along_other) / squared
    return 0.5 * (eye + first[..., None] * ray + other_eye + second[..., None] * other), squared.sqrt()


def _apart(
    points: Float64[Tensor, "T N 3"], seen: Float64[Tensor, "T N 3"], camera: Float64[Tensor, "T 4 4"], intrinsics: Float64[Tensor, "T 3 3"]
) -> Float64[Tensor, "T N"]:
    """Pixels between the projections of two points; infinite where one is behind the camera."""
    one, depth = project(points, camera, intrinsics)
    other, _ = project(seen, camera, intrinsics)
    return torch.where(depth > 0, (one - other).norm(dim=-1), torch.inf)


def _carried(
    placed: Float64[Tensor, "T N 3"], source: Float64[Tensor, "T N 3"], eye: Float64[Tensor, "T 1 3"], measured: Bool[Tensor, "T N"]
) -> tuple[Float64[Tensor, "T N 3"], Bool[Tensor, "T N"]]:
    """Source points moved along their rays as at the nearest time with a measurement, and whether there was one near."""
    time = torch.arange(len(placed))[:, None]
    far = 10 * len(placed)
    before = torch.where(measured, time, -far).cummax(0).values
    after = torch.where(measured, time, far).flip(0).cummin(0).values.flip(0)
    nearest = torch.where(time - before <= after - time, before, after)
    near = (nearest - time).abs() <= CARRIED_FRAMES
    ratio = (placed - eye).norm(dim=-1) / (source - eye).norm(dim=-1).clamp(min=1e-9)
    ratio = ratio.gather(0, nearest.clamp(0, len(placed) - 1))
    return eye + ratio[..., None] * (source - eye), near


def _well_seen(tracks: TrackSet, joined: CameraPath) -> Bool[Tensor, "t N"]:
    """Where still points of tracks to be sure of show no more than a few times the parallax that they were seen with.

    Parallax is how far its pixel moves for a small change of its depth along the query's ray.
    """
    sure = tracks.confidence.amax(0) >= SURE
    points = tracks.xyz_world.double()
    start = joined.world_from_camera[tracks.query_frame, :3, 3]
    moved = points + PROBE * (points - start)
    shift = _apart(moved, points, joined.camera_from_world, joined.intrinsics)
    most = torch.where(tracks.visible & shift.isfinite(), shift, 0.0).amax(0)
    return sure & (shift <= MORE_PARALLAX * most)
