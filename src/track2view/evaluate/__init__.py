"""How good re-filmed clips are, where the truth can be rendered: pictures and cameras, and the controls beside them."""

from track2view.evaluate.procedural import (
    Fidelity,
    Interval,
    Pair,
    PairScore,
    PairTruth,
    compare_many,
    copy_of_source,
    exact_warp,
    score_clip,
    score_many,
    true_pair,
)
from track2view.evaluate.render_compare import CameraErrors, CameraFit, camera_errors, estimate_cameras

__all__ = [
    "CameraErrors",
    "CameraFit",
    "Fidelity",
    "Interval",
    "Pair",
    "PairScore",
    "PairTruth",
    "camera_errors",
    "compare_many",
    "copy_of_source",
    "estimate_cameras",
    "exact_warp",
    "score_clip",
    "score_many",
    "true_pair",
]
