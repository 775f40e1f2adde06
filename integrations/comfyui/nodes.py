"""The nodes. Each turns what ComfyUI passes into what track2view takes, calls it, and turns the result back; nothing else happens here.

A number of 0 in a widget leaves a choice to track2view, since widgets cannot be empty. What cannot be used is a ``UserError``, whose one
line ComfyUI shows beside the node.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import folder_paths
import torch
from comfy.utils import ProgressBar

import track2view as t2v
from track2view.cameras import MOVES, is_keyframes, names_file
from track2view.cameras.moves import EASINGS, Easing
from track2view.guide import GREY, TOOLS, Tool, nearest_depth, nearness, with_holes
from track2view.pipeline import RelativeTo
from track2view.preflight import check_camera, check_device
from track2view.progress import heard_by
from track2view.trackers import SfmTracker
from track2view.video import clip_images

from .pictures import Images, Mask, clip_of, grey_images_of, images_of, mask_of

if TYPE_CHECKING:
    from track2view.generation import Generator
    from track2view.model.room import MemoryMode

CLIP, SHOT, CAMERA, MODEL = "TRACK2VIEW_CLIP", "TRACK2VIEW_SHOT", "TRACK2VIEW_CAMERA", "TRACK2VIEW_MODEL"
"""Sockets: a Clip, a Shot, a CameraPath, a Generator."""
Inputs = dict[str, dict[str, Any]]
Graph = dict[str, dict[str, Any]]

WINDOW: dict[str, Any] = {
    "short_side": ("INT", {"default": 480, "min": 0, "max": 8192, "tooltip": "Pixels of the shorter side; 0 keeps the clip's."}),
    "start": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 86400.0, "step": 0.01, "tooltip": "Begin here, in seconds."}),
    "end": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 86400.0, "step": 0.01, "tooltip": "Stop here, in seconds; 0: at its end."}),
    "frames": ("INT", {"default": 81, "min": 0, "max": 100000, "tooltip": "At most this many frames; 0: all."}),
}
AMOUNT = ("FLOAT", {"default": 0.0, "min": -1000.0, "max": 1000.0, "step": 0.01, "tooltip": "Of a move; 0: its own."})
EASING = (list(EASINGS), {"tooltip": "How moves start and stop."})
DEVICE = (["cpu", "cuda"], {"tooltip": "Where to compute."})


class LoadClip:
    """A video of ComfyUI's input folder."""

    CATEGORY = "track2view"
    DESCRIPTION = "Read a part of a video from ComfyUI's input folder, or upload one."
    RETURN_TYPES = (CLIP, "FLOAT")
    RETURN_NAMES = ("clip", "fps")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        names = [entry.name for entry in os.scandir(folder_paths.get_input_directory()) if entry.is_file()]
        videos = sorted(folder_paths.filter_files_content_types(names, ["video"]))
        return {"required": {"video": (videos, {"video_upload": True}), **WINDOW}}

    @classmethod
    def VALIDATE_INPUTS(cls, video: str | None) -> bool | str:
        return video is None or _found(folder_paths.get_annotated_filepath(video))

    @classmethod
    def IS_CHANGED(cls, video: str | None, **window: float) -> str | float:
        return _never_the_same() if video is None else _clip_fingerprint(Path(folder_paths.get_annotated_filepath(video)))

    def load(self, video: str, short_side: int, start: float, end: float, frames: int) -> tuple[t2v.Clip, float]:
        return _read(Path(folder_paths.get_annotated_filepath(video)), short_side, start, end, frames)


class LoadClipFromPath:
    """A video, or a folder of images, anywhere on the machine that ComfyUI runs on."""

    CATEGORY = "track2view"
    DESCRIPTION = "Read a part of a video, or of a folder of images, by its path."
    RETURN_TYPES = (CLIP, "FLOAT")
    RETURN_NAMES = ("clip", "fps")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"path": ("STRING", {"default": ""}), **WINDOW}}

    @classmethod
    def VALIDATE_INPUTS(cls, path: str | None) -> bool | str:
        return path is None or _found(path)

    @classmethod
    def IS_CHANGED(cls, path: str | None, **window: float) -> str | float:
        return _never_the_same() if path is None else _clip_fingerprint(Path(path))

    def load(self, path: str, short_side: int, start: float, end: float, frames: int) -> tuple[t2v.Clip, float]:
        return _read(Path(path), short_side, start, end, frames)


class ClipFromImages:
    """What another node has loaded or made."""

    CATEGORY = "track2view"
    DESCRIPTION = "Take the pictures of another node as a clip (Get Video Components gives images and fps)."
    RETURN_TYPES = (CLIP,)
    RETURN_NAMES = ("clip",)
    FUNCTION = "take"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        fps = ("FLOAT", {"default": 24.0, "min": 0.01, "max": 1000.0, "step": 0.001, "tooltip": "Frames per second."})
        return {"required": {"images": ("IMAGE",), "fps": fps}}

    def take(self, images: Images, fps: float) -> tuple[t2v.Clip]:
        return (clip_of(images, fps),)


class Track:
    """Points, the clip's own camera path, and depth."""

    CATEGORY = "track2view"
    DESCRIPTION = "Track a clip: points, its own camera path, depth. Remembered by content; any number of cameras re-film one shot."
    RETURN_TYPES = (SHOT, "STRING")
    RETURN_NAMES = ("shot", "report")
    FUNCTION = "track"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        fov = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 179.0, "tooltip": "Horizontal field of view in degrees; 0: find it."})
        model = (MODEL, {"tooltip": "Tracks start where this model expects them, too."})
        return {"required": {"clip": (CLIP,), "fov": fov}, "optional": {"model": model}}

    def track(self, clip: t2v.Clip, fov: float, model: "Generator | None" = None) -> tuple[t2v.Shot, str]:
        queries = None if model is None else model.queries(clip)
        with _progress_shown():
            shot = t2v.prepare(clip, tracker=SfmTracker(fov=fov or None), queries=queries)
        for warning in shot.tracking.report.warnings:
            logging.warning("track2view: %s", warning)
        return shot, json.dumps(asdict(shot.tracking.report), indent=2, ensure_ascii=False)


class CameraMove:
    """A move from the list."""

    CATEGORY = "track2view"
    DESCRIPTION = "One of the named moves, laid over the clip's own camera path or over its first camera held still."
    RETURN_TYPES = (CAMERA,)
    RETURN_NAMES = ("camera",)
    FUNCTION = "move"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        moves = (list(MOVES), {"default": "orbit-right", "tooltip": "; ".join(f"{name}: {kind.help}" for name, kind in MOVES.items())})
        relative_to = (["source", "first-frame"], {"tooltip": "What the move is laid over."})
        return {"required": {"shot": (SHOT,), "move": moves, "amount": AMOUNT, "easing": EASING, "relative_to": relative_to}}

    def move(self, shot: t2v.Shot, move: str, amount: float, easing: Easing, relative_to: RelativeTo) -> tuple[t2v.CameraPath]:
        return (t2v.target_camera(shot, move, amount=amount or None, easing=easing, relative_to=relative_to),)


class Camera:
    """Whatever ``track2view render --camera`` takes but two eyes."""

    CATEGORY = "track2view"
    DESCRIPTION = "Moves joined by + (dolly-in:0.4+pan-left:20), a keyframe file, or a camera file (FILE#NAME picks one of several)."
    RETURN_TYPES = (CAMERA,)
    RETURN_NAMES = ("camera",)
    FUNCTION = "find"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        relative_to = (["default", *get_args(RelativeTo)], {"tooltip": "Moves: source, first-frame. Camera files: first-frame, world."})
        resample = ("BOOLEAN", {"default": False, "tooltip": "Stretch a camera file of another length to the clip's."})
        own = {"camera": ("STRING", {"default": "dolly-in:0.4+pan-left:20"}), "amount": AMOUNT, "easing": EASING}
        return {"required": {"shot": (SHOT,), **own, "relative_to": relative_to, "resample": resample}}

    @classmethod
    def VALIDATE_INPUTS(cls, camera: str | None) -> bool | str:
        if camera is None:
            return True
        try:
            check_camera(camera, None)
        except t2v.UserError as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, camera: str | None, **options: object) -> str | float:
        if camera is None:
            return _never_the_same()
        if not names_file(camera):
            return camera
        path = Path(camera.partition("#")[0])
        if path.exists() and is_keyframes(path):
            return _fingerprint([path])
        read = t2v.read_camera(camera)  # its numbers, since a file may have others beside it
        numbers = read.world_from_camera.numpy().tobytes() + read.intrinsics.numpy().tobytes()
        return hashlib.sha256(numbers + repr((read.size, read.unit, read.fps)).encode()).hexdigest()

    def find(
        self,
        shot: t2v.Shot,
        camera: str,
        amount: float,
        easing: Easing,
        relative_to: RelativeTo | Literal["default"],
        resample: bool,
    ) -> tuple[t2v.CameraPath]:
        placed = None if relative_to == "default" else relative_to
        return (t2v.target_camera(shot, camera, amount=amount or None, easing=easing, relative_to=placed, resample=resample),)


class Refilm:
    """The weight-free renderer, and what other generators take of it."""

    CATEGORY = "track2view"
    DESCRIPTION = "The clip from the new camera, without weights; and guide, mask and depth for a generator such as VACE."
    RETURN_TYPES = ("IMAGE", "IMAGE", "MASK", "IMAGE")
    RETURN_NAMES = ("images", "guide", "never_seen", "depth")
    OUTPUT_TOOLTIPS = (
        "The re-filmed clip; what was never seen is made up from the texture around it.",
        "The same with grey holes where nothing was seen, and without what is burnt into the clip.",
        "1 where nothing was seen.",
        "Inverse depth: white is near, black where nothing was seen.",
    )
    FUNCTION = "refilm"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"shot": (SHOT,), "camera": (CAMERA,), "device": DEVICE}}

    def refilm(self, shot: t2v.Shot, camera: t2v.CameraPath, device: str) -> tuple[Images, Images, Mask, Images]:
        check_device(device)
        nearest = nearest_depth(shot.tracking.tracks, camera)
        with _progress_shown():
            views = list(t2v.refilm(shot, camera, device))
        warped = [view.image for view in views]
        seen = [view.seen.numpy() for view in views]
        return (
            images_of(shot.finished(image, frame) for frame, image in enumerate(warped)),
            images_of(with_holes(image, shown, GREY) for image, shown in zip(warped, seen, strict=True)),
            mask_of(~shown for shown in seen),
            grey_images_of(nearness(view.disparity, shown, nearest) for view, shown in zip(views, seen, strict=True)),
        )


class WriteRunFolder:
    """What ``track2view render`` writes."""

    CATEGORY = "track2view"
    DESCRIPTION = "Write the run folder of track2view render: videos, cameras, tracks, guide pack, scene.glb."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("folder",)
    OUTPUT_NODE = True
    FUNCTION = "write"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        folder = ("STRING", {"default": "track2view/run", "tooltip": "In ComfyUI's output folder; files of an older run are replaced."})
        guide = (["none", *TOOLS], {"tooltip": "Also write what this generator takes, under its names and in its colours."})
        made = ("IMAGE", {"tooltip": "The clip as another renderer has made it, of its length and size, for output.mp4."})
        return {
            "required": {"shot": (SHOT,), "camera": (CAMERA,), "folder": folder, "guide": guide, "device": DEVICE},
            "optional": {"made": made},
            "hidden": {"prompt": "PROMPT"},
        }

    def write(
        self,
        shot: t2v.Shot,
        camera: t2v.CameraPath,
        folder: str,
        guide: str,
        device: str,
        made: Images | None = None,
        prompt: Graph | None = None,
    ) -> dict[str, Any]:
        check_device(device)
        out = _in_output(folder)
        clip = None if made is None else clip_of(made, float(shot.clip.fps))
        guides: tuple[Tool, ...] = tuple(tool for tool in TOOLS if tool == guide)
        with _progress_shown():
            t2v.write_run(shot, camera, out, made=clip, guides=guides, settings={"comfyui": _bare(prompt or {})}, device=device)
        inside = out.relative_to(Path(folder_paths.get_output_directory()).resolve()).as_posix()
        shown = {"filename": "compare.mp4", "subfolder": inside, "type": "output"}
        return {"ui": {"images": [shown], "animated": (True,)}, "result": (str(out),)}


class LoadModel:
    """A base and an adapter: its conditioner and its LoRA."""

    CATEGORY = "track2view/diffusion"
    DESCRIPTION = "A Wan base in diffusers' layout and a track2view adapter (conditioner and LoRA); both empty: the mini."
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "base": ("STRING", {"default": "", "tooltip": "Folder; empty: the mini that comes with track2view, 64×112."}),
                "adapter": ("STRING", {"default": "", "tooltip": "Folder; empty: BASE/adapter."}),
                "dtype": (["float32", "bfloat16"], {"tooltip": "Numbers that the transformer works in."}),
                "device": DEVICE,
                "memory": (
                    ["balanced", "fast", "low"],
                    {"tooltip": "One part at a time on the device; all of it; one part at a time, and of the transformer one block."},
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, base: str | None, adapter: str | None, **options: object) -> str | float:
        if base is None or adapter is None:
            return _never_the_same()
        return _fingerprint([file for folder in (base, adapter) if folder for file in sorted(Path(folder).rglob("*"))])

    def load(self, base: str, adapter: str, dtype: str, device: str, memory: "MemoryMode") -> "tuple[Generator]":
        from track2view.generation import Generator, load_model, settings_for

        check_device(device)
        model = load_model(base or None, adapter or None, dtype=getattr(torch, dtype), device=device)
        return (Generator(model=model, settings=settings_for(model.record, memory=memory)),)


class RefilmByDiffusion:
    """The diffusion renderer."""

    CATEGORY = "track2view/diffusion"
    DESCRIPTION = "The clip from the new camera; what was never seen is generated."
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    FUNCTION = "refilm"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        words = {"default": "", "multiline": True}
        return {
            "required": {
                "shot": (SHOT, {"tooltip": "Tracked with the model connected."}),
                "camera": (CAMERA,),
                "model": (MODEL,),
                "prompt": ("STRING", {**words, "tooltip": "What the clip shows; empty works, words help."}),
                "negative_prompt": ("STRING", {**words, "tooltip": "What to lead away from; empty: a usual one."}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: as many as the adapter asks for."}),
                "guidance": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "On the prompt; 0: as the adapter asks; 1: none."},
                ),
                "solver": (["unipc", "euler"],),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True}),
            }
        }

    def refilm(
        self,
        shot: t2v.Shot,
        camera: t2v.CameraPath,
        model: "Generator",
        prompt: str,
        negative_prompt: str,
        steps: int,
        guidance: float,
        solver: Literal["unipc", "euler"],
        seed: int,
    ) -> tuple[Images]:
        from track2view.generation import settings_for

        settings = settings_for(
            model.model.record,
            prompt=prompt,
            negative_prompt=negative_prompt or None,
            steps=steps or None,
            solver=solver,
            guidance=guidance or None,
            seed=seed,
            memory=model.settings.memory,
        )
        with _progress_shown():
            made = replace(model, settings=settings).refilm(shot, camera, Path(folder_paths.get_temp_directory()))
        return (images_of(shot.finished(image, frame) for frame, image in enumerate(clip_images(made))),)


def _read(path: Path, short_side: int, start: float, end: float, frames: int) -> tuple[t2v.Clip, float]:
    with _progress_shown():
        clip = t2v.read_clip(path, short_side=short_side or None, start=start, end=end or None, frames=frames or None)
    return clip, float(clip.fps)


def _found(path: str) -> bool | str:
    return bool(path and Path(path).exists()) or f"{path!r}: no such file; give the path of a video or of a folder of images"


def _clip_fingerprint(path: Path) -> str:
    return _fingerprint([path] if path.is_file() else sorted(path.iterdir()))


def _never_the_same() -> float:
    """For what comes by a link and is not known yet: a number that equals none, so that the node runs. A new one each time, since Python
    takes one and the same object for equal within the tuples that ComfyUI compares."""
    return float("nan")


def _fingerprint(files: Iterable[Path]) -> str:
    """Another one as soon as one of the files is written again."""
    stats = [(str(file), file.stat()) for file in files]
    return hashlib.sha256(repr([(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats]).encode()).hexdigest()


def _in_output(folder: str) -> Path:
    """A folder within ComfyUI's output folder: who may run graphs need not be one who may write anywhere."""
    output = Path(folder_paths.get_output_directory()).resolve()
    out = (output / folder).resolve()
    if output not in out.parents:
        raise t2v.UserError(f"folder: expected one inside of ComfyUI's output folder, such as track2view/run, got {folder!r}")
    return out


def _bare(graph: Graph) -> Graph:
    """What a graph says, without what ComfyUI notes in it as it runs."""
    return {name: {key: node[key] for key in ("class_type", "inputs")} for name, node in graph.items()}


@contextmanager
def _progress_shown() -> Iterator[None]:
    """In the block, work moves ComfyUI's bar, which raises when the user cancels."""
    bar = ProgressBar(1)
    with heard_by(lambda what, done, total: bar.update_absolute(done, total or done + 1)):
        yield
