"""Pictures one understands at a glance: what was tracked, where the cameras went, what the new view shows."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.axes3d import Axes3D

from track2view.files import atomic_path
from track2view.geometry import transform
from track2view.records import CameraPath, Clip, TrackSet, ViewTracks

TAIL_FRAMES = 8
MAX_CLOUD = 4000
MAX_TRACKS = 700
SOURCE_COLOUR, TARGET_COLOUR, MOVING_COLOUR = "#1f77b4", "#d62728", "#ff3df2"


def draw_overview(
    path: Path,
    clip: Clip,
    tracks: TrackSet,
    source: CameraPath,
    target: CameraPath,
    rendered: list[np.ndarray],
    coverage: np.ndarray,
    astray: np.ndarray,
) -> None:
    """Write a PNG: tracks over three frames, the rendered frames below, both camera paths in 3D, coverage over time.

    Args:
        rendered: the target's frames at first, middle and last time, RGB.
        coverage: [T, 2] shares of pixels shown by the source at this time, and at any time.
        astray: [T] share of the picture's height by which what is seen may lie beside its place.
    """
    frames = [0, (len(clip) - 1) // 2, len(clip) - 1]
    height, width = clip.size
    column = min(4.0, 3.0 * width / height)
    figure = Figure(figsize=(3 * column + 5.6, max(6.4, 2 * column * height / width + 1.2)), layout="constrained", dpi=100)
    grid = figure.add_gridspec(2, 5, width_ratios=[column, column, column, 0.2, 5.2])
    view = ViewTracks.of(tracks, source)
    for index, frame in enumerate(frames):
        axes = figure.add_subplot(grid[0, index])
        _draw_tracks(axes, clip, tracks, view, frame)
        axes.set_title(f"source, {float(frame / clip.fps):.2f} s", fontsize=10)
        below = figure.add_subplot(grid[1, index])
        below.imshow(rendered[index])
        below.set_title(f"re-filmed, {float(frame / clip.fps):.2f} s", fontsize=10)
        below.set_axis_off()
    space = figure.add_subplot(grid[0, 4], projection="3d")
    _draw_cloud(space, clip, tracks, view)
    draw_path(space, source, SOURCE_COLOUR, "source camera")
    draw_path(space, target, TARGET_COLOUR, "new camera")
    _finish_space(space)
    _draw_coverage(figure.add_subplot(grid[1, 4]), coverage, astray, float(clip.fps))
    with atomic_path(path) as partial:
        figure.savefig(partial)


def draw_camera(path: Path, camera: CameraPath, title: str) -> None:
    """Write a PNG of one camera path in 3D."""
    figure = Figure(figsize=(8, 7), layout="constrained", dpi=100)
    space = figure.add_subplot(projection="3d")
    draw_path(space, camera, TARGET_COLOUR, f"{title}, {len(camera)} frames")
    _finish_space(space)
    with atomic_path(path) as partial:
        figure.savefig(partial)


def draw_path(axes: Axes3D, camera: CameraPath, colour: str, label: str) -> None:
    """A camera's way through space, with its view pyramids at a few times; y down becomes up on the page."""
    centres = camera.world_from_camera[:, :3, 3].numpy()
    axes.plot(centres[:, 0], centres[:, 2], -centres[:, 1], color=colour, label=label, linewidth=2)
    size = 0.12 * max(float(np.ptp(centres, axis=0).max()), 0.6)
    for frame in np.unique(np.linspace(0, len(camera) - 1, 5).astype(int)):
        pose, matrix = camera.world_from_camera[frame], camera.intrinsics[frame]
        height, width = camera.size
        corners = matrix.new_tensor([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]]) @ matrix.inverse().T * size
        outline = transform(pose, corners).numpy()
        for index in range(4):
            edge = np.stack([outline[index], outline[(index + 1) % 4], pose[:3, 3].numpy()])
            axes.plot(edge[:, 0], edge[:, 2], -edge[:, 1], color=colour, linewidth=0.8, alpha=0.8)


def _draw_tracks(axes: Axes, clip: Clip, tracks: TrackSet, view: ViewTracks, frame: int) -> None:
    height, width = clip.size
    axes.imshow(clip.image(frame))
    chosen = np.flatnonzero((view.valid & tracks.visible)[frame].numpy())
    chosen = chosen[:: -(-len(chosen) // MAX_TRACKS) or 1]
    begin = max(0, frame - TAIL_FRAMES)
    uv = (view.uv[begin : frame + 1, chosen].double() * view.uv.new_tensor([width, height]).double()).numpy()
    depth = view.depth[frame, chosen].numpy()
    moving = np.zeros(len(chosen), bool) if tracks.moving is None else tracks.moving.numpy()[chosen]
    low, high = np.percentile(1 / depth, [3, 97]) if len(depth) else (0.0, 1.0)
    colours = matplotlib.colormaps["turbo"](np.clip((1 / depth - low) / max(high - low, 1e-6), 0, 1))
    colours[moving] = matplotlib.colors.to_rgba(MOVING_COLOUR)
    axes.add_collection(LineCollection(list(uv.transpose(1, 0, 2)), colors=colours, linewidths=0.7))
    axes.scatter(uv[-1, :, 0], uv[-1, :, 1], s=3, c=colours)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()


def _draw_cloud(axes: Axes3D, clip: Clip, tracks: TrackSet, view: ViewTracks) -> None:
    seen = (view.valid & tracks.visible)[tracks.query_frame, np.arange(len(tracks.query_frame))].numpy()
    chosen = np.flatnonzero(seen)
    chosen = chosen[:: -(-len(chosen) // MAX_CLOUD) or 1]
    frame = tracks.query_frame[chosen]
    points = tracks.xyz_world[frame, chosen].numpy()
    uv = view.uv[frame, chosen]
    height, width = clip.size
    column, row = (uv[:, 0] * width).long().clamp(0, width - 1), (uv[:, 1] * height).long().clamp(0, height - 1)
    colour = clip.frames[frame, :, row, column].numpy() / 255.0
    near = view.depth[frame, chosen].numpy() < 4 * np.median(view.depth[frame, chosen].numpy()) if len(chosen) else np.zeros(0, bool)
    axes.scatter(points[near, 0], points[near, 2], -points[near, 1], s=4, c=colour[near], depthshade=False)


def _finish_space(axes: Axes3D) -> None:
    axes.legend(loc="upper left", fontsize=9)
    axes.set_xlabel("right")
    axes.set_ylabel("forward")
    axes.set_zlabel("up")
    axes.set_aspect("equal")
    axes.view_init(elev=24, azim=-70)


def _draw_coverage(axes: Axes, coverage: np.ndarray, astray: np.ndarray, fps: float) -> None:
    seconds = np.arange(len(coverage)) / fps
    axes.fill_between(seconds, 0, 100 * coverage[:, 0], color="#4c9f70", label="seen at this time")
    axes.fill_between(seconds, 100 * coverage[:, 0], 100 * coverage[:, 1], color="#f2b134", label="seen at another time")
    axes.fill_between(seconds, 100 * coverage[:, 1], 100, color="#bbbbbb", label="never seen: painted in")
    axes.set_ylim(0, 100)
    axes.set_xlim(0, max(float(seconds[-1]), 1e-3))
    axes.set_xlabel("seconds")
    axes.set_ylabel("% of the new picture")
    axes.plot([], [], color=TARGET_COLOUR, label="may be beside its place")
    axes.legend(loc="lower left", fontsize=9)
    beside = axes.twinx()
    beside.plot(seconds, 100 * astray, color=TARGET_COLOUR)
    beside.set_ylim(0, max(5.0, 110 * float(astray.max())))
    beside.set_ylabel("% of its height")
