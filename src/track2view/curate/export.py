"""Procedural worlds written as MultiCamVideo lays out its own, with what is needed to know their exact truth again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from track2view.cameras import find_scenes, write_multicam
from track2view.errors import UserError
from track2view.files import atomic_folder, read_record, write_record
from track2view.pairing import pair_by_projection
from track2view.records import CameraPath, PairedTracks, Queries, Size
from track2view.scenes import Content, World, focal_of, make_rig, make_training_world, see_points, split_seed, track_points, views_along
from track2view.scenes.rig import FPS, Split
from track2view.video import VideoWriter, read_clip

FORMAT = "track2view.scene/1"
APERTURES = {18: "10", 24: "5", 35: "2.4", 50: "2.4"}
SHEET_FRAMES = (0.0, 0.5, 1.0)
SHEET_WIDTH = 240
TRUE_GRID = 24
MOST_FRAMES = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneRecord:
    """What ``scene.json`` says: with it, the scene's world and cameras are made again, exactly.

    Attributes:
        seed: of world and cameras.
        split, index: where the seed came from.
        caption: what is there.
        frames, size: of every camera's video.
        dynamic: whether things move.
        content: what is in the world.
    """

    seed: int
    split: Split
    index: int
    caption: str
    frames: int
    size: Size
    dynamic: bool
    content: Content = "solids"

    def __post_init__(self) -> None:
        for name, least, most in (("seed", 0, 1 << 63), ("index", 0, 1 << 63), ("frames", 1, MOST_FRAMES)):
            if type(value := getattr(self, name)) is not int or not least <= value < most:
                raise UserError(f"{name}: expected a whole number from {least}, got {value!r:.60}")
        if (
            not isinstance(self.size, tuple)
            or len(self.size) != 2
            or not all(type(each) is int and 0 < each < 1 << 14 for each in self.size)
        ):
            raise UserError(f"size: expected height and width, got {self.size!r:.60}")
        if self.split not in get_args(Split) or not isinstance(self.caption, str) or not isinstance(self.dynamic, bool):
            raise UserError("split, caption or dynamic: not one of ours")

    @staticmethod
    def load(folder: Path) -> "SceneRecord":
        """Read a scene folder's ``scene.json``; raises :class:`UserError` where there is none of ours."""
        return read_record(folder / "scene.json", SceneRecord, FORMAT, what="a scene of ours", maker="track2view scenes make")


def export_scene(
    root: Path,
    split: Split,
    index: int,
    *,
    frames: int,
    size: Size,
    dynamic: bool = True,
    content: Content = "solids",
    depth: bool = False,
    cameras: tuple[str, ...] | None = None,
) -> Path:
    """Render a scene through its ten cameras: ``root/split/f24_aperture5/sceneN/{videos,cameras,truth}`` and ``scene.json``.

    The folder appears only when it is whole; a scene that is there already is left as it is.

    Args:
        depth: write exact depth and object ids of every pixel too (some 100 MB a camera at 480p).
        cameras: only these.

    Returns:
        The scene's folder.

    Raises:
        UserError: the folder holds that scene with other frames, size or content.
    """
    seed = split_seed(split, index)
    millimetres = focal_of(seed)
    folder = root / split / f"f{millimetres}_aperture{APERTURES[millimetres]}" / f"scene{index}"
    if folder.exists():
        there = SceneRecord.load(folder)
        asked = replace(there, frames=frames, size=size, dynamic=dynamic, content=content)
        if asked != there:
            raise UserError(f"{folder / 'scene.json'}: was made as {there}, now {asked}; give another folder")
        return folder
    world, rig = make_training_world(content, seed, frames=frames, dynamic=dynamic), make_rig(seed, frames=frames, size=size)
    rig = {name: camera for name, camera in rig.items() if cameras is None or name in cameras}
    with atomic_folder(folder) as partial:
        (partial / "truth").mkdir()
        for name, camera in rig.items():
            _export_view(world, camera, partial / "videos" / f"{name}.mp4", partial / "truth" / f"{name}.npz" if depth else None)
        write_multicam(rig, partial / "cameras" / "camera_extrinsics.json")
        _export_tracks(world, rig, partial / "truth" / "tracks.npz")
        record = SceneRecord(
            seed=seed, split=split, index=index, caption=world.caption, frames=frames, size=size, dynamic=dynamic, content=content
        )
        write_record(partial / "scene.json", record, FORMAT)
    return folder


def _export_view(world: World, camera: CameraPath, path: Path, truth: Path | None) -> None:
    depths, solids = [], []
    with VideoWriter(path, Fraction(FPS)) as video:
        for views in views_along(world, camera):
            for image in views.colour.permute(0, 2, 3, 1).contiguous().numpy():
                video.add(image)
            if truth is not None:
                depths.append(views.depth.numpy())
                solids.append(views.solid.numpy().astype(np.uint8))
    if truth is not None:
        np.savez_compressed(truth, depth=np.concatenate(depths), solid=np.concatenate(solids))


def _export_tracks(world: World, rig: dict[str, CameraPath], path: Path) -> None:
    """Tracks of a grid of points at the shared frame 0, and at each camera's last frame, and which camera sees them when."""
    frames = world.frames
    queries = [(name, Queries.grid([frames - 1], TRUE_GRID, TRUE_GRID)) for name in rig]
    queries.insert(0, (next(iter(rig)), Queries.grid([0], TRUE_GRID, TRUE_GRID)))
    made = []
    for name, query in queries:
        made.append(track_points(world, rig[name], query.frame, query.pixels(rig[name].size)))
    xyz = torch.cat([each.xyz_world for each in made], dim=1)
    visible = [see_points(world, camera, list(range(frames)), xyz.double()) for camera in rig.values()]
    np.savez_compressed(
        path,
        cameras=np.array(list(rig)),
        query_camera=np.repeat([name for name, _ in queries], TRUE_GRID**2),
        query_frame=torch.cat([each.query_frame for each in made]).numpy(),
        moving=torch.cat([each.moving for each in made if each.moving is not None]).numpy(),
        xyz_world=xyz.numpy(),
        visible=torch.stack(visible).numpy(),
    )


def true_pairs(folder: Path, source: str, target: str, queries: Queries) -> PairedTracks:
    """Exact paired tracks of two cameras of one of our scenes; ``queries`` are points of the source's frames."""
    record = SceneRecord.load(folder)
    world = make_training_world(record.content, record.seed, frames=record.frames, dynamic=record.dynamic)
    rig = make_rig(record.seed, frames=record.frames, size=record.size)
    return pair_by_projection(track_points(world, rig[source], queries.frame, queries.pixels(record.size)), rig[source], rig[target])


def contact_sheets(root: Path, out: Path) -> Iterator[Path]:
    """:func:`contact_sheet` of every scene below ``root``, in ``out``, one after the other; their paths."""
    for folder in find_scenes(root):
        picture = out / f"{folder.parent.name}-{folder.name}.png"
        contact_sheet(folder, picture)
        yield picture


def contact_sheet(folder: Path, out: Path) -> None:
    """A picture of a scene: a column for each camera, its first, middle and last frame below each other."""
    columns = [np.concatenate(list(_thumbnails(path)), axis=0) for path in sorted((folder / "videos").glob("*.mp4"))]
    if not columns:
        raise UserError(f"{folder}: no videos there")
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), np.concatenate(columns, axis=1)[..., ::-1])


def _thumbnails(path: Path) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    clip = read_clip(path)
    size = (SHEET_WIDTH, round(SHEET_WIDTH * clip.size[0] / clip.size[1]))
    for share in SHEET_FRAMES:
        yield cv2.resize(clip.image(round(share * (len(clip) - 1))), size, interpolation=cv2.INTER_AREA)
