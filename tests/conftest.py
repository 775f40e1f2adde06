"""What tests share: small procedural shots with exact truth, and a cache of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor

from track2view import cli
from track2view.records import CameraPath, Clip
from track2view.scenes import World, make_camera, make_world, render_clip
from track2view.video import clip_images, write_video

torch.set_num_threads(1)  # one core per worker: threads of two workers on two cores only wait for each other
cv2.setNumThreads(1)

SHARED = Path(__file__).parents[2] / "shared" / "data"
CASES = SHARED.parent / "cases"


@dataclass(frozen=True)
class TrueShot:
    """A rendered clip and everything that is true of it."""

    world: World
    camera: CameraPath
    clip: Clip
    depth: Tensor
    solid: Tensor

    @property
    def moving(self) -> Tensor:
        return torch.tensor([self.world.moves(index) for index in range(len(self.world.solids))])[self.solid]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACK2VIEW_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The program without a process of its own: loading the libraries takes longer than the work."""

    def call(arguments: list[str | Path]) -> Done:
        monkeypatch.chdir(tmp_path)
        code = 0
        try:
            cli.main([*map(str, arguments)])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        printed = capfd.readouterr()
        return Done(code, printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def arc() -> TrueShot:
    """A still scene and an arc with plenty of parallax: 40 frames of 192×336."""
    world = make_world(1, frames=40, dynamic=False)
    camera = make_camera("arc", 1, frames=40, size=(192, 336))
    clip, depth, solid = render_clip(world, camera, Fraction(30000, 1001))
    return TrueShot(world=world, camera=camera, clip=clip, depth=depth, solid=solid)


@pytest.fixture(scope="session")
def lively() -> TrueShot:
    """Things that move before a hand-held camera: 40 frames of 192×336."""
    world = make_world(3, frames=40, dynamic=True)
    camera = make_camera("handheld", 3, frames=40, size=(192, 336))
    clip, depth, solid = render_clip(world, camera)
    return TrueShot(world=world, camera=camera, clip=clip, depth=depth, solid=solid)


@pytest.fixture(scope="session")
def arc_file(arc: TrueShot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "arc.mp4"
    write_video(path, clip_images(arc.clip), arc.clip.fps)
    return path


@pytest.fixture(scope="session")
def short_file(arc: TrueShot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames at 96 rows: for tests of everything but quality."""
    frames = torch.nn.functional.interpolate(arc.clip.frames[::2][:8].float(), size=(96, 168), mode="area").to(torch.uint8)
    path = tmp_path_factory.mktemp("clips") / "short.mp4"
    write_video(path, clip_images(Clip(frames=frames, fps=Fraction(12))), Fraction(12))
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the folder of real clips is not here")
    return SHARED


@pytest.fixture(scope="session")
def cases() -> Path:
    """Small inputs of the kinds that people met in public threads; each has a README with its right value."""
    if not CASES.is_dir():
        pytest.skip("the folder of cases is not here")
    return CASES
