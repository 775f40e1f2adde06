"""SpatialTrackerV2 behind track2view's tracker contract: ``python spatialtracker_v2.py clip.npz tracking.npz``.

Runs in SpatialTrackerV2's own environment (docs/trackers.md); imports nothing of track2view. SPATIALTRACKER_V2_REPO names its
checkout. Written from that repository's published interface; not run by us on its weights.

What has to be minded: the video is float in 0–255, 518 wide, a multiple of 14 high, so that x and y are scaled unlike, and
what is higher than 518 is cropped; queries are (frame, x, y) in the pixels of that picture; without ``full_point`` tracks are
not those of the queries, and the tail is filled up with copies; 3D tracks come in the camera's space; visibility is a
probability with 0.2 added.
"""

import os
import sys
from dataclasses import dataclass

import numpy as np

WIDTH, MULTIPLE = 518, 14
VISIBLE = 0.5 + 0.2
QUERY_PIXELS = 2.0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a clip becomes the network's picture: x and y scaled each by its own factor, rows above ``top`` cut off.

    Attributes:
        height: of the scaled picture, before rows are cut.
        rows: of the network's picture.
    """

    scale_x: float
    scale_y: float
    top: int
    height: int
    rows: int

    @staticmethod
    def of(height: int, width: int) -> "Fit":
        """The fit of a clip of this size."""
        scaled = max(MULTIPLE, round(height * WIDTH / width / MULTIPLE) * MULTIPLE)
        rows = min(scaled, WIDTH)
        return Fit(scale_x=WIDTH / width, scale_y=scaled / height, top=(scaled - rows) // 2, height=scaled, rows=rows)

    def points(self, pixels: np.ndarray) -> np.ndarray:
        """The clip's pixel coordinates as the network's; pixel centres stand at .5 in ours and at whole numbers in its."""
        return pixels * np.array([self.scale_x, self.scale_y]) - np.array([0.5, self.top + 0.5])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`points`."""
        return (points + np.array([0.5, self.top + 0.5])) / np.array([self.scale_x, self.scale_y])

    def intrinsics(self, theirs: np.ndarray) -> np.ndarray:
        """The network's intrinsics as the clip's."""
        from_network = np.array(
            [[1 / self.scale_x, 0, 0.5 / self.scale_x], [0, 1 / self.scale_y, (self.top + 0.5) / self.scale_y], [0, 0, 1]]
        )
        return from_network @ theirs


def world_points(in_camera: np.ndarray, world_from_camera: np.ndarray) -> np.ndarray:
    """[T, N, 3] points of each frame's camera in the world."""
    return np.einsum("tij,tnj->tni", world_from_camera[:, :3, :3], in_camera) + world_from_camera[:, None, :3, 3]


def in_given_cameras(
    pixels: np.ndarray, depth: np.ndarray, found: np.ndarray, given: np.ndarray, intrinsics: np.ndarray
) -> tuple[np.ndarray, float]:
    """World points where the cameras are known: rays through ``pixels``, at found depths brought to the given path's scale.

    The scale is that at which the found path's extent is the given one's; depths of cameras that only turn keep theirs.
    """
    extent = [float(np.linalg.norm(path[:, :3, 3] - path[:, :3, 3].mean(0))) for path in (given, found)]
    scale = extent[0] / extent[1] if min(extent) > 1e-6 else 1.0
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    rays = np.einsum("tij,tnj->tni", np.linalg.inv(intrinsics), homogeneous)
    return world_points(rays * (depth * scale)[..., None], given), scale


def check_queries(found: np.ndarray, query_frame: np.ndarray, wanted: np.ndarray) -> None:
    """Each track must pass through its query, else it is another query's."""
    apart = np.linalg.norm(found[query_frame, np.arange(len(wanted))] - wanted, axis=-1)
    if (apart > QUERY_PIXELS).any():
        worst = int(apart.argmax())
        raise SystemExit(f"track {worst} is {apart[worst]:.1f} pixels from its query: tracks do not match queries")


def main(given_path: str, made_path: str) -> None:
    """Read the request, run both networks, write the answer."""
    sys.path.insert(0, os.environ["SPATIALTRACKER_V2_REPO"])
    import torch
    from models.SpaTrackV2.models.predictor import Predictor  # pyrefly: ignore
    from models.SpaTrackV2.models.vggt4track.models.vggt_moe import VGGT4Track  # pyrefly: ignore

    asked = np.load(given_path)
    frames = torch.from_numpy(asked["frames"]).permute(0, 3, 1, 2).float()
    height, width = frames.shape[2:]
    fit = Fit.of(height, width)
    video = torch.nn.functional.interpolate(frames, size=(fit.height, WIDTH), mode="bicubic", align_corners=False).clamp(0, 255)
    video = video[:, :, fit.top : fit.top + fit.rows]
    query_pixels = asked["query_uv"] * [width, height]
    queries = np.concatenate([asked["query_frame"][:, None], fit.points(query_pixels)], axis=-1).astype(np.float32)
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        front = VGGT4Track.from_pretrained("Yuxihenry/SpatialTrackerV2_Front").eval().cuda()
        scene = front(video[None].cuda() / 255)
        depth, certain = scene["points_map"][..., 2].squeeze(), scene["unc_metric"].squeeze() > 0.5
        poses, intrinsics = (scene[name].squeeze().float().cpu().numpy() for name in ("poses_pred", "intrs"))
        del front
        tracker = Predictor.from_pretrained("Yuxihenry/SpatialTrackerV2-Offline").eval().cuda()
        answer = tracker.forward(
            video,
            depth=depth.float().cpu().numpy(),
            intrs=intrinsics,
            extrs=poses,
            queries=queries,
            fps=1,
            full_point=True,
            iters_track=4,
            query_no_BA=True,
            fixed_cam=False,
            stage=1,
            unc_metric=certain.cpu().numpy(),
            support_frame=len(video) - 1,
            replace_ratio=0.2,
        )
    poses, intrinsics, _, _, in_camera, image, visibility, confidence = (
        each.float().cpu().numpy() if torch.is_tensor(each) else each for each in answer[:8]
    )
    count = len(queries)
    pixels = fit.pixels(image[:, :count, :2])
    check_queries(pixels, asked["query_frame"], query_pixels)
    intrinsics = np.stack([fit.intrinsics(each) for each in np.broadcast_to(intrinsics, (len(frames), 3, 3))])
    xyz = world_points(in_camera[:, :count, :3], poses)
    if "world_from_camera" in asked:
        xyz, _ = in_given_cameras(pixels, in_camera[:, :count, 2], poses, asked["world_from_camera"], asked["intrinsics"])
        poses, intrinsics = asked["world_from_camera"], asked["intrinsics"]
    np.savez(
        made_path,
        xyz_world=xyz.astype(np.float32),
        visible=visibility.reshape(len(frames), -1)[:, :count] > VISIBLE,
        confidence=confidence.reshape(len(frames), -1)[:, :count].clip(0, 1).astype(np.float32),
        world_from_camera=poses.astype(np.float64),
        intrinsics=intrinsics.astype(np.float64),
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
