"""Training data: procedural worlds in MultiCamVideo's layout, and samples of paired tracks from any data in that layout."""

from track2view.cameras import find_scenes
from track2view.curate.export import SceneRecord, contact_sheet, contact_sheets, export_scene, true_pairs
from track2view.curate.inspect import draw_sample, draw_samples
from track2view.curate.run import choose_pairs, curate, export_scenes
from track2view.curate.stages import PairOfViews, Rejected, curate_pair

__all__ = [
    "PairOfViews",
    "Rejected",
    "SceneRecord",
    "choose_pairs",
    "contact_sheet",
    "contact_sheets",
    "curate",
    "curate_pair",
    "draw_sample",
    "draw_samples",
    "export_scene",
    "export_scenes",
    "find_scenes",
    "true_pairs",
]
