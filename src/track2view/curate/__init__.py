"""Training data: procedural worlds in MultiCamVideo's layout (the curation of paired tracks builds on it)."""

from track2view.curate.export import SceneRecord, contact_sheet, export_scene, find_scenes, true_pairs

__all__ = ["SceneRecord", "contact_sheet", "export_scene", "find_scenes", "true_pairs"]
