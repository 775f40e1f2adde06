"""How good re-filmed clips are, where the truth can be rendered: pictures and cameras, and the controls beside them."""

from track2view.evaluate.found import CameraErrors, FoundCameras, camera_errors
from track2view.evaluate.matched import MatchedCameras, match_cameras
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
from track2view.evaluate.reconstructed import ReconstructedErrors, reconstruct_cameras, reconstructed_errors
from track2view.evaluate.render_compare import CameraFit, estimate_cameras

__all__ = [
    "CameraErrors",
    "CameraFit",
    "Fidelity",
    "FoundCameras",
    "Interval",
    "MatchedCameras",
    "Pair",
    "PairScore",
    "PairTruth",
    "ReconstructedErrors",
    "camera_errors",
    "compare_many",
    "copy_of_source",
    "estimate_cameras",
    "exact_warp",
    "match_cameras",
    "reconstruct_cameras",
    "reconstructed_errors",
    "score_clip",
    "score_many",
    "true_pair",
]
