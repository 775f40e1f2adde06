"""TAPNext++ tracks on Depth Anything 3 depth behind track2view's contract: ``python tapnext_da3.py clip.npz tracking.npz``.

Runs in an environment with both (docs/trackers.md); imports nothing of track2view. TAPNEXT_CHECKPOINT names TAPNext's weights.
Written from the two packages' published interfaces; not run by us on their weights.

TAPNext follows queries forwards only, in pictures of 256×256, with points as (frame, y, x): so the clip is passed twice, the
second time backwards, and each track is put together at its query. Depth Anything 3 gives depth, and cameras as
world-to-camera with intrinsics of its own picture.
"""

import os
import sys

import numpy as np

SIDE = 256
QUERY_PIXELS = 4.0


def at_query(forwards: np.ndarray, backwards: np.ndarray, query_frame: np.ndarray) -> np.ndarray:
    """[T, N, …] of two passes, the backward one already in the clip's order: each track's own before and after its query."""
    later = np.arange(len(forwards))[:, None] >= query_frame[None]
    return np.where(later.reshape(*later.shape, *[1] * (forwards.ndim - 2)), forwards, backwards)


def sampled(maps: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """[T, N] bilinear samples of [T, h, w] maps at [0, 1] image units; borders are held."""
    height, width = maps.shape[1:]
    column, row = (uv[..., axis].clip(0, 1) * side - 0.5 for axis, side in ((0, width), (1, height)))
    left, above = np.floor(column).astype(int), np.floor(row).astype(int)
    time = np.arange(len(maps))[:, None]
    found = np.zeros(uv.shape[:-1])
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - right - (column - left)) * np.abs(1 - down - (row - above))
            found += weight * maps[time, (above + down).clip(0, height - 1), (left + right).clip(0, width - 1)]
    return found


def lifted(uv: np.ndarray, depth: np.ndarray, world_from_camera: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[T, N, 3] world points at ``depth`` behind image units."""
    homogeneous = np.concatenate([uv * [size[1], size[0]], np.ones_like(uv[..., :1])], axis=-1)
    in_camera = np.einsum("tij,tnj->tni", np.linalg.inv(intrinsics), homogeneous) * depth[..., None]
    return np.einsum("tij,tnj->tni", world_from_camera[:, :3, :3], in_camera) + world_from_camera[:, None, :3, 3]


def scale_to(given: np.ndarray, found: np.ndarray) -> float:
    """The factor that brings a found path to a given one's extent; 1 where either stands still."""
    extent = [float(np.linalg.norm(path[:, :3, 3] - path[:, :3, 3].mean(0))) for path in (given, found)]
    return extent[0] / extent[1] if min(extent) > 1e-6 else 1.0


def main(given_path: str, made_path: str) -> None:
    """Read the request, run both networks, write the answer."""
    import torch
    from depth_anything_3.api import DepthAnything3  # pyrefly: ignore
    from tapnet.tapnext.tapnext_torch import TAPNext  # pyrefly: ignore
    from tapnet.tapnext.tapnext_torch_utils import restore_model_from_jax_checkpoint  # pyrefly: ignore

    asked = np.load(given_path)
    frames, query_frame, query_uv = asked["frames"], asked["query_frame"], asked["query_uv"]
    size, count = frames.shape[1:3], len(frames)
    small = torch.nn.functional.interpolate(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), size=(SIDE, SIDE), mode="area")
    video = (small / 127.5 - 1).permute(0, 2, 3, 1)[None].cuda()
    model = restore_model_from_jax_checkpoint(TAPNext(image_size=(SIDE, SIDE)), os.environ["TAPNEXT_CHECKPOINT"]).eval().cuda()

    def followed(video: "torch.Tensor", frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = np.concatenate([frame[:, None], query_uv[:, ::-1] * SIDE], axis=-1).astype(np.float32)
        tracks, visible, state = [], [], None
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.float16):
            for step in range(count):
                asked_points = {"query_points": torch.from_numpy(points)[None].cuda()} if state is None else {"state": state}
                track, _, seen, state = model(video=video[:, step : step + 1], **asked_points)
                tracks.append(track[0, 0].float().cpu().numpy())
                visible.append(seen[0, 0, :, 0].float().cpu().numpy())
        return np.stack(tracks)[..., ::-1] / SIDE, 1 / (1 + np.exp(-np.stack(visible)))

    ahead, ahead_seen = followed(video, query_frame)
    back, back_seen = (each[::-1] for each in followed(video.flip(1), count - 1 - query_frame))
    uv, seen = at_query(ahead, back, query_frame), at_query(ahead_seen, back_seen, query_frame)
    apart = np.linalg.norm((uv[query_frame, np.arange(len(query_uv))] - query_uv) * [size[1], size[0]], axis=-1)
    if (apart > QUERY_PIXELS).any():
        raise SystemExit(f"track {int(apart.argmax())} is {apart.max():.1f} pixels from its query: tracks do not match queries")
    scene = DepthAnything3.from_pretrained("depth-anything/DA3-BASE").to("cuda").inference(list(frames))
    bottom = np.broadcast_to([[[0.0, 0.0, 0.0, 1.0]]], (count, 1, 4))
    poses = np.linalg.inv(np.concatenate([scene.extrinsics[:, :3], bottom], axis=1))
    stretch = np.diag([size[1] / scene.depth.shape[2], size[0] / scene.depth.shape[1], 1.0])
    intrinsics, scale = stretch @ scene.intrinsics, 1.0
    if "world_from_camera" in asked:
        scale = scale_to(asked["world_from_camera"], poses)
        poses, intrinsics = asked["world_from_camera"], asked["intrinsics"]
    depth = sampled(scene.depth, uv) * scale
    trust = sampled(scene.conf / scene.conf.max(), uv)
    np.savez(
        made_path,
        xyz_world=lifted(uv, depth, poses, intrinsics, size).astype(np.float32),
        visible=(seen > 0.5) & ((uv >= 0) & (uv <= 1)).all(-1),
        confidence=(seen * trust).clip(0, 1).astype(np.float32),
        world_from_camera=poses.astype(np.float64),
        intrinsics=intrinsics.astype(np.float64),
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
