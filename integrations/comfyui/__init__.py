"""track2view in ComfyUI; ComfyUI imports this folder from its ``custom_nodes`` and reads the two dictionaries."""

from .nodes import (
    Camera,
    CameraMove,
    ClipFromImages,
    LoadClip,
    LoadClipFromPath,
    LoadModel,
    Refilm,
    RefilmByDiffusion,
    Track,
    WriteRunFolder,
)

NODE_CLASS_MAPPINGS = {
    "Track2ViewLoadClip": LoadClip,
    "Track2ViewLoadClipFromPath": LoadClipFromPath,
    "Track2ViewClipFromImages": ClipFromImages,
    "Track2ViewTrack": Track,
    "Track2ViewCameraMove": CameraMove,
    "Track2ViewCamera": Camera,
    "Track2ViewRefilm": Refilm,
    "Track2ViewWriteRunFolder": WriteRunFolder,
    "Track2ViewLoadModel": LoadModel,
    "Track2ViewRefilmByDiffusion": RefilmByDiffusion,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "Track2ViewLoadClip": "Load Clip",
    "Track2ViewLoadClipFromPath": "Load Clip from Path",
    "Track2ViewClipFromImages": "Clip from Images",
    "Track2ViewTrack": "Track",
    "Track2ViewCameraMove": "Camera Move",
    "Track2ViewCamera": "Camera from Text or File",
    "Track2ViewRefilm": "Re-film",
    "Track2ViewWriteRunFolder": "Write Run Folder",
    "Track2ViewLoadModel": "Load Track2View Model",
    "Track2ViewRefilmByDiffusion": "Re-film by Diffusion",
}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
