"""The dual-view model: paired tracks condition a Wan video transformer (design section 5)."""

from track2view.model.conditioners.bilinear import sample_tracks, scatter_tracks
from track2view.model.conditioners.tracks import TrackCondition, TrackConditioner, ViewCondition
from track2view.model.diffusion import DiffusionSettings, Track2ViewPipeline
from track2view.model.dual_view import DualViewModel, DualViewModes
from track2view.model.latents import LatentGrid, decode, encode
from track2view.model.sampling import Guidance, denoise, euler, noise_like, shifted_sigmas, unipc

__all__ = [
    "DiffusionSettings",
    "DualViewModel",
    "DualViewModes",
    "Guidance",
    "LatentGrid",
    "Track2ViewPipeline",
    "TrackCondition",
    "TrackConditioner",
    "ViewCondition",
    "decode",
    "denoise",
    "encode",
    "euler",
    "noise_like",
    "sample_tracks",
    "scatter_tracks",
    "shifted_sigmas",
    "unipc",
]
