"""One world at one time: what the two halves of a joined clip say of a point, made to agree (paper section 3.3; ours).

The joined clip shows every moment twice, once to each camera. So a point seen in both halves at one time is triangulated, even
if it moves; one seen in the source alone is where the source saw it. What nothing tells is guessed, and the confidence says so:
whether a point has a place in the target never depends on whether the target sees it, for at inference nobody knows.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from track2view.geometry import inside, project
from track2view.records import CameraPath, TrackSet

AGREE_SHARE = 4 / 480
MIN_SINE = 0.005
CARRIED_FRAMES = 8.0
ONE_VIEW = 0.3
CERTAIN = 0.5
PROBE = 0.01
MOST_PARALLAX = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Synchronised:
    """Joined tracks whose halves agree, and the share of twice-seen entries whose two rays met; 1 if all rays are parallel."""

    tracks: TrackSet
    agreement: float


def synchronise(tracks: TrackSet, joined: CameraPath) -> Synchronised:
    """Make the halves of joined tracks one world, and say how sure each place is.

    Still points keep their place. Moving points are triangulated where both halves see them; elsewhere the source's ray is
    kept, and the depth along it corrected as at the nearest time at which both did. Where the target alone sees a moving
    point, its half has the target's own place. A place is finite in both halves wherever the source's half has one.

    The confidence, the same in both halves, is about the share of such entries that lie within 8 pixels (of 480 lines) of the
    truth. It falls with what the tracker doubts, with more parallax than the point was triangulated with, with the distance
    between the rays, and with the time since these met. From ``CERTAIN`` on, a place is told by what was seen; below, it is a guess.

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
    both = in_source & in_target
    met, sine, apart = _both_rays(source, target, joined)
    eye, tolerance = joined.world_from_camera[:count, None, :3, 3].flip(0), AGREE_SHARE * min(joined.size)
    agree, told = both & (apart < tolerance), both & (sine > MIN_SINE)
    placed = torch.where((agree & told & moving)[..., None], met, source)
    carried, since = _carried(placed, source, eye, agree & told)
    from_source = torch.where((moving & ~agree)[..., None], carried, placed)
    known = from_source.isfinite().all(-1)
    in_target_half = torch.where((in_target & ~in_source & known)[..., None], target, from_source)
    met_share = torch.where(told.any(0), (agree & told).sum(0) / told.sum(0).clamp(min=1), 1.0)
    seen_twice = torch.where(moving, met_share, 0.5 + 0.5 * tracks.confidence.amax(0)) / (1 + (2 * apart / tolerance).square())
    seen_once = torch.where(
        moving,
        torch.maximum(met_share / (1 + since / CARRIED_FRAMES), tracks.confidence[:count].flip(0).clamp(max=ONE_VIEW)),
        _known_elsewhere(tracks, joined)[count:],
    )
    confidence = torch.where(both, seen_twice, seen_once).float()
    fused = TrackSet(
        xyz_world=torch.cat([from_source.flip(0), in_target_half]).float(),
        visible=torch.cat([in_source.flip(0), in_target & (agree | ~in_source) & known]),
        confidence=torch.cat([confidence.flip(0), confidence]),
        query_frame=tracks.query_frame,
        moving=tracks.moving,
    )
    share = float((agree & told).sum() / told.sum()) if bool(told.any()) else 1.0
    return Synchronised(tracks=fused, agreement=share)


def _both_rays(
    source: Float64[Tensor, "T N 3"], target: Float64[Tensor, "T N 3"], joined: CameraPath
) -> tuple[Float64[Tensor, "T N 3"], Float64[Tensor, "T N"], Float64[Tensor, "T N"]]:
    """Where the two halves' rays meet, the sine of their angle, and how many pixels off that is in the view that shows it worse."""
    count = len(joined) // 2
    eye, target_eye = joined.world_from_camera[:count, None, :3, 3].flip(0), joined.world_from_camera[count:, None, :3, 3]
    met, sine = _meeting(eye, source - eye, target_eye, target - target_eye)
    sine = torch.minimum(sine, (target_eye - eye).norm(dim=-1) / (source - eye).norm(dim=-1).clamp(min=1e-9))
    met = torch.where((sine > MIN_SINE)[..., None], met, source)  # cameras that only turn give rays that only seem to cross
    in_source = _apart(met, source, joined.camera_from_world[:count].flip(0), joined.intrinsics[:count].flip(0))
    in_target = _apart(met, target, joined.camera_from_world[count:], joined.intrinsics[count:])
    return met, sine, torch.maximum(in_source, in_target)


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
) -> tuple[Float64[Tensor, "T N 3"], Int64[Tensor, "T N"]]:
    """Source points moved along their rays as at the nearest time with a measurement, and how many frames away that is.

    Where there is none at all they stay, and it is several times the clip away.
    """
    time = torch.arange(len(placed))[:, None]
    far = 10 * len(placed)
    before = torch.where(measured, time, -far).cummax(0).values
    after = torch.where(measured, time, far).flip(0).cummin(0).values.flip(0)
    nearest = torch.where(time - before <= after - time, before, after)
    ratio = (placed - eye).norm(dim=-1) / (source - eye).norm(dim=-1).clamp(min=1e-9)
    ratio = torch.where(measured.any(0), ratio.gather(0, nearest.clamp(0, len(placed) - 1)), 1.0)
    return eye + ratio[..., None] * (source - eye), (nearest - time).abs()


def _known_elsewhere(tracks: TrackSet, joined: CameraPath) -> Float64[Tensor, "t N"]:
    """How sure still points are where they are not seen, from the tracker's confidence and the parallax they show there.

    Parallax is how far a pixel moves for a small change of its point's depth along the query's ray. Errors of depth show by as
    much more as there is more of it than in any view that saw the point; outside the picture it does not matter.
    """
    best = tracks.confidence.amax(0).double()
    points = tracks.xyz_world.double()
    start = joined.world_from_camera[tracks.query_frame, :3, 3]
    moved = points + PROBE * (points - start)
    shift = _apart(moved, points, joined.camera_from_world, joined.intrinsics)
    most = torch.where(tracks.visible & shift.isfinite(), shift, 0.0).amax(0)
    pixels, depth = project(points, joined.camera_from_world, joined.intrinsics)
    in_picture = (depth > 0) & inside(pixels, joined.size)
    more = torch.where(in_picture, shift / most.clamp(min=1e-9), 1.0).clamp(1.0, MOST_PARALLAX)
    return 1 / (1 + (best.pow(-2) - 1) * more.square())
