"""What is kept about a clip: exact, found only by what it depends on, whole or made again, and never in the way of a render."""

import errno
import fcntl
import hashlib
import pwd
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from track2view import cache
from track2view.errors import Notice
from track2view.records import CameraPath, Clip, Queries, TrackSet
from track2view.trackers import SfmTracker, Tracking, TrackingReport
from track2view.warp import DenseDepth

FRAMES, TRACKS = 3, 5
RANDOM = torch.Generator().manual_seed(0)
KEY = "0123456789abcdef01234567"


def a_camera() -> CameraPath:
    poses = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    poses[:, :3, 3] = torch.randn(FRAMES, 3, generator=RANDOM, dtype=torch.float64)
    matrix = torch.tensor([[100 / 3, 0, 4], [0, 100 / 7, 3], [0, 0, 1]], dtype=torch.float64)
    return CameraPath(world_from_camera=poses, intrinsics=matrix.repeat(FRAMES, 1, 1), size=(6, 9), unit="metre", fps=30000 / 1001)


def some_tracks(*, moving: bool) -> TrackSet:
    xyz = torch.randn(FRAMES, TRACKS, 3, generator=RANDOM)
    xyz[1, 2] = torch.nan
    return TrackSet(
        xyz_world=xyz,
        visible=xyz.isfinite().all(-1),
        confidence=torch.rand(FRAMES, TRACKS, generator=RANDOM),
        query_frame=torch.tensor([0, 0, 1, 2, 2]),
        moving=torch.tensor([True, False, False, True, False]) if moving else None,
    )


def a_result(*, moving: bool = True) -> tuple[Tracking, DenseDepth]:
    report = TrackingReport(
        tracker="sfm",
        focal_estimated=True,
        horizontal_fov=53.1,
        parallax_degrees=float("nan"),
        reprojection_pixels=0.1 + 0.2,
        share_lost=1 / 3,
        share_moving=0.0,
        warnings=("«°»",),
    )
    disparity = torch.rand(FRAMES, 3, 403, generator=RANDOM).exp()
    depth = DenseDepth(disparity=disparity, deviation=disparity.square(), moving=disparity > 1.5)
    return Tracking(tracks=some_tracks(moving=moving), camera=a_camera(), report=report), depth


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRACK2VIEW_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def content(value: object) -> list[object]:
    """Every field of nested records, bit by bit."""
    if isinstance(value, torch.Tensor):
        return [value.dtype, list(value.shape), value.numpy().tobytes()]
    if hasattr(value, "__dataclass_fields__"):
        return [part for field in fields(value) for part in [field.name, *content(getattr(value, field.name))]]
    return [repr(value)]


@pytest.mark.parametrize("moving", [True, False])
def test_what_is_kept_is_what_was_computed(folder: Path, *, moving: bool) -> None:
    result = a_result(moving=moving)
    cache.store(KEY, *result)
    known = cache.load(KEY)
    assert known is not None
    assert [content(each) for each in known] == [content(each) for each in result]
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.npz"]


@dataclass(frozen=True, kw_only=True)
class OtherTracker(SfmTracker):
    """A tracker with more to set."""

    words: tuple[str, ...] = ("ab", "c")
    level: float | int | bool | str | None = 1
    file: Path = Path("a")


Asked = tuple[Clip, SfmTracker, Queries, CameraPath | None, TrackSet | None]
CLIP = Clip(frames=torch.randint(0, 255, (FRAMES, 3, 6, 9), generator=RANDOM, dtype=torch.uint8), fps=Fraction(30000, 1001))
ASKED: Asked = (CLIP, OtherTracker(), Queries.grid([0, 2], 2, 3), a_camera(), some_tracks(moving=True))


def changed(place: int, name: str, change: Callable[[object], object]) -> Asked:
    asked = list(ASKED)
    asked[place] = replace(ASKED[place], **{name: change(getattr(ASKED[place], name))})
    return tuple(asked)


def nudged(value: object) -> object:
    """One element, one bit more or less."""
    assert isinstance(value, torch.Tensor)
    flat = value.clone().reshape(-1)
    if flat.dtype.is_floating_point:
        bits = flat.view(torch.int64 if flat.dtype == torch.float64 else torch.int32)
        bits[torch.nonzero(flat)[1, 0]] -= 1
    else:
        flat[-1] = ~flat[-1] if flat.dtype == torch.bool else flat[-1] - 1
    return flat.reshape(value.shape)


def to(value: object) -> Callable[[object], object]:
    return lambda _: value


CHANGES: dict[tuple[int, str], list[Callable[[object], object]]] = {
    (0, "frames"): [nudged, lambda frames: frames.reshape(FRAMES, 3, 9, 6), lambda frames: frames[:2]],
    (0, "fps"): [to(Fraction(30))],
    (1, "fov"): [to(50.0), to(50.00000001)],
    (1, "words"): [to(("a", "bc")), to(("abc",)), to(("ab", "c", "")), to(())],
    (1, "level"): [to(1.0), to(True), to("1"), to(None)],
    (1, "file"): [to(Path("b"))],
    (2, "frame"): [nudged],
    (2, "uv"): [nudged],
    (3, "world_from_camera"): [nudged],
    (3, "intrinsics"): [nudged],
    (3, "size"): [to((9, 6)), to((12, 18))],
    (3, "unit"): [to("scene")],
    (3, "fps"): [to(30.0), to(None)],
    (3, "focal_known"): [to(False)],
    (4, "xyz_world"): [nudged],
    (4, "visible"): [nudged],
    (4, "confidence"): [nudged],
    (4, "query_frame"): [nudged],
    (4, "moving"): [nudged, to(None), to(torch.zeros(TRACKS, dtype=torch.bool))],
}


def test_every_field_of_what_is_asked_is_in_the_list_above() -> None:
    told = {(place, name) for place, name in CHANGES}
    all_fields = {(place, field.name) for place, each in enumerate(ASKED) for field in fields(each) if field.init}
    assert all_fields - told == {(0, "audio")}, "sound is passed by, and nothing that is kept depends on it"


def test_any_change_of_what_is_asked_is_another_key() -> None:
    others = [changed(*place, change) for place, changes in CHANGES.items() for change in changes]
    clip, _, queries, camera, tracks = ASKED
    others += [(clip, SfmTracker(), queries, camera, tracks), (clip, OtherTracker(), queries, None, None), (*ASKED[:3], camera, None)]
    keys = [cache.content_key(*each) for each in (ASKED, *others)]
    assert len(set(keys)) == len(keys)
    copied = tuple(replace(each) for each in ASKED)
    assert cache.content_key(*copied) == keys[0]


def test_a_setting_that_no_key_can_hold_is_a_fault_of_the_program() -> None:
    clip, _, *others = ASKED
    with pytest.raises(TypeError, match="cannot be part of a cache's key"):
        cache.content_key(clip, OtherTracker(level=object()), *others)  # pyrefly: ignore


def flip(place: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 16
        path.write_bytes(data)

    return change


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def to_folder(path: Path) -> None:
    path.unlink()
    (path / "in").mkdir(parents=True)
    (path / "in" / "file").write_text("x")


def grow(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)


def forge(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    """Other arrays under a right seal, as another program might write them."""

    def write(path: Path) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        change(arrays)
        with path.open("wb") as file:
            np.savez(file, **arrays)  # pyrefly: ignore
        data = path.read_bytes()
        path.write_bytes(data + struct.pack("<Q", len(data)) + hashlib.sha256(data).digest())

    return write


def record(text: str) -> Callable[[Path], None]:
    return forge(lambda arrays: arrays.update(record=np.array(text)))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    **{f"cut at {share}": cut(share) for share in (0.001, 0.3, 0.7, 0.99)},
    **{f"flipped at {share}": flip(share) for share in np.linspace(0, 1, 9).tolist()},
    "text": lambda path: path.write_text("report"),
    "folder": to_folder,
    "huge": grow,
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "another archive": lambda path: np.savez(path, xyz_world=np.zeros(3)),
    "lacks a field": forge(lambda arrays: arrays.pop("disparity_bytes")),
    "other shapes": forge(lambda arrays: arrays.update(confidence=np.zeros((1, 1), np.float32))),
    "no json": record("{"),
    "a list": record("[]"),
    "wrong fields": record('{"report": {"warnings": []}, "size": [6, 9], "unit": "metre", "fps": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_is_never_trusted_and_is_replaced(damage: Callable[[Path], object], folder: Path) -> None:
    result = a_result()
    cache.store(KEY, *result)
    damage(entry := folder / f"{KEY}.npz")
    with pytest.warns(Notice, match="damaged") as told:
        assert cache.load(KEY) is None
    assert len(told) == 1
    cache.store(KEY, *result)
    known = cache.load(KEY)
    assert known is not None
    assert [content(each) for each in known] == [content(each) for each in result]
    assert list(folder.iterdir()) == [entry]


def test_an_absent_entry_is_no_news(folder: Path) -> None:
    assert cache.load(KEY) is None
    assert not folder.exists()


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own, where this may be made."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("options", ["size=8k", "size=4k", "size=64k,ro", "size=64k,nr_inodes=2"])
def test_a_full_or_read_only_disk_is_one_notice(options: str, folder: Path) -> None:
    with small_disk(folder, options):
        with pytest.warns(Notice, match="cannot be kept") as told:
            cache.store(KEY, *a_result())
        assert len(told) == 1
        assert list(folder.iterdir()) == []
        assert cache.load(KEY) is None


@pytest.mark.parametrize("place", ["taken", "taken/in", "x" * 300, "loop"])
def test_a_cache_that_is_no_folder_is_one_notice(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setenv("TRACK2VIEW_CACHE", str(tmp_path / place))
    assert cache.load(KEY) is None
    with pytest.warns(Notice, match="cannot be kept") as told:
        cache.store(KEY, *a_result())
    assert len(told) == 1
    assert (tmp_path / "taken").read_text() == "mine"


def test_without_any_home_nothing_is_kept_and_nothing_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "XDG_CACHE_HOME", "TRACK2VIEW_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert cache.load(KEY) is None
    with pytest.warns(Notice, match="cannot be kept"):
        cache.store(KEY, *a_result())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::track2view.errors.Notice")
def test_many_at_once_make_one_entry(folder: Path) -> None:
    result = a_result()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.store(KEY, *result), range(24)))
        known = list(pool.map(lambda _: cache.load(KEY), range(8)))
    assert all(each is not None and content(each[1]) == content(result[1]) for each in known)
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.npz"]


def test_what_a_killed_run_left_is_cleared(folder: Path) -> None:
    (folder / ".track2view-abc.partial").mkdir(parents=True)
    (folder / ".track2view-abc.partial" / "half.npz").write_text("x")
    (folder / ".mine.partial").write_text("x")
    cache.store(KEY, *a_result())
    assert {path.name for path in folder.iterdir()} == {f"{KEY}.npz", ".mine.partial"}


def test_a_file_system_without_locks_will_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    cache.store(KEY, *a_result())
    assert cache.load(KEY) is not None
