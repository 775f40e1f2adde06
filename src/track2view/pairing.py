"""From tracks and two camera paths to :class:`PairedTracks`: the method's conditioning signal (design section 4)."""

from dataclasses import replace

import torch

from track2view.errors import UserError
from track2view.records import CameraPath, Clip, PairedTracks, TrackSet, ViewTracks


def pair_by_projection(tracks: TrackSet, source: CameraPath, target: CameraPath) -> PairedTracks:
    """Project one set of 3D tracks into both cameras (inference, paper section 3.1).

    Source entries are valid where the point is in front, inside and visible; target entries where it is in front and inside:
    occlusion in the target is unknown at inference.

    Raises:
        UserError: path lengths disagree with the tracks, or the two paths are in different units.
    """
    if source.unit != target.unit:
        raise UserError(f"the source camera is in {source.unit} units and the target in {target.unit}; scale one of them")
    seen = ViewTracks.of(tracks, source)
    seen = replace(seen, valid=seen.valid & tracks.visible)
    return PairedTracks(source=seen, target=ViewTracks.of(tracks, target), confidence=tracks.confidence)


def join_views(source: Clip, target: Clip) -> Clip:
    """Reversed source, then target: one clip of 2T frames that passes through the frame both share (paper section 3.3).

    Frames T − 1 and T both hold the shared frame 0, so that the cut gives T + T back.

    Raises:
        UserError: clips of unlike length, size or rate.
    """
    for name, one, other in (("frames", len(source), len(target)), ("size", source.size, target.size), ("rate", source.fps, target.fps)):
        if one != other:
            raise UserError(f"the two views disagree in {name}: {one} and {other}; synchronised views are needed")
    return Clip(frames=torch.cat([source.frames.flip(0), target.frames]), fps=source.fps)


def join_cameras(source: CameraPath, target: CameraPath) -> CameraPath:
    """The camera path of :func:`join_views`.

    Raises:
        UserError: paths of unlike length, size or unit.
    """
    for name, one, other in (("frames", len(source), len(target)), ("size", source.size, target.size), ("unit", source.unit, target.unit)):
        if one != other:
            raise UserError(f"the two cameras disagree in {name}: {one} and {other}; synchronised views are needed")
    return replace(
        source,
        world_from_camera=torch.cat([source.world_from_camera.flip(0), target.world_from_camera]),
        intrinsics=torch.cat([source.intrinsics.flip(0), target.intrinsics]),
    )


def pair_by_tracking(tracks: TrackSet, joined: CameraPath) -> PairedTracks:
    """Cut tracks of :func:`join_views` into the two views (curation, paper section 3.3).

    The same column is the same point in both views at every time: the first half, reversed again, is the source. Entries are
    valid as by projection: the source's where the tracker saw them, the target's by geometry alone, so that training meets
    what inference will.

    Raises:
        UserError: an odd number of frames, which no two synchronised views give.
    """
    count = len(joined)
    if count % 2:
        raise UserError(f"{count} frames are not two views of one length; track what join_views gave")
    views = ViewTracks.of(tracks, joined)
    source, target = slice(None, count // 2), slice(count // 2, None)
    seen = ViewTracks(
        uv=views.uv[source].flip(0),
        depth=views.depth[source].flip(0),
        valid=(views.valid & tracks.visible)[source].flip(0),
    )
    return PairedTracks(
        source=seen,
        target=ViewTracks(uv=views.uv[target], depth=views.depth[target], valid=views.valid[target]),
        confidence=tracks.confidence[source].flip(0),
    )
