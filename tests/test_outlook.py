"""What is said of a path before it is rendered, against what rendering it shows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Done
from shot_support import exact_shot

from track2view.cameras import parse_move
from track2view.errors import UserError
from track2view.outlook import FURTHEST, SHARES, Coverage, Outlook
from track2view.pipeline import Shot, target_camera
from track2view.warp import WarpRenderer

SIZE, FRAMES = (180, 320), 5


@pytest.fixture(scope="module")
def shot() -> Shot:
    return exact_shot(SIZE, FRAMES, 10)[1]


@pytest.fixture(scope="module")
def outlook(shot: Shot) -> Outlook:
    return Outlook(shot)


def measured(shot: Shot, camera: str) -> np.ndarray:
    renderer, target = WarpRenderer(shot.scene, shot.depth, shot.tracking.camera), target_camera(shot, camera)
    return np.array([float(renderer.render(target, frame).seen.float().mean()) for frame in range(FRAMES)])


@pytest.mark.parametrize("camera", ["orbit-right:20", "dolly-out:0.6", "pan-left:25", "static"])
def test_coverage_is_what_rendering_shows(camera: str, shot: Shot, outlook: Outlook) -> None:
    found = outlook.coverage(target_camera(shot, camera))
    assert np.abs(found.seen - measured(shot, camera)).max() < 0.03
    assert found.seconds.tolist() == pytest.approx([index / 10 for index in range(FRAMES)])


def test_a_move_goes_as_far_as_it_shows_what_is_asked(shot: Shot, outlook: Outlook) -> None:
    for name in ("orbit-right", "zoom-out"):
        found = outlook.how_far(parse_move(name))
        assert list(found) == list(SHARES)
        amounts = list(found.values())
        assert amounts == sorted(amounts)
        for share, amount in found.items():
            assert measured(shot, f"{name}:{amount}").min() == pytest.approx(share, abs=0.03)


def test_what_has_no_end_says_so(outlook: Outlook) -> None:
    assert outlook.how_far(parse_move("zoom-in")) == dict.fromkeys(SHARES)
    reached = outlook.how_far(parse_move("dolly-zoom-in"), (0.05,))[0.05]
    assert reached is None or reached < 1
    for move in ("orbit-right+dolly-in", "static", "smooth", "recam-3"):
        with pytest.raises(UserError, match=r"has no single amount to find; name one move, such as orbit-right"):
            outlook.how_far(parse_move(move))
    assert {"degrees", "distances", "times"} == set(FURTHEST)


def test_coverage_over_time_in_words() -> None:
    seen = np.array([1.0, 0.95, 0.8, 0.76, 0.5, 0.92])
    words = Coverage(seen=seen, seconds=np.arange(6) / 2).in_words
    assert words == (
        "never seen 18 % on average, 50 % at worst (at 2.0 s); green from 0.0 s, yellow from 1.0 s, red from 2.0 s, green from 2.5 s"
    )


def test_a_forecast_names_memory_disk_and_time(shot: Shot, outlook: Outlook) -> None:
    assert outlook.forecast(target_camera(shot, "orbit-right")).startswith("about 0.6 GB of memory, 21 MB of disk, 0.")


def test_how_far_and_validation_are_commands(short_file: Path, within: Callable[..., Done], tmp_path: Path) -> None:
    done = within(["how-far", short_file, "orbit-right"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" of every picture is seen up to ")[0] for line in lines] == [f"orbit-right: {share} %" for share in (90, 75, 50)]
    assert all(line.endswith(" degrees") for line in lines)
    done = within(["render", short_file, "--camera", "orbit-right:5", "dolly-out", "--validate-only", "--out", "run"])
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["orbit-right", "dolly-out"]
    assert all(" never seen " in line and "GB of memory" in line for line in done.stdout.splitlines())
    assert not (tmp_path / "run").exists()
    done = within(["how-far", short_file, "orbit-right+pan-left"])
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no single amount to find" in done.stderr
