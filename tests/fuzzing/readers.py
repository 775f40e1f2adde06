"""Everything that opens a file of somebody else's making, as a function of a path; and what makes its seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from corpus import Seed, cameras, models, records, videos

SHOT = (48, 64)


@dataclass(frozen=True, slots=True)
class Reader:
    """A fuzz target.

    Attributes:
        make: writes seeds into a folder.
        read: opens one input; a :class:`track2view.errors.UserError` is a right answer, any other exception is a fault.
        modules: imported once, before inputs are read: what loading them takes is not the input's.
        few: inputs that ``make test`` tries.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    modules: tuple[str, ...] = ()
    few: int = 120


def read_camera(path: Path) -> None:
    from track2view.cameras.formats import read_camera

    read_camera(path, SHOT)


def read_keyframes(path: Path) -> None:
    import torch

    from track2view.cameras.moves import read_keyframes
    from track2view.records import CameraPath

    poses, lens = torch.from_numpy(cameras.poses()), torch.from_numpy(cameras.intrinsics())
    read_keyframes(path, CameraPath(world_from_camera=poses, intrinsics=lens, size=SHOT))


def read_tracks(path: Path) -> None:
    from track2view.records import TrackSet

    TrackSet.load(path)


def read_pairs(path: Path) -> None:
    from track2view.records import PairedTracks

    PairedTracks.load(path)


def read_answer(path: Path) -> None:
    import torch

    from track2view.records import Clip, Queries
    from track2view.trackers.external import read_answer

    clip = Clip(frames=torch.zeros(cameras.FRAMES, 3, *SHOT, dtype=torch.uint8), fps=Fraction(24))
    queries = Queries(frame=torch.from_numpy(records.tracks()["query_frame"]), uv=torch.full((records.TRACKS, 2), 0.5))
    read_answer(path, "fuzz", clip, queries, None)


def read_video(path: Path) -> None:
    from track2view.video import read_clip

    read_clip(path)


def decode(path: Path) -> None:
    """What the decoder's process does, without one for each input: many more are read, and its faults are not hidden by its end."""
    from track2view.decoder.frames import Window, pictures

    for _ in islice(pictures(path, Window(), []), 200):
        pass


def join_sound(path: Path) -> None:
    """As :func:`decode`, of the sound, beside a picture of its own."""
    from track2view.decoder.frames import probe
    from track2view.decoder.sound import join
    from track2view.video import write_video

    if (track := probe(path, []).sound) is not None:
        picture = path.with_name("picture.mp4")
        write_video(picture, [np.zeros((16, 16, 3), np.uint8)] * 4, Fraction(12))
        join(picture, path, track, 0.0, 10.0, path.with_name("joined.mp4"), [])


def read_sound(path: Path) -> None:
    """The picture is read as far as its length, the sound is copied beside another picture."""
    from track2view.video import clip_images, read_clip, write_video

    clip = read_clip(path, short_side=16)
    if clip.audio is not None:
        write_video(path.with_name("copied.mp4"), islice(clip_images(clip), 100), clip.fps, audio=clip.audio)


def unpack_archive(path: Path) -> None:
    from track2view.curate.archives import unpack

    unpack(path, path.with_name("unpacked"))


def read_transformer(path: Path) -> None:
    from track2view.model.bases import load_transformer

    load_transformer(path)


def read_vae(path: Path) -> None:
    from track2view.model.bases import load_vae

    load_vae(path)


def read_text_encoder(path: Path) -> None:
    import torch

    from track2view.model.text import load_text_encoder

    load_text_encoder(path, torch.float32, "cpu")


def read_adapter(path: Path) -> None:
    from track2view.model.checkpoint import load_adapter
    from track2view.model.make import SIZES, new_transformer

    load_adapter(path, new_transformer(SIZES["micro"]))


def describe_model(path: Path) -> None:
    from track2view.model.info import describe

    describe(path / "base", path / "adapter", frames=5, size=SHOT, steps=2, tflops=1.0)


def read_sample(path: Path) -> None:
    from track2view.samples import load_record

    load_record(path)


def read_shards(path: Path) -> None:
    from track2view.shards import ShardReader

    shards = ShardReader(path)
    for key in shards:
        shards[key]
    shards.verify()


CAMERAS = ("track2view.cameras", "track2view.records")
MODEL = ("track2view.model.make", "track2view.model.info", "track2view.model.text")
READERS: dict[str, Reader] = {
    "camera-json": Reader(cameras.make_json, read_camera, CAMERAS),
    "camera-text": Reader(cameras.make_text, read_camera, CAMERAS),
    "camera-scenes": Reader(cameras.make_scenes, read_camera, CAMERAS),
    "camera-arrays": Reader(cameras.make_arrays, read_camera, CAMERAS),
    "camera-colmap": Reader(cameras.make_colmap, read_camera, (*CAMERAS, "pycolmap")),
    "keyframes": Reader(cameras.make_keyframes, read_keyframes, CAMERAS),
    "tracks": Reader(records.make_tracks, read_tracks, ("track2view.records",)),
    "pairs": Reader(records.make_pairs, read_pairs, ("track2view.records",)),
    "tracker-answer": Reader(records.make_answers, read_answer, ("track2view.trackers.external",)),
    "video": Reader(videos.make_videos, read_video, ("track2view.video",), few=15),
    "sound": Reader(videos.make_sound, read_sound, ("track2view.video",), few=15),
    "decoder": Reader(videos.make_videos, decode, ("track2view.decoder.frames", "cv2")),
    "decoder-images": Reader(videos.make_images, decode, ("track2view.decoder.frames", "cv2", "PIL.Image")),
    "decoder-sound": Reader(videos.make_sound, join_sound, ("track2view.decoder.sound", "track2view.video")),
    "images": Reader(videos.make_images, read_video, ("track2view.video",), few=15),
    "archive": Reader(records.make_archives, unpack_archive, ("track2view.curate.archives",)),
    "sample": Reader(records.make_samples, read_sample, ("track2view.samples",)),
    "shards": Reader(records.make_shards, read_shards, ("track2view.shards",)),
    "transformer": Reader(models.make_transformer, read_transformer, MODEL, few=40),
    "vae": Reader(models.make_vae, read_vae, MODEL, few=40),
    "text-encoder": Reader(models.make_text_encoder, read_text_encoder, MODEL, few=40),
    "adapter": Reader(models.make_adapter, read_adapter, MODEL, few=40),
    "model-info": Reader(models.make_described, describe_model, MODEL, few=40),
}


def seeds(reader: Reader, folder: Path) -> list[Seed]:
    """Make a reader's seeds on disk and load them."""
    from corpus import load

    folder.mkdir(parents=True)
    reader.make(folder)
    return load(folder)
