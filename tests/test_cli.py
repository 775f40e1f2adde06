"""The command line as a user meets it: a process, its files, its one line on stderr."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pygltflib
import pytest
import torch
from conftest import TrueShot

from track2view import cli
from track2view.cameras import read_camera
from track2view.geometry import project
from track2view.records import CameraPath, Clip, TrackSet
from track2view.video import read_clip, write_video

PROGRAM = [sys.executable, "-m", "track2view"]


def run(arguments: list[str | Path], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_run_folder_holds_what_it_should(short_file: Path, tmp_path: Path) -> None:
    words = ["render", short_file, "--camera", "orbit-right", "--amount", "10", "--out", tmp_path / "run"]
    done = run(words, tmp_path, TRACK2VIEW_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    names = {"output.mp4", "compare.mp4", "overview.png", "tracks.npz", "source_camera.json", "target_camera.json", "run.json"}
    names |= {"guide.mp4", "guide_mask.mp4", "depth", "reference.png", "scene.glb"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    source, output = read_clip(short_file), read_clip(tmp_path / "run" / "output.mp4")
    assert (len(output), output.size, output.fps) == (len(source), source.size, source.fps)
    assert read_clip(tmp_path / "run" / "compare.mp4").size == (96, 3 * 168)
    assert min(cv2.imread(str(tmp_path / "run" / "overview.png")).shape[:2]) > 400
    report = json.loads((tmp_path / "run" / "run.json").read_text())
    assert report["settings"]["amount"] == "10.0"
    assert report["tracking"]["tracker"] == "sfm"
    assert set(report["seconds"]) == {"tracking", "depth", "rendering", "pictures"}
    assert not report["tracks_reused"]
    tracks = TrackSet.load(tmp_path / "run" / "tracks.npz")
    camera = read_camera(tmp_path / "run" / "source_camera.json")
    assert tracks.xyz_world.shape[0] == len(camera) == 8
    target = read_camera(tmp_path / "run" / "target_camera.json")
    for name, path in (("source", camera), ("target", target)):
        again = read_camera(f"{tmp_path / 'run' / 'scene.glb'}#{name}", source.size)
        assert float((again.world_from_camera - path.world_from_camera).abs().max()) < 1e-5
    assert_points_have_the_clips_colours(tmp_path / "run" / "scene.glb", camera, source)


def assert_points_have_the_clips_colours(file: Path, camera: CameraPath, clip: Clip) -> None:
    """Those that the first frame sees without anything before them show its colours where they are."""
    document = pygltflib.GLTF2().load(str(file))
    attributes, blob, found = document.meshes[0].primitives[0].attributes, document.binary_blob(), []
    for accessor, kind in ((attributes.POSITION, np.float32), (attributes.COLOR_0, np.uint8)):
        view = document.bufferViews[document.accessors[accessor].bufferView]
        found.append(np.frombuffer(blob[view.byteOffset : view.byteOffset + view.byteLength], kind).reshape(-1, 3 + (kind == np.uint8)))
    points, colours = found
    pixels, _ = project(torch.from_numpy(points * [1.0, -1, -1]).double(), camera.camera_from_world[0], camera.intrinsics[0])
    column, row = pixels.long().T
    inside = (pixels > 0).all(-1) & (column < clip.size[1]) & (row < clip.size[0])
    shown = clip.frames[0][:, row[inside], column[inside]].T.int().numpy()
    assert inside.sum() > 100
    assert np.median(np.abs(shown - colours[inside.numpy(), :3]).max(1)) < 20


def test_many_cameras_track_once_and_a_second_run_not_at_all(short_file: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    done = run(["render", short_file, "--camera", "static", "zoom-in:1.2+roll-left", "--out", "runs"], tmp_path, TRACK2VIEW_CACHE=cache)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"static", "zoom-in1.2+roll-left"}
    assert len(list((tmp_path / "cache").iterdir())) == 1
    again = run(["render", short_file, "--camera", "static"], tmp_path, TRACK2VIEW_CACHE=cache)
    assert again.returncode == 0, again.stderr
    report = json.loads((tmp_path / "out" / "short-static" / "run.json").read_text())
    assert report["tracks_reused"]
    first = (tmp_path / "runs" / "static" / "output.mp4").read_bytes()
    assert read_clip(tmp_path / "out" / "short-static" / "output.mp4").frames.shape[0] == 8
    assert first


def test_own_tracks_and_cameras_are_used(short_file: Path, tmp_path: Path) -> None:
    assert run(["track", short_file, "--out", "tracked"], tmp_path).returncode == 0
    assert {path.name for path in (tmp_path / "tracked").iterdir()} == {"tracks.npz", "source_camera.json"}
    given = ["--tracks", "tracked/tracks.npz", "--source-camera", "tracked/source_camera.json"]
    world = ["--camera", "tracked/source_camera.json", "--relative-to", "world", "--out", "same"]
    done = run(["render", short_file, *given, *world], tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "same" / "run.json").read_text())
    assert report["tracking"]["tracker"] == "given"
    assert report["seen_now"] > 0.9
    same, source = read_clip(tmp_path / "same" / "output.mp4"), read_clip(short_file)
    assert float((same.frames.float() - source.frames.float()).abs().mean()) < 6


def test_camera_commands(shared: Path, tmp_path: Path) -> None:
    listed = run(["cameras", "list"], tmp_path)
    assert "orbit-right" in listed.stdout
    assert "recam-10" in listed.stdout
    assert run(["cameras", "show", shared / "vista4d_arc_right.npz", "--out", "arc.png"], tmp_path).returncode == 0
    assert cv2.imread(str(tmp_path / "arc.png")).shape[0] > 400
    done = run(["cameras", "convert", f"{shared}/multicam_camera_extrinsics.json#cam03", "cam03.json"], tmp_path)
    assert done.returncode == 0
    assert len(read_camera(tmp_path / "cam03.json")) == 81


@dataclass(frozen=True)
class Bad:
    """One way to get it wrong: what the user typed, and words the answer must hold."""

    name: str
    arguments: Callable[[Path, Path], list[str | Path]]
    words: str


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def picture_clip(path: Path, frames: int, size: tuple[int, int], *, black: bool = False) -> Path:
    random = np.random.default_rng(0)
    write_video(path, [np.zeros((*size, 3), np.uint8) if black else random.integers(0, 255, (*size, 3), np.uint8)] * frames, Fraction(12))
    return path


def camera_document(**changes: object) -> str:
    poses = np.eye(4)[None].repeat(8, 0)
    matrix = np.array([[100.0, 0, 84], [0, 100, 48], [0, 0, 1]])[None].repeat(8, 0)
    document = {"format": "track2view.camera/1", "size": [96, 168], "world_from_camera": poses.tolist(), "intrinsics": matrix.tolist()}
    return json.dumps({**document, **changes})


def posed(change: Callable[[np.ndarray], None]) -> str:
    poses = np.eye(4)[None].repeat(8, 0)
    change(poses)
    return camera_document(world_from_camera=poses.tolist())


def damaged(short: Path, folder: Path, share: float) -> Path:
    data = short.read_bytes()
    (folder / "cut.mp4").write_bytes(data[: int(len(data) * share)])
    return folder / "cut.mp4"


def sound(folder: Path) -> Path:
    with av.open(str(folder / "sound.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), format="s16", layout="mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return folder / "sound.wav"


def camera_case(name: str, content: Callable[[], str], words: str) -> Bad:
    return Bad(name, lambda short, folder: ["render", short, "--camera", text(folder / "camera.json", content())], words)


def set_nan(poses: np.ndarray) -> None:
    poses[3, 0, 3] = np.nan


def mirror(poses: np.ndarray) -> None:
    poses[:, 0, 0] = -1


def skew(poses: np.ndarray) -> None:
    poses[2, 0, 1] = 0.3


def look_back(poses: np.ndarray) -> None:
    poses[2:, 0, 0] = poses[2:, 2, 2] = -1


ZERO_FOCAL = np.array([[0.0, 0, 84], [0, 100, 48], [0, 0, 1]])[None].repeat(8, 0).tolist()
CASES = [
    Bad("missing", lambda short, folder: ["render", folder / "no.mp4", "--camera", "static"], "no such file"),
    Bad("empty", lambda short, folder: ["render", text(folder / "e.mp4", ""), "--camera", "static"], "the file is empty"),
    Bad("corrupt", lambda short, folder: ["render", text(folder / "c.mp4", "x" * 9999), "--camera", "static"], "cannot be read as a video"),
    Bad("truncated", lambda short, folder: ["render", damaged(short, folder, 0.7), "--camera", "static"], "truncated|damaged"),
    Bad("audio only", lambda short, folder: ["render", sound(folder), "--camera", "static"], "no video, only audio"),
    Bad("no images", lambda short, folder: ["render", folder, "--camera", "static"], "holds no images"),
    Bad("one frame", lambda short, folder: ["render", short, "--camera", "static", "--frames", "1"], "one frame"),
    Bad("tiny", lambda short, folder: ["render", picture_clip(folder / "t.mp4", 4, (16, 16)), "--camera", "static"], "16×16"),
    Bad("black", lambda short, folder: ["render", picture_clip(folder / "b.mp4", 4, (64, 64), black=True), "--camera", "static"], "blank"),
    Bad("window", lambda short, folder: ["render", short, "--camera", "static", "--start", "99"], "no frames between"),
    Bad("size", lambda short, folder: ["render", short, "--camera", "static", "--size", "-3"], "--size"),
    Bad("fov", lambda short, folder: ["render", short, "--camera", "static", "--fov", "500"], "--fov"),
    Bad("unknown move", lambda short, folder: ["render", short, "--camera", "orbit-rigth"], "did you mean orbit-right"),
    Bad("bad amount", lambda short, folder: ["render", short, "--camera", "dolly-in:much"], "expected a number"),
    Bad("no camera file", lambda short, folder: ["render", short, "--camera", "path.json"], "no such camera file"),
    camera_case("nan", lambda: posed(set_nan), "not finite"),
    camera_case("left-handed", lambda: posed(mirror), "left-handed"),
    camera_case("not orthonormal", lambda: posed(skew), "not orthonormal"),
    camera_case("zero focal", lambda: camera_document(intrinsics=ZERO_FOCAL), "focal length of 0"),
    camera_case("unknown format", lambda: '{"format": "other/3"}', "unknown camera format"),
    camera_case("not json", lambda: '{"format": ', "cannot be read"),
    camera_case("looks away", lambda: posed(look_back), "looks away"),
    Bad(
        "wrong length",
        lambda short, folder: ["render", short, "--frames", "6", "--camera", text(folder / "k.json", camera_document())],
        "has 8 frames, the clip has 6",
    ),
    Bad(
        "tracks alone",
        lambda short, folder: ["render", short, "--camera", "static", "--tracks", text(folder / "t.npz", "x")],
        "not a tracks file",
    ),
    Bad(
        "output is a file",
        lambda short, folder: ["render", short, "--camera", "static", "--out", text(folder / "taken", "")],
        "cannot be written to",
    ),
    Bad(
        "output in a file",
        lambda short, folder: ["render", short, "--camera", "static", "--out", text(folder / "f", "") / "a"],
        "cannot be written to",
    ),
    Bad("no cuda", lambda short, folder: ["render", short, "--camera", "static", "--device", "cuda"], "no CUDA device"),
    Bad(
        "export",
        lambda short, folder: ["cameras", "convert", text(folder / "k.json", camera_document()), "a.xyz"],
        "no camera format is written as .xyz",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_gets_one_clear_line(
    case: Bad, short_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if case.name == "no cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given").mkdir()
    arguments = [str(each) for each in case.arguments(short_file, tmp_path / "given")]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "warning:" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("track2view: ")
    assert re.search(case.words, lines[0]), lines[0]
    after = [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path not in before]
    assert after == []


def test_a_shot_change_is_named(arc: TrueShot, lively: TrueShot, tmp_path: Path) -> None:
    frames = [*arc.clip.frames[:12], *lively.clip.frames[:12]]
    write_video(tmp_path / "two.mp4", [np.ascontiguousarray(each.permute(1, 2, 0).numpy()) for each in frames], lively.clip.fps)
    done = run(["render", "two.mp4", "--camera", "static"], tmp_path)
    assert done.returncode == 2
    assert "shot changes at 0.40 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_poses_and_intrinsics_of_unequal_length_are_refused(short_file: Path, tmp_path: Path) -> None:
    """In a process of its own: here jaxtyping would refuse them before the record's own check speaks."""
    poses = np.eye(4)[None].repeat(5, 0).tolist()
    path = text(tmp_path / "camera.json", camera_document(world_from_camera=poses))
    done = run(["render", short_file, "--camera", path], tmp_path)
    assert done.returncode == 2
    assert "intrinsics: expected [5, 3, 3]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_memory_is_predicted(short_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    import psutil

    free = psutil.virtual_memory()._replace(available=100_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["render", str(short_file), "--camera", "static", "--no-cache"])
    assert "needs about" in (message := capfd.readouterr().err)
    assert "--size" in message


def test_a_full_disk_is_named_and_leaves_nothing(short_file: Path, tmp_path: Path) -> None:
    """A file-size limit makes every larger write fail, as a full disk does."""
    import resource

    done = subprocess.run(
        [*PROGRAM, "render", str(short_file), "--camera", "static", "--out", "run"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRACK2VIEW_CACHE": str(tmp_path / "cache")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "warning:" not in line]
    assert len(lines) == 2
    assert "tracks cannot be kept" in lines[0]
    assert "run: disk full" in lines[1]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
