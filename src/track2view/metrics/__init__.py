"""What is measured of clips, camera paths and tracks, as pure functions."""

from track2view.metrics.cameras import RedirectErrors, redirect_errors
from track2view.metrics.features import (
    consistency,
    frechet_distance,
    kernel_distance,
    likeness,
    likeness_over_time,
    likeness_to_text,
    steadiness,
)
from track2view.metrics.images import edges_kept, flicker, psnr, ssim
from track2view.metrics.paths import PathErrors, path_errors
from track2view.metrics.tracks import TrackScores, track_scores

__all__ = [
    "PathErrors",
    "RedirectErrors",
    "TrackScores",
    "consistency",
    "edges_kept",
    "flicker",
    "frechet_distance",
    "kernel_distance",
    "likeness",
    "likeness_over_time",
    "likeness_to_text",
    "path_errors",
    "psnr",
    "redirect_errors",
    "ssim",
    "steadiness",
    "track_scores",
]
