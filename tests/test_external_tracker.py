"""Trackers in environments of their own: the contract, its conformance check, and the arithmetic of the shipped adapters."""

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from track2view.cli import main
from track2view.curate.check_tracker import check_tracker
from track2view.errors import UserError
from track2view.geometry import project
from track2view.records import Clip, Queries
from track2view.scenes import make_camera, make_world, render_clip, track_points
from track2view.trackers import SfmTracker, open_tracker

ROOT = Path(__file__).parents[1]
EXAMPLE = f"command:python {ROOT}/examples/04_a_tracker_of_your_own.py"
FRAMES, SIZE = 5, (48, 84)
READ = "import numpy as np, sys\nasked = np.load(sys.argv[1])\nT, N = len(asked['frames']), len(asked['query_frame'])\n"
MADE = (
    "made = dict(xyz_world=np.ones((T, N, 3), np.float32), visible=np.ones((T, N), bool), confidence=np.ones((T, N), np.float32),"
    " world_from_camera=np.tile(np.eye(4), (T, 1, 1)), intrinsics=np.tile(np.diag([50.0, 50.0, 1.0]), (T, 1, 1)))\n"
)
BROKEN = {
    "is not there": (None, "cannot be started"),
    "fails": (READ + "raise SystemExit('out of luck')", "ended with code 1 and without a result: out of luck"),
    "writes nothing": (READ, "ended with code 0 and without a result"),
    "writes no npz": ("import sys\nopen(sys.argv[2], 'w').write('no')", "cannot be read"),
    "lacks fields": (READ + "np.savez(sys.argv[2], visible=np.ones((T, N)))", "lacks xyz_world, confidence"),
    "has other shapes": (
        READ + MADE + "made['visible'] = made['visible'][:, 1:]\nnp.savez(sys.argv[2], **made)",
        r"visible: expected \[5, 6\], got \[5, 5\]",
    ),
    "mirrors cameras": (
        READ + MADE + "made['world_from_camera'][:, 0, 0] = -1\nnp.savez(sys.argv[2], **made)",
        "left-handed",
    ),
}


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(make_world(1, frames=FRAMES, dynamic=False), make_camera("arc", 1, frames=FRAMES, size=SIZE), Fraction(15))[0]


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_contract_is_named(case: str, clip: Clip, tmp_path: Path) -> None:
    script, message = BROKEN[case]
    path = tmp_path / "tracker.py"
    if script is not None:
        path.write_text(script)
    tracker = open_tracker(f"command:python {path}" if script is not None else f"command:{path}")
    with pytest.raises(UserError, match=message):
        tracker.track(clip, Queries.grid([0], 2, 3))


def test_the_example_program_tracks_as_the_library_does(clip: Clip) -> None:
    camera = make_camera("arc", 1, frames=FRAMES, size=SIZE)
    queries = Queries.grid([0], 4, 6)
    inside, outside = SfmTracker().track(clip, queries, camera), open_tracker(EXAMPLE).track(clip, queries, camera)
    assert torch.equal(inside.tracks.xyz_world, outside.tracks.xyz_world)
    assert torch.equal(inside.tracks.visible, outside.tracks.visible)
    assert outside.camera.unit == "metre"
    assert outside.report.tracker == "04_a_tracker_of_your_own"


def test_the_default_tracker_conforms(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tracker", "check", "sfm"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 9
    assert all(line.startswith("ok") for line in lines)


class Confused(SfmTracker):
    """Gives every track to the next query, as trackers do that sort their points."""

    name = "confused"

    def track(self, *arguments: object) -> object:
        from dataclasses import replace

        tracking = super().track(*arguments)  # pyrefly: ignore
        return replace(tracking, tracks=replace(tracking.tracks, xyz_world=tracking.tracks.xyz_world.roll(1, dims=1)))


def test_a_tracker_that_mixes_its_queries_up_is_found_out() -> None:
    broken = [finding.what for finding in check_tracker(Confused()) if not finding.holds]
    assert "camera given: each track passes through its query" in broken


def test_names_and_environments_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="'cotracker' is unknown; one of sfm, spatialtracker-v2, tapnext-da3"):
        open_tracker("cotracker")
    monkeypatch.delenv("TRACK2VIEW_SPATIALTRACKER_V2_PYTHON", raising=False)
    with pytest.raises(UserError, match="TRACK2VIEW_SPATIALTRACKER_V2_PYTHON is not set"):
        open_tracker("spatialtracker-v2")
    monkeypatch.setenv("TRACK2VIEW_TAPNEXT_DA3_PYTHON", sys.executable)
    with pytest.raises(UserError, match="ended with code 1 and without a result: ModuleNotFoundError"):
        open_tracker("tapnext-da3").track(
            Clip(frames=torch.zeros(2, 3, 16, 16, dtype=torch.uint8), fps=Fraction(15)), Queries.grid([0], 1, 1)
        )
    main(["tracker", "list"])
    assert capsys.readouterr().out.splitlines()[0] == "sfm"


def adapter(name: str) -> ModuleType:
    """The adapter's module, which imports nothing but numpy until it runs."""
    import track2view.trackers

    path = Path(track2view.trackers.__file__).parent / "adapters" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("size", "rows", "top"), [((480, 832), 294, 0), ((1280, 1280), 518, 0), ((1280, 720), 518, 203)])
def test_spatialtracker_pictures_are_fitted_and_unfitted(size: tuple[int, int], rows: int, top: int) -> None:
    fit = adapter("spatialtracker_v2").Fit.of(*size)
    assert (fit.rows, fit.top, fit.rows % 14) == (rows, top, 0)
    pixels = np.random.default_rng(0).uniform(0, min(size), (20, 2))
    assert np.allclose(fit.pixels(fit.points(pixels)), pixels)
    camera = make_camera("arc", 2, frames=1, size=size)
    theirs = np.array([[fit.scale_x, 0, -0.5], [0, fit.scale_y, -fit.top - 0.5], [0, 0, 1]]) @ camera.intrinsics[0].numpy()
    assert np.allclose(fit.intrinsics(theirs), camera.intrinsics[0].numpy())


def test_adapters_put_found_depth_into_given_cameras() -> None:
    """Depths and a path found at another scale, with given cameras, give the true points."""
    world, camera = make_world(1, frames=9, dynamic=False), make_camera("arc", 1, frames=9, size=SIZE)
    queries = Queries.grid([0], 4, 6)
    scale = torch.tensor([SIZE[1], SIZE[0]], dtype=torch.float64)
    truth = track_points(world, camera, queries.frame, queries.uv.double() * scale).xyz_world.double()
    pixels, depth = project(truth, camera.camera_from_world, camera.intrinsics)
    found = camera.scaled(0.37, "scene").world_from_camera.numpy()
    given, intrinsics = camera.world_from_camera.numpy(), camera.intrinsics.numpy()
    xyz, factor = adapter("spatialtracker_v2").in_given_cameras(pixels.numpy(), 0.37 * depth.numpy(), found, given, intrinsics)
    assert factor == pytest.approx(1 / 0.37)
    assert np.allclose(xyz, truth.numpy(), atol=1e-9)
    module = adapter("tapnext_da3")
    assert module.scale_to(given, found) == pytest.approx(1 / 0.37)
    assert np.allclose(module.lifted((pixels / scale).numpy(), depth.numpy(), given, intrinsics, SIZE), truth.numpy(), atol=1e-9)


def test_tracks_that_do_not_pass_their_queries_stop_the_adapter() -> None:
    module = adapter("spatialtracker_v2")
    tracks = np.zeros((3, 2, 2))
    module.check_queries(tracks, np.array([0, 2]), np.zeros((2, 2)))
    with pytest.raises(SystemExit, match=r"track 1 is 7\.0 pixels from its query"):
        module.check_queries(tracks, np.array([0, 2]), np.array([[0.0, 0.0], [7.0, 0.0]]))


def test_tapnext_passes_are_joined_at_the_query_and_maps_are_sampled() -> None:
    module = adapter("tapnext_da3")
    ahead, back = np.full((4, 2, 2), 1.0), np.full((4, 2, 2), -1.0)
    joined = module.at_query(ahead, back, np.array([0, 2]))
    assert joined[:, 0, 0].tolist() == [1, 1, 1, 1]
    assert joined[:, 1, 0].tolist() == [-1, -1, 1, 1]
    ramp = np.tile(np.arange(8.0) + 0.5, (2, 6, 1)) / 8
    assert np.allclose(module.sampled(ramp, np.array([[[0.3, 0.5]], [[0.7, 0.1]]])), [[0.3], [0.7]])
