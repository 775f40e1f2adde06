"""Points that were hidden, or lost, taken up again: where they must be is known, so only their looks are asked for."""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8

from track2view.geometry import project, unproject
from track2view.records import CameraPath
from track2view.trackers.flow import NeighbourFlow, match, sample

LOOK_INTERVAL = 4
AGAIN_PIXELS = 3.0
MARGIN = 4.0
ARM = 6.0
SAME_PATTERN = 0.92
MAX_GAIN = 2.0
PATTERN = np.stack(np.meshgrid(np.arange(-6, 7), np.arange(-6, 7)), axis=-1).reshape(-1, 2).astype(np.float32)


def seen_again(
    flow: NeighbourFlow,
    camera: CameraPath,
    query_frame: Int64[np.ndarray, "N"],
    query_points: Float32[np.ndarray, "N 2"],
    xyz: Float32[np.ndarray, "T N 3"],
    visible: Bool[np.ndarray, "T N"],
) -> Bool[np.ndarray, "T N"]:
    """Visibility, with the frames added in which the query's patch is found where the point must be.

    Every few frames the patch, stretched as a surface that faced the query's camera would be, is matched at the point's
    projection; one in a shadow, or at the edge of a thing, is known by the pattern of half a patch. Frames between two in
    which a point is seen so, or was followed, count too.

    Args:
        camera: at the flow's size.
        query_points: in the flow's pixels.
    """
    frames = len(visible)
    looked_at = np.unique(np.r_[0:frames:LOOK_INTERVAL, frames - 1])
    found = visible.copy()
    for frame in looked_at:
        expected, in_sight = _expected(camera, int(frame), xyz[frame])
        wanted = in_sight & ~visible[frame]
        for query in np.unique(query_frame[wanted]):
            batch = np.flatnonzero(wanted & (query_frame == query))
            stretch = _stretch(camera, int(query), int(frame), query_points[batch], (xyz[query, batch], xyz[frame, batch]))
            matched, alike = match(flow.grey[query], flow.grey[frame], query_points[batch], expected[batch], stretch)
            near = np.linalg.norm(matched - expected[batch], axis=-1) < AGAIN_PIXELS
            shaded = _correlation(flow.grey[query], flow.grey[frame], query_points[batch], expected[batch], stretch) > SAME_PATTERN
            found[frame, batch] = (alike & near) | shaded
    for before, after in pairwise(looked_at):
        found[before + 1 : after] |= found[before] & found[after]
    return found


def _expected(camera: CameraPath, frame: int, xyz: Float32[np.ndarray, "N 3"]) -> tuple[Float32[np.ndarray, "N 2"], Bool[np.ndarray, "N"]]:
    pixels, depth = project(torch.from_numpy(xyz).double(), camera.camera_from_world[frame], camera.intrinsics[frame])
    height, width = camera.size
    within = (pixels > MARGIN).all(-1) & (pixels[:, 0] < width - MARGIN) & (pixels[:, 1] < height - MARGIN) & (depth > 0)
    return pixels.numpy().astype(np.float32), within.numpy()


def _stretch(
    camera: CameraPath,
    query: int,
    frame: int,
    query_points: Float32[np.ndarray, "n 2"],
    xyz: tuple[Float32[np.ndarray, "n 3"], Float32[np.ndarray, "n 3"]],
) -> Float32[np.ndarray, "n 2 2"]:
    """``image_from_template`` around points, of a surface that faces the query's camera and moves with its point, unturned.

    Args:
        xyz: where the points are at the query's frame, and at the other.
    """
    before, after = (torch.from_numpy(each).double() for each in xyz)
    _, depth = project(before, camera.camera_from_world[query], camera.intrinsics[query])
    there, _ = project(after, camera.camera_from_world[frame], camera.intrinsics[frame])
    columns = []
    for arm in ((ARM, 0.0), (0.0, ARM)):
        beside = torch.from_numpy(query_points + np.array(arm, np.float32)).double()
        beside = unproject(beside, depth, camera.world_from_camera[query], camera.intrinsics[query])
        pixels, _ = project(beside + after - before, camera.camera_from_world[frame], camera.intrinsics[frame])
        columns.append((pixels - there) / ARM)
    return torch.stack(columns, dim=-1).float().numpy()


def _correlation(
    template: UInt8[np.ndarray, "H W"],
    image: UInt8[np.ndarray, "H W"],
    at: Float32[np.ndarray, "n 2"],
    expected: Float32[np.ndarray, "n 2"],
    stretch: Float32[np.ndarray, "n 2 2"],
) -> Float32[np.ndarray, "n"]:
    """Normalised cross-correlation of the half patches that agree best: near 1 for one pattern, whatever light falls on it.

    At the edge of a thing, what lies behind one half of the patch goes its own way. Light may double or halve, no more.
    """
    patches = sample(template, at[:, None] + PATTERN), sample(image, expected[:, None] + np.einsum("nij,kj->nki", stretch, PATTERN))
    best = np.zeros(len(at), np.float32)
    for half in (PATTERN[:, 0] <= 1, PATTERN[:, 0] >= -1, PATTERN[:, 1] <= 1, PATTERN[:, 1] >= -1):
        light = [each[:, half].mean(1, dtype=np.float32) + 1.0 for each in patches]
        one, other = (each[:, half].astype(np.float32) - each[:, half].mean(1, keepdims=True, dtype=np.float32) for each in patches)
        alike = (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1) + 1.0)
        best = np.maximum(best, np.where((light[1] < MAX_GAIN * light[0]) & (light[0] < MAX_GAIN * light[1]), alike, 0.0))
    return best
