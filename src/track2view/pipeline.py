"""The main path, top to bottom: a clip, its tracks and depth, a target camera, the re-filmed clip, the run folder."""

import json
import platform
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float64, UInt8

from track2view import cache
from track2view.burnt_in import BurntIn, find_burnt_in
from track2view.cameras import apply_move, is_keyframes, names_file, parse_move, read_camera, read_keyframes
from track2view.cameras.moves import RECAM_METRES_TO_PIVOT, Easing
from track2view.errors import UserError, notice
from track2view.folders import written_whole
from track2view.geometry import invert
from track2view.guide import GuideWriter, Tool, nearest_depth, write_beside
from track2view.overview import draw_overview
from track2view.preflight import check_disk, check_given, check_made, check_memory, check_view, make_folder
from track2view.progress import progress
from track2view.records import CameraPath, Clip, Queries, TrackSet, ViewTracks, horizontal_fov, scale_of
from track2view.trackers import SfmTracker, Tracker, Tracking, TrackingReport
from track2view.trackers.flow import neighbour_flow
from track2view.trackers.informed import inform
from track2view.trackers.relative_depth import DepthPrior
from track2view.video import VideoWriter
from track2view.warp import DenseDepth, RenderedFrame, WarpRenderer, densify

RelativeTo = Literal["source", "first-frame", "world"]
QUERY_ROWS = 24
QUERY_INTERVAL = 20
QUERY_BATCHES = 12
COMPARE_HEIGHT = 480
SUBJECT_SHARE = 0.01
NEVER_SEEN_COLOUR, ASTRAY_COLOUR = (255, 64, 160), (255, 160, 0)
ASTRAY_BAR = 0.05
"""Share of the picture's height by which things may lie beside their place before one is told."""
VERSIONED = ("track2view", "torch", "numpy", "opencv-contrib-python-headless", "av", "scipy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """A clip and all that is known of it; any number of camera paths are rendered from one.

    Attributes:
        scene: the clip without what is burnt into it.
    """

    clip: Clip
    scene: Clip
    burnt_in: BurntIn | None
    tracking: Tracking
    depth: DenseDepth
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def unit_length(self) -> float:
        """Length of one scene unit (the median depth at frame 0) in the source camera's unit."""
        return 1.0 if self.tracking.camera.unit == "scene" else scale_of(self.tracking.tracks, self.tracking.camera)

    @property
    def pivot(self) -> float:
        """How far what camera moves turn about is, in the source camera's unit: the picture's mean inverse depth at frame 0, inverted;
        or what moves on its own there, if that is nearer and enough to be what the clip is about.

        So that a move does not pass by what is near before a far background, as one of so many median depths would.
        """
        disparity, moving = self.depth.disparity[0], self.depth.moving[0]
        subject = float(disparity[moving].median()) if moving.float().mean() > SUBJECT_SHARE else 0.0
        return 1 / max(subject, float(disparity.mean()))

    def finished(self, image: UInt8[np.ndarray, "H W 3"], frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """A re-filmed frame of the scene as it is shown: what is burnt into the clip at that moment is laid back over it."""
        return image if self.burnt_in is None else self.burnt_in.laid_back(image, self.clip.image(frame))

    def without_overlay(self) -> "Shot":
        """The same where what is burnt in is not laid back: the scene around it fills its place."""
        return replace(self, burnt_in=None)


def prepare(
    clip: Clip,
    *,
    tracker: Tracker | None = None,
    source_camera: CameraPath | None = None,
    tracks: TrackSet | None = None,
    queries: Queries | None = None,
    depth_prior: DepthPrior | None = None,
    use_cache: bool = True,
) -> Shot:
    """Track a clip and find depth for its every pixel; paid once, and remembered by the clip's content.

    Args:
        clip: two frames or more, at least 32 pixels on the short side.
        tracker: :class:`SfmTracker` by default.
        source_camera: the clip's camera path where known; used as it is, but for a focal length that its file did not have: that is
            the one of the tracker's ``fov``, or the report warns of a guess.
        tracks: 3D tracks in the world of ``source_camera`` where known; no tracker runs then.
        queries: where tracks start; :func:`default_queries` by default.
        depth_prior: tells depth where parallax says little, by weight; :class:`track2view.model.depth.NetworkDepth` is one from a folder.
        use_cache: look for, and keep, results in :func:`track2view.cache.cache_folder`.

    Raises:
        UserError: a clip that cannot be tracked, or too little memory.
    """
    tracker = tracker or SfmTracker()
    fov = getattr(tracker, "fov", None)
    check_given(clip, source_camera, tracks, fov)
    if source_camera is not None and not source_camera.focal_known and fov is not None:
        source_camera = source_camera.with_fov(fov)
    guessed = source_camera is not None and not source_camera.focal_known
    queries = queries or default_queries(clip)
    fingerprint = None if depth_prior is None else depth_prior.fingerprint
    key = cache.content_key(clip, tracker, queries, source_camera, tracks, fingerprint) if use_cache else ""
    burnt_in = find_burnt_in(clip)
    if burnt_in is not None:
        notice(f"{burnt_in.in_words()} that never move: left out of tracking and of depth")
    scene = clip if burnt_in is None else burnt_in.taken_out(clip)
    if use_cache and (known := cache.load(key)) is not None:
        return Shot(clip=clip, scene=scene, burnt_in=burnt_in, tracking=known[0], depth=known[1])
    check_memory(clip)
    started = time.perf_counter()
    relative = None if depth_prior is None else depth_prior.look(scene)
    looked = time.perf_counter()
    if tracks is None:
        tracking = tracker.track(scene, queries, source_camera)
    else:
        assert source_camera is not None
        tracking = _given(scene, tracks, source_camera)
    tracked = time.perf_counter()
    flow, aligned = tracking.flow or neighbour_flow(scene), None
    if depth_prior is not None and relative is not None:
        tracking, aligned = inform(tracking, relative, depth_prior.name)
    depth = densify(scene, flow, tracking.tracks, tracking.camera, aligned)
    finished = time.perf_counter()
    if guessed:
        fov = horizontal_fov(tracking.camera.intrinsics[0], tracking.camera.size)
        warning = f"the source camera's file has no focal length: assumed {fov:.0f}° wide; give --fov if you know it"
        tracking = replace(tracking, report=replace(tracking.report, warnings=(*tracking.report.warnings, warning)))
    tracking = replace(tracking, flow=None, depth_deviation=None, tracks=_outside(tracking.tracks, tracking.camera, burnt_in))
    if use_cache:
        cache.store(key, tracking, depth)
    seconds = {"tracking": tracked - looked, "depth": finished - tracked + looked - started}
    return Shot(clip=clip, scene=scene, burnt_in=burnt_in, tracking=tracking, depth=depth, seconds=seconds)


def default_queries(clip: Clip, planned: Queries | None = None) -> Queries:
    """A grid as fine as the paper's (24 rows), at as many frames as keep the scene covered.

    Args:
        planned: what a model wants tracks to start from: at these frames its grid takes the place of ours.
    """
    height, width = clip.size
    interval = max(QUERY_INTERVAL, -(-len(clip) // (QUERY_BATCHES - 1)))
    frames = {*range(0, len(clip), interval), len(clip) - 1}
    rows, columns = QUERY_ROWS, max(4, round(QUERY_ROWS * width / height))
    if planned is None:
        return Queries.grid(sorted(frames), rows, columns)
    ours = Queries.grid(sorted(frames - set(planned.frame.tolist())), rows, columns)
    return Queries(frame=torch.cat([ours.frame, planned.frame]), uv=torch.cat([ours.uv, planned.uv]))


def target_camera(
    shot: Shot,
    camera: str | Path | CameraPath,
    *,
    amount: float | None = None,
    easing: Easing = "smooth",
    relative_to: RelativeTo | None = None,
    resample: bool = False,
) -> CameraPath:
    """The path that a move's name, a keyframe file or a camera file asks for, in the source camera's world and unit.

    Args:
        camera: see :func:`track2view.cameras.parse_move`, :func:`read_keyframes` and :func:`read_camera`; a path is placed as a file is.
        amount: of a move.
        easing: of a move.
        relative_to: a move is laid over the source's own path ("source", its default) or over its first camera
            ("first-frame"); a file is carried so that its first camera stands where the source's does ("first-frame",
            its default) or taken as it is ("world", for files in the world of the source camera).
        resample: stretch a file of another length to the clip's.

    Raises:
        UserError: unknown move or format, a path of another length, or one that never sees the scene.
    """
    source = shot.tracking.camera
    if isinstance(camera, CameraPath):
        target = _placed(camera, shot, "camera path", relative_to, resample=resample)
        check_view(shot.tracking, target, "camera path")
        return target
    path = Path(str(camera).partition("#")[0])
    if not names_file(camera):
        if relative_to == "world":
            raise UserError("--relative-to world is for camera files; a move is laid over source or first-frame")
        target = apply_move(parse_move(str(camera), amount, easing, relative_to or "source"), source, shot.pivot)
    elif path.exists() and is_keyframes(path):
        target = read_keyframes(path, source, shot.unit_length)
    else:
        target = _placed(read_camera(camera, shot.clip.size), shot, str(path), relative_to, resample=resample)
    check_view(shot.tracking, target, str(camera))
    return target


def refilm(shot: Shot, target: CameraPath, device: str = "cpu") -> Iterator[RenderedFrame]:
    """The scene as seen from ``target``, frame by frame."""
    renderer = WarpRenderer(shot.scene, shot.depth, shot.tracking.camera, device, shot.tracking.report.focal_deviation)
    imagined = renderer.imagine(target)
    for frame in progress(range(len(shot.clip)), "re-filming", len(shot.clip)):
        yield renderer.render(target, frame, imagined)


def write_run(
    shot: Shot,
    target: CameraPath,
    out: Path | str,
    *,
    made: Clip | None = None,
    guides: tuple[Tool, ...] = (),
    settings: dict[str, object] | None = None,
    device: str = "cpu",
) -> Path:
    """Render a target path and write its run folder: all of its files together, once all are complete.

    Args:
        guides: other people's generators that get what they eat, in a folder of their own (:mod:`track2view.guide`).
        made: the clip as another renderer has made it, of its length and size; what was seen and never seen is still told by the warp.

    Returns:
        The path of ``output.mp4``.

    Raises:
        UserError: what was made does not belong to the clip; a folder that cannot be written to, or too little room; what was in it
            before is left as it was.
    """
    clip, tracking, out = shot.clip, shot.tracking, Path(out)
    if made is not None:
        check_made(clip, made)
    make_folder(out)
    check_disk(clip, out)
    with written_whole(out) as folder:
        started = time.perf_counter()
        nearest = nearest_depth(tracking.tracks, target)
        with GuideWriter(folder, guides, clip, nearest) as guide:
            shown, coverage, astray = _write_videos(shot, target, folder, made, guide, device)
        rendered = time.perf_counter()
        write_beside(folder, guides, clip, tracking, target)
        tracking.tracks.save(folder / "tracks.npz")
        tracking.camera.save(folder / "source_camera.json")
        target.save(folder / "target_camera.json")
        draw_overview(folder / "overview.png", clip, tracking.tracks, tracking.camera, target, shown, coverage, astray)
        unsure = _astray_warning(astray, float(clip.fps))
        document = {
            "track2view": version("track2view"),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in VERSIONED},
            "settings": settings or {},
            "clip": {"frames": len(clip), "size": list(clip.size), "fps": str(clip.fps), "audio": clip.audio is not None},
            "tracking": asdict(tracking.report),
            "seen_now": round(float(coverage[:, 0].mean()), 4),
            "seen": round(float(coverage[:, 1].mean()), 4),
            "depth_nearest": nearest,
            "astray": [round(float(each), 4) for each in astray],
            "seconds": {**shot.seconds, "rendering": rendered - started, "pictures": time.perf_counter() - rendered},
            "tracks_reused": not shot.seconds,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024),
            "warnings": [*tracking.report.warnings, *unsure],
        }
        (folder / "run.json").write_text(json.dumps(document, indent=2))
    for warning in unsure:
        notice(warning)
    return out / "output.mp4"


def _astray_warning(astray: Float64[np.ndarray, "T"], fps: float) -> list[str]:
    """What will look wrong, and what to do, where depth is too unsure for the move."""
    worst = int(astray.argmax())
    if astray[worst] <= ASTRAY_BAR:
        return []
    return [
        f"depth is not sure enough for this move: by {worst / fps:.1f} s things may lie {100 * astray[worst]:.0f} % of its height "
        "beside their place, and bend or tear (orange in compare.mp4); a smaller --amount bends less, and --fov helps if you know it"
    ]


def write_tracks(shot: Shot, out: Path | str) -> Path:
    """Write what is known of a clip's points and camera: ``tracks.npz``, whose path it returns, and ``source_camera.json``.

    Raises:
        UserError: a folder that cannot be written to.
    """
    make_folder(Path(out))
    with written_whole(Path(out)) as folder:
        shot.tracking.tracks.save(folder / "tracks.npz")
        shot.tracking.camera.save(folder / "source_camera.json")
    return Path(out) / "tracks.npz"


def _write_videos(
    shot: Shot, target: CameraPath, folder: Path, made: Clip | None, guide: GuideWriter, device: str
) -> tuple[list[UInt8[np.ndarray, "H W 3"]], Float64[np.ndarray, "T 2"], Float64[np.ndarray, "T"]]:
    """Write output.mp4 and compare.mp4; the first, middle and last image, the shares of each seen at its time and at any time, and by
    what share of its height what is seen may lie beside its place, on average."""
    clip = shot.clip
    kept: list[UInt8[np.ndarray, "H W 3"]] = []
    coverage, astray = np.zeros((len(clip), 2)), np.zeros(len(clip))
    with (
        VideoWriter(folder / "output.mp4", clip.fps, audio=clip.audio) as output,
        VideoWriter(folder / "compare.mp4", clip.fps, audio=clip.audio, crf=20) as compare,
    ):
        for frame, view in enumerate(refilm(shot, target, device)):
            warped = view.image
            guide.add(warped, view.seen.numpy(), view.disparity)
            image = shot.finished(warped if made is None else made.image(frame), frame)
            output.add(image)
            share = view.astray.numpy() / clip.size[0]
            compare.add(_side_by_side(clip.image(frame), image, view.seen.numpy(), share > ASTRAY_BAR))
            coverage[frame] = float(view.seen_now.float().mean()), float(view.seen.float().mean())
            astray[frame] = share.sum() / max(int(view.seen.sum()), 1)
            kept += [image] * [0, (len(clip) - 1) // 2, len(clip) - 1].count(frame)
    return kept, coverage, astray


def _outside(tracks: TrackSet, camera: CameraPath, burnt_in: BurntIn | None) -> TrackSet:
    """Tracks are not seen where something burnt in is: there the scene was painted over."""
    if burnt_in is None:
        return tracks
    view = ViewTracks.of(tracks, camera)
    height, width = burnt_in.mask.shape
    columns = (view.uv[..., 0].nan_to_num() * width).long().clamp(0, width - 1)
    rows = (view.uv[..., 1].nan_to_num() * height).long().clamp(0, height - 1)
    return replace(tracks, visible=tracks.visible & ~torch.from_numpy(burnt_in.mask)[rows, columns])


def _given(clip: Clip, tracks: TrackSet, camera: CameraPath) -> Tracking:
    frames = tracks.xyz_world.shape[0]
    if not frames == len(camera) == len(clip):
        raise UserError(f"frames disagree: the clip has {len(clip)}, the tracks {frames}, the source camera {len(camera)}")
    if not bool(tracks.visible.any()):
        raise UserError("--tracks: no track is visible in the source view, at no frame; track the clip again, or leave --tracks out")
    moving = tracks.moving.float().mean() if tracks.moving is not None and len(tracks.moving) else torch.zeros(())
    report = TrackingReport(
        tracker="given",
        focal_estimated=False,
        horizontal_fov=0.0,
        parallax_degrees=0.0,
        reprojection_pixels=0.0,
        share_lost=1.0 - float(tracks.visible.float().mean()),
        share_moving=float(moving),
    )
    return Tracking(tracks=tracks, camera=camera.resized(clip.size), report=report)


def _placed(camera: CameraPath, shot: Shot, name: str, relative_to: RelativeTo | None, *, resample: bool) -> CameraPath:
    """A file's path in the source camera's world."""
    source = shot.tracking.camera
    if len(camera) != len(source):
        if not resample:
            raise UserError(
                f"{name}: has {len(camera)} frames, the clip has {len(source)}; use --resample to stretch it, or --frames {len(camera)}"
            )
        camera = camera.resampled(len(source))
    if relative_to == "source":
        raise UserError("--relative-to source is for moves; a camera file is placed at first-frame or world")
    if relative_to == "world":
        return replace(camera.resized(shot.clip.size), unit=source.unit, fps=source.fps)
    if camera.unit == "scene":
        camera = camera.scaled(shot.unit_length, source.unit)
    elif source.unit == "scene":
        camera = camera.scaled(1 / RECAM_METRES_TO_PIVOT, "scene")
    step = invert(camera.world_from_camera[:1]) @ camera.world_from_camera
    zoom = camera.intrinsics[:, [0, 1], [0, 1]] / camera.intrinsics[:1, [0, 1], [0, 1]]
    intrinsics = source.intrinsics[:1].repeat(len(source), 1, 1)
    intrinsics[:, [0, 1], [0, 1]] *= zoom
    return replace(source, world_from_camera=source.world_from_camera[:1] @ step, intrinsics=intrinsics)


def _side_by_side(
    source: UInt8[np.ndarray, "H W 3"],
    result: UInt8[np.ndarray, "H W 3"],
    seen: Bool[np.ndarray, "H W"],
    astray: Bool[np.ndarray, "H W"],
) -> UInt8[np.ndarray, "h w 3"]:
    """Source, result, and the result with what was never seen in pink and what may be astray tinged orange."""
    marked = result // 3
    marked[astray] += np.array(ASTRAY_COLOUR, np.uint8) // 3
    marked[~seen] = NEVER_SEEN_COLOUR
    panels = [source, result, marked]
    height, width = result.shape[:2]
    if height > COMPARE_HEIGHT:
        size = (2 * round(width * COMPARE_HEIGHT / height / 2), COMPARE_HEIGHT)
        panels = [cv2.resize(panel, size, interpolation=cv2.INTER_AREA) for panel in panels]
    return np.concatenate([cv2.resize(panel, panels[1].shape[1::-1]) for panel in panels], axis=1)
