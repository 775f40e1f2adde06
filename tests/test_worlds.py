"""Worlds as training reads them: what shards hold is what the world is, however they came to be written."""

import json
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from track2view import training
from track2view.cli.commands import parse
from track2view.errors import UserError
from track2view.evaluate import true_pair
from track2view.geometry import invert
from track2view.model.bases import load_vae
from track2view.model.conditioners.tracks import TrackCondition
from track2view.model.latents import encode
from track2view.model.make import new_model
from track2view.model.text import encode_prompt, load_text_encoder
from track2view.pairing import pair_by_projection
from track2view.recipes import micro
from track2view.records import Queries
from track2view.scenes import make_rig, make_training_world, make_varied_world, render_view, split_seed, track_points
from track2view.train.adapter import AdapterTask
from track2view.train.rendered import render_pairs
from track2view.train.worlds import ClipLatents, WorldClips, WorldPairs, encode_worlds, write_worlds
from track2view.warp import exact_renderer

FRAMES, SIZE, GRID = 9, (32, 56), (3, 5)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "data"
    write_worlds(folder, "validation", range(8, 10), frames=FRAMES, size=SIZE, grid=GRID)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    new_model("small", folder)
    return folder / "base"


@pytest.fixture(scope="module")
def encoded(worlds: Path, base: Path) -> Path:
    return encode_worlds(worlds, base)


def shards(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in sorted((folder / "worlds").iterdir())}


def test_clips_are_what_each_camera_sees(worlds: Path) -> None:
    clips = WorldClips(worlds)
    assert len(clips) == 20
    seed = split_seed("validation", 9)
    world, rig = make_varied_world(seed, frames=FRAMES, dynamic=seed % 5 != 0), list(make_rig(seed, frames=FRAMES, size=SIZE).values())
    for camera, frame in ((0, 0), (3, 4), (9, 8)):
        assert torch.equal(clips[10 + camera][frame], render_view(world, rig[camera], frame).colour)
    assert clips.name_of(13) == f"{seed:010d}/cam04"


def test_one_world_in_five_is_still(worlds: Path) -> None:
    clips = WorldClips(worlds)
    for number in (0, 1):
        seed = split_seed("validation", 8 + number)
        world = make_varied_world(seed, frames=FRAMES, dynamic=seed % 5 != 0)
        assert any(world.moves(index) for index in range(len(world.solids))) is (seed % 5 != 0)
        assert torch.equal(clips[10 * number][0], clips[10 * number + 1][0])  # cameras share their first frame


def test_a_pair_is_what_the_world_says(worlds: Path, encoded: Path, base: Path) -> None:
    pairs = WorldPairs(worlds, encoded)
    assert len(pairs) == 2 * 90
    index = 90 + 4 * 9 + 7  # source cam05; targets leave it out, so the eighth is cam09
    seed = split_seed("validation", 9)
    assert pairs.place_of(index) == (f"{seed:010d}", 4, 8)
    example = pairs[index]
    assert example.name == f"{seed:010d}/cam05_cam09"
    world, rig = make_varied_world(seed, frames=FRAMES, dynamic=seed % 5 != 0), list(make_rig(seed, frames=FRAMES, size=SIZE).values())
    queries = Queries.grid([0, FRAMES - 1], *GRID)
    tracks = track_points(world, rig[4], queries.frame, queries.pixels(SIZE))
    expected = TrackCondition.of(pair_by_projection(tracks, rig[4], rig[8]), pairs.grid)
    for view in ("source", "target"):
        for name in ("uv", "disparity", "valid"):
            found, true = (getattr(getattr(each, view), name) for each in (example.condition, expected))
            assert torch.allclose(found.float(), true.float(), atol=1e-6), (view, name)
    step = invert(rig[4].world_from_camera[0]) @ rig[8].world_from_camera[[0, 4, 8]]
    assert torch.allclose(example.camera.poses, step[None, :, :3].flatten(2).float(), atol=1e-6)
    vae = load_vae(base)
    for found, clip in zip((example.source, example.target), pairs.pixels(index), strict=True):
        assert torch.allclose(found.float(), encode(vae, pairs.grid.padded(clip))[0], atol=2e-3, rtol=1e-3)
    tokenizer, encoder = load_text_encoder(base, torch.float32, "cpu")
    assert torch.allclose(example.text, encode_prompt(tokenizer, encoder, world.caption, "cpu")[0], atol=1e-6)
    assert tuple(example.target.shape[1:]) == pairs.shape_of(index)


def test_all_pairs_and_clips_are_distinct_and_go_to_other_processes(worlds: Path, encoded: Path) -> None:
    pairs, clips = WorldPairs(worlds, encoded), ClipLatents(worlds, encoded)
    places = {pairs.place_of(index) for index in range(len(pairs))}
    assert len(places) == len(pairs)
    assert all(source != target for _, source, target in places)
    copy = pickle.loads(pickle.dumps(pairs))
    assert torch.equal(copy[3].target, pairs[3].target)
    assert torch.equal(clips[15].latents, pairs[90 + 5 * 9].source.float())
    assert not torch.equal(pairs.text_of(""), clips[0].text)


def test_rendered_views_are_what_the_exact_warp_shows(worlds: Path, encoded: Path, base: Path) -> None:
    render_pairs(worlds, encoded, base, 2)
    pairs = WorldPairs(worlds, encoded, rendered=True)
    pairs.verify()
    assert pairs.fingerprint() != WorldPairs(worlds, encoded).fingerprint()
    drawn = pairs.drawn(2)
    assert [index // 90 for index in drawn] == [0, 0, 1, 1]
    vae = load_vae(base)
    for index in (drawn[0], drawn[3]):
        truth = true_pair(training.pair_of(pairs, index), frames=FRAMES, size=SIZE)
        renderer = exact_renderer(truth.world, truth.source_camera, truth.source)
        views = [renderer.render(truth.target_camera, frame) for frame in range(FRAMES)]
        seen = torch.stack([each.seen for each in views])
        colour = torch.where(seen[:, None], torch.stack([each.colour for each in views]), 128)
        given = pairs[index].rendered
        assert given is not None
        assert torch.allclose(given.latents.float(), encode(vae, pairs.grid.padded(colour)), atol=2e-3, rtol=1e-3)
        assert float(given.shown.float().mean()) == pytest.approx(
            float(seen[:1].float().mean() + 2 * seen[1:].float().mean()) / 3, abs=1e-3
        )
        assert pairs.pixels(index)[0].equal(truth.source.colour)
    other = next(index for index in range(90) if index not in drawn)
    with pytest.raises(UserError, match=r"has no rendered view of .*`track2view curate encode --rendered` with more pairs"):
        pairs[other]
    before = {each.name: each.read_bytes() for each in (encoded / "rendered").glob("*.safetensors")}
    render_pairs(worlds, encoded, base, 3)
    assert all((encoded / "rendered" / name).read_bytes() == content for name, content in before.items())
    assert len(WorldPairs(worlds, encoded, rendered=True).drawn(3)) == 6
    assert all(WorldPairs(worlds, encoded, rendered=True)[index].rendered is not None for index in pairs.drawn(3))


def test_what_people_film_is_trained_on_and_scored_alike(tmp_path: Path, base: Path) -> None:
    data = tmp_path / "data"
    size, grid = (str(each) for each in SIZE), (str(each) for each in GRID)
    asked = ["--split", "validation", "--count", "1", "--frames", str(FRAMES), "--size", *size, "--grid", *grid]
    parse(["scenes", "clips", str(data), *asked, "--content", "lifelike"]).run()
    with pytest.raises(UserError, match=r"worlds.json: was begun as .*'lifelike'.*, now .*'solids'"):
        write_worlds(data, "validation", range(1), frames=FRAMES, size=SIZE, grid=GRID)
    seed = split_seed("validation", 0)
    world = make_training_world("lifelike", seed, frames=FRAMES, dynamic=seed % 5 != 0)
    rig = list(make_rig(seed, frames=FRAMES, size=SIZE).values())
    assert torch.equal(WorldClips(data)[4][8], render_view(world, rig[4], 8).colour)
    encode_worlds(data, base)
    task = training.build(micro(), data, base, data, torch.device("cpu"))
    assert isinstance(task, AdapterTask)
    assert task.score is not None
    assert task.pixels is not None
    assert task.score(0, task.pixels(0)[1])["psnr"] > 60


@pytest.mark.slow
def test_more_worlds_are_added_and_what_is_there_is_kept(worlds: Path, tmp_path: Path) -> None:
    write_worlds(tmp_path, "validation", range(8, 9), frames=FRAMES, size=SIZE, grid=GRID)
    first = shards(tmp_path)
    write_worlds(tmp_path, "validation", range(8), frames=FRAMES, size=SIZE, grid=GRID, workers=2)
    now = shards(tmp_path)
    assert all(now[name] == content for name, content in first.items() if name.endswith(".safetensors"))
    assert len(WorldClips(tmp_path)) == 90
    assert WorldClips(tmp_path).fingerprint() != WorldClips(worlds).fingerprint()


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    given = ["scenes", "clips", str(tmp_path / "out"), "--split", "validation", "--count", "16", "--frames", "2", "--size", "16", "24"]
    given += ["--grid", "2", "2"]
    running = subprocess.Popen([sys.executable, "-m", "track2view", *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and not list((tmp_path / "out/worlds").glob("0*.safetensors")):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    parse(given).run()
    assert len(WorldClips(tmp_path / "out")) == 160
    WorldClips(tmp_path / "out").verify()


def test_what_does_not_fit_is_refused_by_name(worlds: Path, encoded: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"worlds.json: was begun as .*frames=9.*frames=5"):
        write_worlds(worlds, "validation", range(8), frames=5, size=SIZE, grid=GRID)
    with pytest.raises(UserError, match="--first"):
        write_worlds(tmp_path, "train", range(3, 8), frames=5, size=SIZE, grid=GRID)
    with pytest.raises(UserError, match="scenes clips"):
        WorldClips(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    document = json.loads((worlds / "worlds.json").read_text())
    (tmp_path / "other/worlds.json").write_text(json.dumps({**document, "split": "new"}))
    with pytest.raises(UserError, match=r"split: .*'new'"):
        WorldClips(tmp_path / "other")


def test_what_is_missing_or_damaged_is_named(worlds: Path, encoded: Path, tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(worlds, data)
    own = data / "encoded" / encoded.name
    shard = next((own / "latents").glob("*.safetensors"))
    whole = shard.read_bytes()
    WorldPairs(data, own).verify()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{shard.name}: gone, or not what was written"):
        WorldPairs(data, own).verify()
    shard.unlink()
    with pytest.raises(UserError, match="is not encoded"):
        WorldPairs(data, own)


def test_encoding_again_changes_nothing_and_adds_what_is_new(worlds: Path, base: Path, encoded: Path) -> None:
    before = {each: each.read_bytes() for each in encoded.rglob("*.safetensors")}
    assert encode_worlds(worlds, base) == encoded
    assert {each: each.read_bytes() for each in encoded.rglob("*.safetensors")} == before


def test_the_command_line_encodes_either_kind(worlds: Path, base: Path, encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parse(["curate", "encode", str(worlds), "--base", str(base)]).run()
    assert capsys.readouterr().out.strip().endswith(str(encoded))
    with pytest.raises(UserError, match="--size"):
        parse(["curate", "encode", str(worlds), "--base", str(base), "--size", "16", "16"]).run()
    assert replace(WorldPairs(worlds, encoded).encoding, samples=0).captions == 3
