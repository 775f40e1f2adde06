"""Captions, logos and bars over scenes that move, and scenes with nothing of the kind."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import TrueShot

from track2view.burnt_in import find_burnt_in
from track2view.records import Clip
from track2view.trackers import SfmTracker, Tracking
from track2view.video import clip_images, read_clip, write_video


def marked(clip: Clip, *, text: str | None = None, bars: tuple[int, int] = (0, 0), sides: int = 0) -> tuple[Clip, np.ndarray]:
    """The clip with things burnt in, and where the letters are."""
    height, width = clip.size
    letters = np.zeros((height, width, 3), np.uint8)
    outline = letters.copy()
    if text:
        place = (width // 5, height - bars[1] - 16)
        cv2.putText(outline, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 5, cv2.LINE_AA)
        cv2.putText(letters, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2, cv2.LINE_AA)
    frames = clip.frames.clone()
    for index in range(len(clip)):
        image = clip.image(index).astype(np.float32)
        image = image * (1 - outline / 255.0) + letters
        image[: bars[0]], image[height - bars[1] :], image[:, :sides], image[:, width - sides :] = 0, 0, 0, 0
        frames[index] = torch.from_numpy(image.round().astype(np.uint8)).permute(2, 0, 1)
    return replace(clip, frames=frames), letters.max(-1) > 128


def through_a_codec(clip: Clip, tmp_path: object) -> Clip:
    write_video(tmp_path / "coded.mp4", clip_images(clip), clip.fps, crf=23)
    return read_clip(tmp_path / "coded.mp4")


@pytest.mark.parametrize("shot", ["arc", "lively"])
@pytest.mark.parametrize(
    ("text", "bars", "sides"), [("words that stay", (0, 0), 0), ("LIVE", (20, 24), 0), (None, (16, 16), 0), (None, (0, 0), 30)]
)
def test_what_is_burnt_in_is_found_taken_out_and_laid_back(
    shot: str, text: str | None, bars: tuple[int, int], sides: int, request: pytest.FixtureRequest, tmp_path: object
) -> None:
    true: TrueShot = request.getfixturevalue(shot)
    clip, letters = marked(true.clip, text=text, bars=bars, sides=sides)
    clip = through_a_codec(clip, tmp_path)
    found = find_burnt_in(clip)
    assert found is not None
    assert np.abs(np.subtract((found.top, found.bottom, found.left, found.right), (*bars, sides, sides))).max() <= 1
    assert found.in_words() == " and ".join([*["black bars"] * (sum(bars) + sides > 0), *["a caption or logo"] * bool(text)])
    inside = np.s_[bars[0] + 2 : clip.size[0] - bars[1] - 2, sides + 2 : clip.size[1] - sides - 2]
    if text:
        assert found.mask[letters].mean() > 0.95
        beside = found.mask & (cv2.dilate(letters.astype(np.uint8), np.ones((15, 15))) == 0)
        assert beside[inside].mean() < 0.005
    else:
        assert not found.mask[inside].any()
    clean = found.taken_out(clip)
    middle = len(clip) // 2
    if text:
        before = np.abs(clip.image(middle).astype(int) - true.clip.image(middle))[letters].mean()
        after = np.abs(clean.image(middle).astype(int) - true.clip.image(middle))[letters].mean()
        assert after < 0.5 * before
    laid = found.laid_back(clean.image(middle), clip.image(middle))
    assert np.array_equal(laid[found.mask], clip.image(middle)[found.mask])
    assert np.array_equal(laid[~found.mask], clean.image(middle)[~found.mask])


@pytest.mark.parametrize("shot", ["arc", "lively"])
def test_a_scene_alone_has_nothing_burnt_in(shot: str, request: pytest.FixtureRequest) -> None:
    true: TrueShot = request.getfixturevalue(shot)
    assert find_burnt_in(true.clip) is None


def test_a_camera_that_stands_still_tells_nothing_but_bars(arc: TrueShot) -> None:
    clip, _ = marked(arc.clip, text="words that stay", bars=(20, 20))
    still = replace(clip, frames=clip.frames[:1].repeat(10, 1, 1, 1))
    found = find_burnt_in(still)
    assert found is not None
    assert found.in_words() == "black bars"


@pytest.mark.parametrize("name", ["bear", "gallery", "diner", "pstudio", "cat", "taxi"])
def test_real_clips_without_marks_have_none(name: str, shared: object) -> None:
    assert find_burnt_in(read_clip(shared / f"{name}.mp4", short_side=288, frames=60)) is None


def test_the_case_of_a_caption_a_logo_and_bars(cases: object) -> None:
    found = find_burnt_in(read_clip(cases / "burnt_in_overlay" / "clip.mp4", short_side=144))
    assert found is not None
    assert (found.top, found.bottom) == (18, 18)
    assert found.in_words() == "black bars and a caption or logo"
    assert find_burnt_in(read_clip(cases / "burnt_in_overlay" / "same_without.mp4", short_side=144)) is None


class Watching:
    """The default tracker, and what it was given."""

    name = "watching"
    seen: Clip | None = None

    def track(self, clip: Clip, *rest: object) -> Tracking:
        self.seen = clip
        return SfmTracker().track(clip, *rest)


def test_a_render_leaves_what_is_burnt_in_where_it_is(arc: TrueShot, tmp_path: object) -> None:
    import track2view as t2v

    small = torch.nn.functional.interpolate(arc.clip.frames[::4].float(), size=(144, 252), mode="area").to(torch.uint8)
    clip, letters = marked(replace(arc.clip, frames=small), text="stay", bars=(18, 18))
    with pytest.warns(UserWarning, match="black bars and a caption or logo that never move: left out of tracking"):
        shot = t2v.prepare(clip, use_cache=False, tracker=(tracker := Watching()))
    assert tracker.seen is not None
    assert np.abs(tracker.seen.image(0).astype(int) - clip.image(0))[letters].mean() > 30, "letters are not in what is tracked"
    burnt_in = shot.burnt_in
    assert burnt_in is not None
    target = t2v.target_camera(shot, "orbit-right", amount=12)
    made = read_clip(t2v.write_run(shot, target, tmp_path / "run"))
    last = len(made) - 1
    assert (made.image(last)[:17].max(-1) < 30).mean() == 1.0
    assert (made.image(last)[-17:].max(-1) < 30).mean() == 1.0
    assert np.abs(made.image(last).astype(int) - clip.image(last))[letters].mean() < 8
    picture = np.s_[24:-48, 40:-40]
    assert np.abs(made.image(last).astype(int) - clip.image(last))[picture].mean() > 8, "the scene itself is seen from elsewhere"
    tracks = shot.tracking.tracks
    rows = (t2v_rows(shot) * clip.size[0])[tracks.visible]
    assert float(((rows < 17) | (rows > clip.size[0] - 17)).float().mean()) == 0.0


def t2v_rows(shot: object) -> torch.Tensor:
    """Where each track is seen, from the top, in shares of the picture."""
    from track2view.records import ViewTracks

    return ViewTracks.of(shot.tracking.tracks, shot.tracking.camera).uv[..., 1]


def test_the_case_of_a_caption_a_logo_and_bars_rendered(cases: object, tmp_path: object) -> None:
    import track2view as t2v

    clip = read_clip(cases / "burnt_in_overlay" / "clip.mp4", short_side=144, frames=14)
    with pytest.warns(UserWarning, match="never move"):
        shot = t2v.prepare(clip, use_cache=False)
    with pytest.warns(UserWarning, match="depth is not sure enough"):
        made = read_clip(t2v.write_run(shot, t2v.target_camera(shot, "orbit-right"), tmp_path / "run"))
    last = made.image(len(made) - 1)
    assert (last[:17].max(-1) < 30).mean() == 1.0
    assert shot.burnt_in is not None
    difference = np.abs(last.astype(int) - clip.image(len(clip) - 1))
    assert difference[shot.burnt_in.mask].mean() < 4
    assert difference[~shot.burnt_in.mask].mean() > 4
    with pytest.warns(UserWarning, match="depth is not sure enough"):
        dropped = read_clip(t2v.write_run(shot.without_overlay(), t2v.target_camera(shot, "orbit-right"), tmp_path / "dropped"))
    assert (dropped.image(len(made) - 1)[:17].max(-1) < 30).mean() < 0.5
