"""The guide pack: what other people's generators take of a re-filmed clip (design section 6).

Every run folder has, beside ``output.mp4``: ``guide.mp4``, the warp with what was never seen in grey; ``guide_mask.mp4``, white there and
black elsewhere, lossless; ``depth/00000.png`` …, 16 bits of inverse depth of the target view, 0 where nothing was seen;
``reference.png``, the clip's first frame; ``scene.glb``, both cameras, animated, and the clip's points. Other tools want other names and
colours, which they get in a folder of their own.
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, UInt8
from torch import Tensor

from track2view.cameras.gltf import write_gltf
from track2view.files import atomic_path
from track2view.geometry import invert
from track2view.records import CameraPath, Clip, TrackSet, ViewTracks
from track2view.trackers import Tracking
from track2view.video import VideoWriter, clip_images, write_video

Tool = Literal["vace", "morphic", "crossview"]
TOOLS: tuple[Tool, ...] = get_args(Tool)
Colour = tuple[int, int, int]
GREY, BLACK, PINK, MAGENTA = (128, 128, 128), (0, 0, 0), (255, 65, 174), (255, 0, 255)
LOSSLESS, CLEAN = 0, 4
"""Quality (crf) of masks and of pictures."""
DEEPEST = 65535
NEARER = 0.8
"""Depth images reach to so much of the nearest track's depth, for things may be nearer than all tracks."""
Image = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True, slots=True)
class _Video:
    """A video of a pack: in which colour holes are; of the mask alone if None."""

    name: str
    hole: Colour | None


PACK = (_Video("guide.mp4", GREY), _Video("guide_mask.mp4", None))
OF_TOOL: dict[Tool, tuple[_Video, ...]] = {
    "vace": (_Video("src_video.mp4", GREY), _Video("src_mask.mp4", None)),
    "morphic": (_Video("render.mp4", BLACK), _Video("render_mask.mp4", None), _Video("render_pink.mp4", PINK)),
    "crossview": (_Video("warp.mp4", MAGENTA),),
}
"""Wan2.1-VACE's own script; Reshoot-Anything; ComfyUI-CrossViewWarp, whose workflow takes the source clip beside."""
SOURCE_NAME: dict[Tool, str] = {"morphic": "input.mp4", "crossview": "source.mp4"}
REFERENCE_NAME: dict[Tool, str] = {"vace": "src_ref_image.png", "morphic": "reference.png"}


class GuideWriter:
    """Writes the pack frame by frame; a context manager.

    Args:
        folder: the run's.
        tools: who gets a folder ``guide-TOOL`` in it, too.
        clip: the source.
        nearest: depth that the depth images reach to (:func:`nearest_depth`).
    """

    def __init__(self, folder: Path, tools: tuple[Tool, ...], clip: Clip, nearest: float) -> None:
        self.folder, self.tools, self.clip, self.nearest = folder, tools, clip, nearest
        self.count = 0

    def __enter__(self) -> "GuideWriter":
        places = [(self.folder, PACK), *((self.folder / f"guide-{tool}", OF_TOOL[tool]) for tool in self.tools)]
        with ExitStack() as stack:
            self.writers: list[tuple[VideoWriter, _Video]] = []
            for place, videos in places:
                place.mkdir(exist_ok=True)
                for each in videos:
                    writer = VideoWriter(place / each.name, self.clip.fps, crf=LOSSLESS if each.hole is None else CLEAN)
                    self.writers.append((stack.enter_context(writer), each))
            (self.folder / "depth").mkdir(exist_ok=True)
            self.open = stack.pop_all()
        return self

    def add(self, warped: Image, seen: Bool[np.ndarray, "H W"], disparity: Float32[Tensor, "H W"]) -> None:
        """A frame of the target: the warp's picture, what of it is seen, and its inverse depth in the source camera's unit."""
        for writer, video in self.writers:
            mask = np.repeat(np.where(seen, np.uint8(0), np.uint8(255))[..., None], 3, axis=-1)
            writer.add(mask if video.hole is None else with_holes(warped, seen, video.hole))
        shares = nearness(disparity, seen, self.nearest)
        _write_image(self.folder / f"depth/{self.count:05d}.png", (DEEPEST * shares).round().astype(np.uint16))
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.open.__exit__(kind, error, trace)


def write_beside(folder: Path, tools: tuple[Tool, ...], clip: Clip, tracking: Tracking, target: CameraPath) -> None:
    """What of a pack is there without rendering: ``scene.glb``, reference pictures, the source clip and cameras."""
    write_gltf(folder / "scene.glb", {"source": tracking.camera, "target": target}, *_coloured_points(clip, tracking))
    first = np.ascontiguousarray(clip.image(0)[..., ::-1])
    _write_image(folder / "reference.png", first)
    for tool in tools:
        place = folder / f"guide-{tool}"
        if name := REFERENCE_NAME.get(tool):
            _write_image(place / name, first)
        if name := SOURCE_NAME.get(tool):
            write_video(place / name, clip_images(clip), clip.fps, crf=CLEAN)
    if "morphic" in tools:
        _write_cam_info(folder / "guide-morphic/cam_info.json", tracking.camera, target)


def with_holes(warped: Image, seen: Bool[np.ndarray, "H W"], colour: Colour) -> Image:
    """A frame of the target where what was never seen has one colour instead of what was made up for it."""
    return np.where(seen[..., None], warped, np.array(colour, np.uint8))


def nearness(disparity: Float32[Tensor, "H W"], seen: Bool[np.ndarray, "H W"], nearest: float) -> Float32[np.ndarray, "H W"]:
    """Inverse depth in shares of that of ``nearest``, in [0, 1]: white is near; 0 where nothing was seen."""
    return np.where(seen, (disparity.numpy() * nearest).clip(0, 1), np.float32(0))


def nearest_depth(tracks: TrackSet, target: CameraPath) -> float:
    """A depth that all that a path sees of tracks lies beyond, in the source camera's unit."""
    view = ViewTracks.of(tracks, target)
    near = view.depth[view.valid]
    return NEARER * float(near.min()) if len(near) else 1.0


def _coloured_points(clip: Clip, tracking: Tracking) -> tuple[Float64[np.ndarray, "N 3"], UInt8[np.ndarray, "N 3"]]:
    """Where each track starts, and the clip's colour there."""
    tracks, each = tracking.tracks, torch.arange(tracking.tracks.xyz_world.shape[1])
    start = tracks.query_frame.long()
    view = ViewTracks.of(tracks, tracking.camera)
    shown = view.valid[start, each]
    start, each = start[shown], each[shown]
    height, width = clip.size
    column, row = (view.uv[start, each] * torch.tensor([width, height])).long().clamp(max=torch.tensor([width - 1, height - 1])).T
    return tracks.xyz_world[start, each].double().numpy(), clip.frames[start, :, row, column].numpy()


def _write_cam_info(path: Path, source: CameraPath, target: CameraPath) -> None:
    """Reshoot-Anything's: world-to-camera matrices, the source's first camera and then the path, in that camera's axes; the middles of
    pixels are whole numbers there."""
    poses = torch.cat([source.world_from_camera[:1], target.world_from_camera])
    intrinsic = target.intrinsics[0].clone()
    intrinsic[:2, 2] -= 0.5
    extrinsic = invert(poses) @ poses[:1]
    height, width = target.size
    document = {"intrinsic": intrinsic.tolist(), "extrinsic": extrinsic.tolist(), "height": height, "width": width}
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(document, indent=1))


def _write_image(path: Path, image: np.ndarray) -> None:
    found, encoded = cv2.imencode(".png", image)
    assert found
    with atomic_path(path) as partial:
        partial.write_bytes(encoded.tobytes())
