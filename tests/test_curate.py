import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet
import pytest
import torch

from track2view.cameras import read_camera
from track2view.curate import PairOfViews, Rejected, choose_pairs, curate, curate_pair, draw_sample, export_scene, true_pairs
from track2view.curate.stages import MIN_ALIVE, MIN_OVERLAP, check_tracks, read_views, track_views
from track2view.curate.synchronise import CERTAIN
from track2view.errors import UserError
from track2view.records import CameraPath, Clip, PairedTracks, Queries, TrackSet
from track2view.samples import load_record, write_manifest
from track2view.trackers import SfmTracker, Tracking
from track2view.video import clip_images, read_clip, write_video

FRAMES, SIZE = 13, (96, 168)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for index in (1, 4):
        export_scene(root, "train", index, frames=FRAMES, size=SIZE)
    return root


def of(root: Path, source: str = "cam01", target: str = "cam02") -> PairOfViews:
    scene = next(root.glob("train/*/scene1"))
    return PairOfViews(root=root, scene=scene, source=source, target=target)


def test_a_sample_holds_what_the_videos_show(data: Path, tmp_path: Path) -> None:
    pair = of(data)
    folder = curate_pair(pair, SfmTracker()).save(tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        "source.mp4",
        "target.mp4",
        "source_camera.json",
        "target_camera.json",
        "tracks.npz",
        "sample.json",
    }
    record = load_record(folder)
    assert (record.frames, record.size, record.tracks, record.split) == (FRAMES, SIZE, 1152, "train")
    assert record.caption
    assert record.alive > 0.5
    assert (folder / "target.mp4").read_bytes() == pair.video("cam02").read_bytes()
    assert len(read_camera(folder / "source_camera.json")) == FRAMES
    pairs = PairedTracks.load(folder / "tracks.npz")
    queries = Queries.grid([FRAMES - 1, 0], 24, 24)
    truth = true_pairs(pair.scene, "cam01", "cam02", queries)
    scale = torch.tensor([SIZE[1], SIZE[0]])
    for found, wanted in ((pairs.source, truth.source), (pairs.target, truth.target)):
        both = found.valid & wanted.valid & pairs.source.valid & truth.source.valid
        certain = both & (pairs.confidence >= CERTAIN)
        error = ((found.uv - wanted.uv) * scale).norm(dim=-1)
        assert float(error[certain].median()) < 1.0
        assert float((error[certain] > 8).float().mean()) < 0.05


@dataclass(frozen=True, kw_only=True)
class Spoilt(SfmTracker):
    """The default tracker, and what becomes of its tracks of the target's half."""

    spoil: Callable[[TrackSet, int], TrackSet]

    def track(self, clip: Clip, queries: Queries, camera: CameraPath | None = None) -> Tracking:
        tracking = super().track(clip, queries, camera)
        return replace(tracking, tracks=self.spoil(tracking.tracks, len(clip) // 2))


def blind(tracks: TrackSet, seam: int) -> TrackSet:
    """No track is to be trusted, and the target shows none."""
    visible = tracks.visible.clone()
    visible[seam:] = False
    return replace(tracks, visible=visible, confidence=torch.full_like(tracks.confidence, 0.1))


def torn(tracks: TrackSet, seam: int) -> TrackSet:
    """Behind the seam every track is another's."""
    xyz, everything = tracks.xyz_world.clone(), torch.ones_like(tracks.query_frame, dtype=torch.bool)
    xyz[seam:] = xyz[seam:].roll(7, dims=1)
    return replace(tracks, xyz_world=xyz, visible=torch.ones_like(tracks.visible), moving=everything)


def test_guesses_do_not_speak_for_a_pair(data: Path) -> None:
    views = read_views(of(data))
    guessed = track_views(views, Spoilt(spoil=blind))
    assert float(guessed.pairs.target.valid[guessed.pairs.source.valid].float().mean()) > 0.5
    assert guessed.overlap < MIN_OVERLAP
    with pytest.raises(Rejected, match="too little overlap"):
        check_tracks(guessed)
    apart = track_views(views, Spoilt(spoil=torn))
    assert float(apart.pairs.target.valid[0].float().mean()) > 0.7
    assert apart.alive < MIN_ALIVE


def test_a_sample_tracked_small_still_speaks_of_its_own_videos(data: Path, tmp_path: Path) -> None:
    folder = curate_pair(of(data), SfmTracker(), short_side=64).save(tmp_path)
    assert load_record(folder).size == read_clip(folder / "source.mp4").size == SIZE
    assert read_camera(folder / "target_camera.json").size == SIZE


def test_a_dataset_is_curated_resumed_and_listed_the_same_by_any_number_of_workers(data: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    counts = curate(data, one, per_scene=2, workers=1)
    assert counts["samples"] + sum(count for name, count in counts.items() if name != "samples") == 4
    assert counts["samples"] >= 2
    kept = {path: path.stat().st_mtime_ns for path in one.glob("samples/**/sample.json")}
    gone = next(iter(kept))
    shutil.rmtree(gone.parent)
    assert curate(data, one, per_scene=2, workers=1) == counts
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items() if path != gone)
    assert curate(data, two, per_scene=2, workers=2) == counts
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)
    table = pyarrow.parquet.read_table(one / "manifest.parquet")
    assert table.num_rows == counts["samples"]
    assert table.column("name").to_pylist() == sorted(table.column("name").to_pylist())
    assert set(table.column("frames").to_pylist()) == {FRAMES}


def test_a_sample_is_drawn_with_one_colour_for_a_point_in_both_views(data: Path, tmp_path: Path) -> None:
    folder = curate_pair(of(data), SfmTracker()).save(tmp_path)
    draw_sample(folder, tmp_path / "sample.png")
    picture = cv2.imread(str(tmp_path / "sample.png"))
    assert picture.shape == (3 * SIZE[0], 2 * SIZE[1], 3)
    top = picture[: SIZE[0]].astype(int)
    strong = top.max(-1) - top.min(-1) > 150
    assert strong[:, : SIZE[1]].sum() > 100
    both = strong[:, : SIZE[1]] & strong[:, SIZE[1] :]
    assert np.abs(top[:, : SIZE[1]] - top[:, SIZE[1] :])[both].mean() < 40  # at the shared frame 0 all dots coincide
    draw_sample(folder, tmp_path / "sample.mp4")
    assert len(read_clip(tmp_path / "sample.mp4")) == FRAMES
    with pytest.raises(UserError, match=r"drawn to \.png or \.mp4"):
        draw_sample(folder, tmp_path / "sample.gif")
    pairs = PairedTracks.load(folder / "tracks.npz")
    replace(pairs, confidence=torch.zeros_like(pairs.confidence)).save(folder / "tracks.npz")
    draw_sample(folder, tmp_path / "guessed.png")
    guessed = cv2.imread(str(tmp_path / "guessed.png"))
    assert (guessed[:, : SIZE[1]] == picture[:, : SIZE[1]]).all()
    rings, dots = ((each.max(-1).astype(int) - each.min(-1) > 150)[:, SIZE[1] :].sum() for each in (guessed, picture))
    assert 0.3 * dots < rings < 0.9 * dots


def test_pairs_are_drawn_by_seed_and_place(data: Path) -> None:
    pairs = list(choose_pairs(data, 3))
    assert pairs == list(choose_pairs(data, 3))
    assert len({(pair.scene, pair.source, pair.target) for pair in pairs}) == 6
    assert all(pair.source != pair.target for pair in pairs)
    assert pairs != list(choose_pairs(data, 3, seed=1))


def shortened(pair: PairOfViews) -> None:
    clip = read_clip(pair.video("cam01"))
    write_video(pair.video("cam01"), list(clip_images(clip))[:-2], clip.fps)


def frozen(pair: PairOfViews) -> None:
    clip = read_clip(pair.video("cam01"))
    write_video(pair.video("cam01"), [clip.image(0)] * len(clip), clip.fps)


def without_camera(pair: PairOfViews) -> None:
    document = json.loads(pair.cameras.read_text())
    pair.cameras.write_text(json.dumps({name: {k: v for k, v in each.items() if k != "cam02"} for name, each in document.items()}))


def mirrored(pair: PairOfViews) -> None:
    """As if the file were in another convention: right becomes left."""
    document = json.loads(pair.cameras.read_text())
    for frame in document.values():
        for name, text in frame.items():
            rows = [[float(value) for value in row.strip("[] ").split()] for row in text.split("]") if row.strip()]
            for row in rows:
                row[1] = -row[1]
            rows[1] = [-value for value in rows[1][:3]] + [0.0]
            frame[name] = " ".join(f"[{' '.join(map(str, row))}]" for row in rows)
    pair.cameras.write_text(json.dumps(document))


BROKEN = {
    "corrupt video": (lambda pair: pair.video("cam01").write_bytes(b"not a video"), "unreadable video"),
    "truncated video": (lambda pair: pair.video("cam01").write_bytes(pair.video("cam01").read_bytes()[:3000]), "unreadable video"),
    "no video": (lambda pair: pair.video("cam02").unlink(), "unreadable video"),
    "no cameras": (lambda pair: pair.cameras.unlink(), "missing camera"),
    "no such camera": (without_camera, "missing camera"),
    "half a JSON": (lambda pair: pair.cameras.write_text(pair.cameras.read_text()[:500]), "missing camera"),
    "frames missing": (shortened, "frames disagree"),
    "nothing moves": (frozen, "static clip"),
    "other scene": (
        lambda pair: shutil.copy(next(pair.root.glob("train/*/scene4")) / "videos/cam02.mp4", pair.video("cam02")),
        "first frames differ",
    ),
    "the same twice": (lambda pair: shutil.copy(pair.video("cam01"), pair.video("cam02")), "duplicate views"),
    "another convention": (mirrored, "cameras do not match"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_gives_no_sample_is_rejected_under_its_own_reason(case: str, data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data, tmp_path / "data"))
    breaks, reason = BROKEN[case]
    breaks(of(root))
    with pytest.raises(Rejected) as caught:
        curate_pair(of(root), SfmTracker())
    assert caught.value.reason == reason, caught.value
    assert caught.value.detail


def test_a_dataset_with_every_fault_is_run_to_its_end_and_each_is_counted(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, (breaks, _) in enumerate(BROKEN.values()):
        shutil.copytree(data, root / str(number))
        breaks(of(root / str(number)))
        shutil.rmtree(next((root / str(number)).glob("train/*/scene4")))
        for path in next((root / str(number)).glob("train/*/scene1")).glob("videos/*.mp4"):
            if path.stem not in ("cam01", "cam02"):
                path.unlink()
    counts = curate(root, tmp_path / "out", workers=2)
    expected = Counter(reason for case, (_, reason) in BROKEN.items() if case not in ("no video", "no cameras"))
    assert counts == expected  # what is not there at all is not chosen


def test_rejections_are_listed_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data, tmp_path / "data"))
    for pair in choose_pairs(root, 1):
        if pair.scene.name == "scene1":
            pair.video(pair.source).write_bytes(b"")
            broken = pair
    counts = curate(root, tmp_path / "out")
    assert counts["unreadable video"] == 1
    assert sum(counts.values()) == 2
    document = json.loads((tmp_path / "out/rejected" / f"{broken.name}.json").read_text())
    assert document["reason"] == "unreadable video"


def test_what_is_no_sample_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a sample"):
        load_record(tmp_path)
    with pytest.raises(UserError, match="not a file of paired tracks"):
        PairedTracks.load(tmp_path / "tracks.npz")
    with pytest.raises(UserError, match="no scenes there"):
        curate(tmp_path, tmp_path / "out")
    assert write_manifest(tmp_path, tmp_path / "manifest.parquet") == 0
