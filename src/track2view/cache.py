"""What was computed once about a clip, kept by its content: tracks, camera, dense depth."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import platformdirs
import torch

from track2view.cameras import read_camera
from track2view.records import CameraPath, Clip, TrackSet, atomic_path
from track2view.trackers import Tracking, TrackingReport
from track2view.warp import DenseDepth

VERSION = "4"
LAST_WRITTEN = "report.json"


def cache_folder() -> Path:
    """Where results are kept: ``TRACK2VIEW_CACHE``, or the user's cache folder."""
    given = os.environ.get("TRACK2VIEW_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("track2view"))


def content_key(clip: Clip, settings: dict[str, object], camera: CameraPath | None, tracks: TrackSet | None) -> str:
    """A hash of everything that a tracking depends on."""
    digest = hashlib.sha256(json.dumps([VERSION, settings, str(clip.fps), list(clip.size)], sort_keys=True, default=str).encode())
    for frame in clip.frames:
        digest.update(frame.numpy().tobytes())
    known = [] if camera is None else [camera.world_from_camera, camera.intrinsics]
    known += [] if tracks is None else [tracks.xyz_world, tracks.visible]
    for part in known:
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:24]


def load(key: str) -> tuple[Tracking, DenseDepth] | None:
    """What was stored under ``key``; None where nothing complete is."""
    folder = cache_folder() / key
    if not (folder / LAST_WRITTEN).exists():
        return None
    report = json.loads((folder / LAST_WRITTEN).read_text())
    report["warnings"] = tuple(report["warnings"])
    tracking = Tracking(
        tracks=TrackSet.load(folder / "tracks.npz"),
        camera=read_camera(folder / "camera.json"),
        report=TrackingReport(**report),
    )
    with np.load(folder / "depth.npz") as archive:
        disparity = torch.from_numpy(archive["disparity"].astype(np.float32) * archive["scale"])
        moving = torch.from_numpy(np.unpackbits(archive["moving"], axis=-1, count=disparity.shape[-1]).astype(bool))
    return tracking, DenseDepth(disparity=disparity, moving=moving)


def store(key: str, tracking: Tracking, depth: DenseDepth) -> None:
    """Keep a result; it counts as present only once its last file is written."""
    folder = cache_folder() / key
    tracking.tracks.save(folder / "tracks.npz")
    tracking.camera.save(folder / "camera.json")
    with atomic_path(folder / "depth.npz") as partial:
        scale = np.float32(max(float(depth.disparity.max()), 1e-9) / 1024)
        np.savez_compressed(
            partial,
            disparity=(depth.disparity.numpy() / scale).astype(np.float16),
            scale=scale,
            moving=np.packbits(depth.moving.numpy(), axis=-1),
        )
    with atomic_path(folder / LAST_WRITTEN) as partial:
        partial.write_text(json.dumps(asdict(tracking.report)))


def clear() -> None:
    """Forget everything."""
    shutil.rmtree(cache_folder(), ignore_errors=True)
