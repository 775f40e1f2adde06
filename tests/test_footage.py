"""Evaluating on clips whose truth nobody knows, or of which a video is: lists of them, methods, scores."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from model_support import random_adapter

from track2view.cli.commands import parse
from track2view.curate import export_scene
from track2view.errors import UserError
from track2view.evaluate.footage import METHODS, ByModel, Footage
from track2view.evaluate.lists import REALCAM, list_folder, list_multicam, list_realcam
from track2view.evaluate.report import write_report
from track2view.evaluate.run import evaluate
from track2view.evaluate.videos import Videos
from track2view.metrics import psnr
from track2view.model.conditioners.tracks import TrackConditioner
from track2view.model.diffusion import Track2ViewPipeline
from track2view.model.make import new_model
from track2view.records import Clip
from track2view.scenes import make_rig, make_varied_world, render_path, split_seed
from track2view.video import clip_images, read_clip, write_video

FRAMES = 9


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten cameras of a scene, with ours of what the tracker does not need to find."""
    return export_scene(tmp_path_factory.mktemp("data"), "validation", 3, frames=FRAMES, size=(64, 112))


@pytest.fixture(scope="module")
def listed(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip along two moves."""
    folder = tmp_path_factory.mktemp("listed")
    (folder / "clips").mkdir()
    shutil.copy(scene / "videos/cam01.mp4", folder / "clips/first.mp4")
    assert list_folder(folder / "clips", ["pan-left:4", "orbit-right:6"], folder / "list.json") == 2
    return folder / "list.json"


def test_a_folder_of_clips_is_listed_along_every_camera(listed: Path) -> None:
    footage = Footage(file=listed, frames=FRAMES)
    assert [case.name for case in footage.cases] == ["first-pan-left-4", "first-orbit-right-6"]
    assert {case.clip for case in footage.cases} == {listed.parent / "clips/first.mp4"}
    shutil.copytree(listed.parent, moved := listed.parent.with_name("moved"))
    assert Footage(file=moved / "list.json", frames=FRAMES).cases[0].clip == moved / "clips/first.mp4", "named relative to the list"
    with pytest.raises(UserError, match="no videos there"):
        list_folder(listed.parent, ["pan-left"], listed.parent / "none.json")


def test_controls_follow_their_cameras(listed: Path, tmp_path: Path) -> None:
    footage = Footage(file=listed, frames=FRAMES)
    pan, orbit = (footage.given(case) for case in footage.cases)
    assert torch.equal(pan.source, read_clip(listed.parent / "clips/first.mp4").frames)
    assert pan.known.elsewhere is not None
    assert torch.allclose(pan.known.elsewhere().world_from_camera, orbit.known.target.world_from_camera)
    assert pan.parallax < 0.01 < orbit.parallax
    rows = evaluate(footage, METHODS, tmp_path / "out")
    assert [(row.case, row.method) for row in rows] == [(case.name, name) for name in METHODS for case in footage.cases]
    assert all(row.reason == "" and row.group == "clips" for row in rows)
    right, wrong = (
        read_clip(tmp_path / f"out/clips/{name}").frames
        for name in ("warp/first-pan-left-4.mp4", "shuffled-camera/first-orbit-right-6.mp4")
    )
    assert psnr(right, wrong) > 30, "another case's camera is what that case asks for"
    copies = [row.values["steadiness_gained"] for row in rows if row.method == "copy"]
    assert copies == [0, 0]
    write_report(tmp_path / "report.html", footage, rows, tmp_path / "out", "track2view evaluate out --footage list.json")
    page = (tmp_path / "report.html").read_text()
    assert "list.json: 1 clips, 2 camera paths" in page
    assert "PSNR seen" not in page
    alone = replace(footage, file=tmp_path / "one.json")
    shutil.copytree(listed.parent / "clips", tmp_path / "clips")
    list_folder(tmp_path / "clips", ["pan-left:4"], alone.file)
    (row,) = evaluate(alone, {"shuffled-camera": METHODS["shuffled-camera"]}, tmp_path / "alone")
    assert row.reason == "no other case has another camera"


def test_multicam_has_the_true_view(scene: Path, tmp_path: Path) -> None:
    assert list_multicam(scene.parent, tmp_path / "list.json") == 1
    footage = Footage(file=tmp_path / "list.json", frames=5)
    (case,) = footage.cases
    source, target = case.name.split("-")[-2:]
    assert source != target
    assert case.clip == tmp_path / json.loads((tmp_path / "list.json").read_text())["cases"][0]["clip"]
    copy, warp = evaluate(footage, {name: METHODS[name] for name in ("copy", "warp")}, tmp_path / "out")
    own, true = (read_clip(scene / f"videos/{name}.mp4").frames[:5] for name in (source, target))
    assert copy.values["psnr"] == pytest.approx(psnr(own, true))
    assert warp.values["psnr"] is not None
    assert warp.values["psnr"] > copy.values["psnr"]
    given = footage.given(case)
    between = given.known.shot.tracking.camera.camera_from_world[:1] @ given.known.target.world_from_camera[:1]
    assert torch.allclose(between, torch.eye(4, dtype=torch.float64)[None], atol=1e-6), "cameras of a rig share their first frame"
    assert len(copy.by_frame["psnr"]) == 5
    other = Footage(file=tmp_path / "list.json", frames=FRAMES + 1)
    (row,) = evaluate(other, {"copy": METHODS["copy"]}, tmp_path / "long")
    assert row.reason == f"{case.clip}: {FRAMES} frames; {FRAMES + 1} are needed"


def test_cameras_are_reconstructed_where_lines_suffice(tmp_path: Path) -> None:
    """A clip that ignores a pan is off by the pan."""
    seed, frames, size = split_seed("validation", 0), 9, (240, 416)
    world, camera = make_varied_world(seed, frames=frames, dynamic=False), make_rig(seed, frames=frames, size=size)["cam01"]
    clip = Clip(frames=render_path(world, camera).colour, fps=Fraction(15))
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips/a.mp4", clip_images(clip), clip.fps, crf=4)
    camera.save(tmp_path / "own.json")
    list_folder(tmp_path / "clips", ["pan-left:5"], tmp_path / "list.json")
    said = json.loads((tmp_path / "list.json").read_text())
    said["cases"][0]["source_camera"] = "own.json"
    (tmp_path / "list.json").write_text(json.dumps(said))
    footage = Footage(file=tmp_path / "list.json", frames=frames)
    given = footage.given(footage.cases[0])
    values = footage.score(given, given.source).values
    assert values["registered"] == 1
    assert values["reconstructed_rotation"] == pytest.approx(2.5, abs=0.2)
    assert values["reconstructed_translation"] < 0.01
    focal = torch.eye(3, dtype=torch.float64).repeat(frames, 1, 1)
    focal[:, [0, 1], [0, 1]] = torch.linspace(1, 2, frames, dtype=torch.float64)[:, None]
    zoomed = replace(given.known.target, intrinsics=given.known.target.intrinsics @ focal)
    other = footage.score(replace(given, known=replace(given.known, target=zoomed)), given.source).values
    assert "registered" not in other


def test_models_and_videos_are_methods_too(listed: Path, tmp_path: Path) -> None:
    footage = Footage(file=listed, frames=5)
    case = footage.cases[1]
    given = footage.given(case)
    new_model("micro", tmp_path)
    random_adapter(tmp_path, TrackConditioner, frames=5)
    pipe = Track2ViewPipeline.from_pretrained(tmp_path / "base", tmp_path / "adapter")
    made, again, other = (ByModel(pipe=pipe, seed=seed)(case, given).frames for seed in (0, 0, 1))
    assert made.shape == given.source.shape
    assert torch.equal(made, again)
    assert not torch.equal(made, other)
    write_video(tmp_path / f"{case.name}.mp4", clip_images(Clip(frames=given.source, fps=given.fps)), given.fps, crf=4)
    assert psnr(Videos(folder=tmp_path)(case, given).frames, given.source) > 35


WRONG = {
    "no list": (lambda said: said.pop("cases"), r"not a list of footage"),
    "another format": (lambda said: said.update(format="x"), r"not a list of footage"),
    "none": (lambda said: said.update(cases=[]), r"cases: none there"),
    "a case that is none": (lambda said: said.update(cases=[3]), r"cases\[0\]: expected an object, got 3"),
    "no clip": (lambda said: said["cases"][1].pop("clip"), r"cases\[1\]: clip is missing"),
    "a clip that is not there": (lambda said: said["cases"][1].update(clip="b.mp4"), r"cases\[1\]: clip: no such file .*b.mp4"),
    "a field too many": (lambda said: said["cases"][0].update(colour="red"), r"cases\[0\]: unknown field 'colour'"),
    "a number": (lambda said: said["cases"][0].update(camera=3), r"cases\[0\]: camera: expected text, got 3"),
    "a move that there is not": (lambda said: said["cases"][0].update(camera="pam-left"), r"cases\[0\]: camera: .*pam-left"),
    "a name that is a path": (lambda said: said["cases"][0].update(name="../a"), r"cases\[0\]: name: expected one that a file may have"),
    "a name twice": (lambda said: said["cases"][0].update(name="first-orbit-right-6"), r"two cases are named first-orbit-right-6"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_list_is_named(listed: Path, case: str) -> None:
    spoil, message = WRONG[case]
    said = json.loads(listed.read_text())
    spoil(said)
    path = listed.with_name("wrong.json")
    path.write_text(json.dumps(said))
    with pytest.raises(UserError, match=rf"^{path}: {message}"):
        _ = Footage(file=path, frames=5).cases


def test_realcam_is_listed_along_the_moves_that_were_drawn(scene: Path, tmp_path: Path) -> None:
    drawn = json.loads(REALCAM.read_text())
    assert {kind: len(moves) for kind, moves in drawn.items()} == {"RealEstate10K": 200, "MiraData": 200}
    assert all(len(set(pair)) == 2 for moves in drawn.values() for pair in moves)
    entries = []
    for number, kind in enumerate(("MiraData9K", "RealEstate10K", "RealEstate10K", "DL3DV")):
        shutil.copy(scene / "videos/cam01.mp4", tmp_path / f"{number}.mp4")
        entry = {"video_path": f"{number}.mp4", "dataset_source": kind, "long_caption": "A room." if number else ""}
        entry |= {"camera_intrinsics": [0.5, 0.9, 0.5, 0.5], "camera_extrinsics": np.stack([np.eye(4)] * FRAMES), "align_factor": 1.0}
        entries.append(entry)
    np.savez(tmp_path / "test.npz", arr_0=np.array(entries, dtype=object))
    assert list_realcam(tmp_path / "test.npz", tmp_path, tmp_path / "list.json") == 6
    cases = Footage(file=tmp_path / "list.json", frames=FRAMES).cases
    assert [case.group for case in cases] == ["RealEstate10K"] * 4 + ["MiraData"] * 2
    assert [case.camera for case in cases] == [
        move for kind, count in (("RealEstate10K", 2), ("MiraData", 1)) for pair in drawn[kind][:count] for move in pair
    ]
    assert [case.caption for case in cases] == ["A room."] * 4 + [""] * 2
    (tmp_path / "1.mp4").unlink()
    with pytest.raises(UserError, match=r"1.mp4: no such clip"):
        list_realcam(tmp_path / "test.npz", tmp_path, tmp_path / "list.json")


def test_the_commands_list_and_evaluate(listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.json"
    parse(["benchmark", "clips", str(listed.parent / "clips"), "--camera", "pan-left:4", "--out", str(file)]).run()
    assert capsys.readouterr().out == f"{file}  (1 cases)\n"
    asked = ["evaluate", str(tmp_path / "out"), "--footage", str(file), "--frames", "5"]
    parse([*asked, "--method", "copy", "warp"]).run()
    assert len((tmp_path / "out/rows.csv").read_text().splitlines()) == 3
    with pytest.raises(UserError, match=r"--method: of footage there are copy, shuffled-camera, warp, mini, got truth"):
        parse([*asked, "--method", "truth"]).run()
    with pytest.raises(UserError, match=r"--cameras: of procedural worlds alone"):
        parse([*asked, "--cameras", "matching"]).run()
    with pytest.raises(UserError, match=r"holds rows of frames 5, now 7"):
        parse([*asked[:-1], "7", "--method", "copy"]).run()
