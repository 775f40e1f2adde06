"""From tracks and two camera paths to :class:`PairedTracks`: the method's conditioning signal (design section 4)."""

from dataclasses import replace

from track2view.errors import UserError
from track2view.records import CameraPath, PairedTracks, TrackSet, ViewTracks


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
