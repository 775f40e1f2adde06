"""Evaluating: what is asked of a benchmark, of methods and of anybody's videos, and what the report says of it."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from model_support import random_adapter

from track2view.cli.commands import parse
from track2view.errors import Notice, UserError
from track2view.evaluate.benchmark import Given, Made, Method
from track2view.evaluate.procedural import PairTruth
from track2view.evaluate.report import differences, means, write_report
from track2view.evaluate.row import Row
from track2view.evaluate.run import ROWS, evaluate, read_rows
from track2view.evaluate.sets import Inception, set_distances
from track2view.evaluate.videos import Videos
from track2view.evaluate.worlds import METHODS, WORLDS, ByModel, WorldCase, Worlds
from track2view.metrics import frechet_distance, kernel_distance
from track2view.model.conditioners import Conditioner
from track2view.model.conditioners.render import RenderConditioner
from track2view.model.conditioners.tracks import TrackConditioner
from track2view.model.diffusion import Track2ViewPipeline
from track2view.model.make import new_model
from track2view.records import Clip
from track2view.video import clip_images, write_video

SMALL = Worlds(static=1, dynamic=1, frames=5, size=(48, 84))
TINY = replace(SMALL, size=(16, 28))
"""For tests of everything but cameras."""
CONTROLS = ("truth", "copy", "shuffled-camera", "warp-exact")


@pytest.fixture(scope="module")
def given() -> Given[PairTruth]:
    return SMALL.given(SMALL.cases[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    out = tmp_path_factory.mktemp("evaluate") / "out"
    return out, evaluate(SMALL, {name: METHODS[name] for name in CONTROLS}, out)


def test_a_smaller_benchmark_is_part_of_a_larger_one() -> None:
    whole, few = Worlds(), Worlds(static=2, dynamic=3, frames=9, size=(32, 56))
    assert len(whole.cases) == 2 * WORLDS == len({case.name for case in whole.cases}) == len({case.pair.seed for case in whole.cases})
    assert set(few.cases) < set(whole.cases)
    assert [case.pair.dynamic for case in few.cases] == [False, False, True, True, True]
    assert all(case.pair.source != case.pair.target for case in whole.cases)
    assert min(case.pair.seed for case in whole.cases) >= 2_000_000_000, "of the split that no training sees"
    for wrong, told in (
        ({"static": 201}, "static: the benchmark has 200 such worlds, got 201"),
        ({"static": 0, "dynamic": 0}, "one world"),
    ):
        with pytest.raises(UserError, match=told):
            Worlds(**wrong)


def test_controls_come_out_in_their_order(run: tuple[Path, list[Row]]) -> None:
    _, rows = run
    assert [(row.case, row.method) for row in rows] == [(case.name, name) for name in CONTROLS for case in SMALL.cases]
    seen, turned = ({name: means(rows, name, value).mean for name in CONTROLS} for value in ("psnr_seen", "rotation"))
    assert seen["warp-exact"] > seen["copy"] + 3
    assert seen["warp-exact"] > seen["shuffled-camera"] + 3
    assert turned["truth"] < 0.1
    assert not turned["shuffled-camera"] < 1
    truth = [row for row in rows if row.method == "truth"]
    assert all(row.values["psnr_seen"] is None and row.values["flicker"] == 0 and row.values["converged"] == 1 for row in truth)


def test_a_row_is_kept_as_soon_as_it_is_known_and_made_once(tmp_path: Path) -> None:
    made: list[tuple[str, str]] = []

    def counted(name: str) -> Method[WorldCase, PairTruth]:
        def method(case, given):
            made.append((case.name, name))
            if name == "stops" and len(made) == 4:
                raise KeyboardInterrupt
            if name == "fails":
                raise UserError("no such weights")
            return METHODS["truth"](case, given)

        return method

    methods = {name: counted(name) for name in ("works", "fails", "stops")}
    with pytest.raises(KeyboardInterrupt):
        evaluate(TINY, {"works": methods["works"], "stops": methods["stops"]}, tmp_path)
    assert len(read_rows(tmp_path)) == 3
    with (tmp_path / ROWS).open("a") as file:
        file.write('{"case": "dynamic-200')
    rows = evaluate(TINY, methods, tmp_path)
    assert len(made) == len(set(made)) + 1 == 7, "one was interrupted, and made again"
    failed = [row for row in rows if row.method == "fails"]
    assert [row.reason for row in failed] == ["no such weights"] * 2
    assert all(not row.values for row in failed)
    assert means(rows, "fails", "psnr").pairs == 0
    again = evaluate(TINY, methods, tmp_path)
    assert [row for row in again if not row.reason] == [row for row in rows if not row.reason]
    assert [name for _, name in made[7:]] == ["fails"] * 2, "what failed is tried anew, and nothing else"
    assert sorted(path.name for path in (tmp_path / "clips/works").iterdir()) == sorted(f"{case.name}.mp4" for case in TINY.cases)
    with pytest.raises(UserError, match=r"holds rows of frames 5, now 9; give another folder"):
        evaluate(replace(TINY, frames=9), methods, tmp_path)


def test_two_runs_share_the_work(tmp_path: Path) -> None:
    """While one is at a case, another takes the next."""
    turns: list[str] = []
    copies = {"copy": METHODS["copy"]}

    def interrupted(case: WorldCase, given: Given[PairTruth]) -> Made:
        turns.append(case.name)
        if len(turns) == 1:
            with pytest.warns(Notice, match=r"2 clips are another run's, which has not ended"):
                rows = evaluate(TINY, {"first": interrupted, **copies}, tmp_path)
            assert [(row.case, row.method) for row in rows] == [(TINY.cases[1].name, "first"), (TINY.cases[1].name, "copy")]
        return METHODS["copy"](case, given)

    rows = evaluate(TINY, {"first": interrupted, **copies}, tmp_path)
    assert turns == [case.name for case in TINY.cases]
    assert [(row.case, row.method) for row in rows] == [(case.name, name) for name in ("first", "copy") for case in TINY.cases]
    assert len(read_rows(tmp_path)) == 4
    assert list((tmp_path / ".claims").iterdir()) == []


def test_two_runs_find_the_same_numbers(run: tuple[Path, list[Row]], tmp_path: Path) -> None:
    out, rows = run
    few = ("truth", "warp-exact")
    again = evaluate(SMALL, {name: METHODS[name] for name in few}, tmp_path / "again")
    same = [row for row in rows if row.method in few]
    assert [row.values for row in again] == [row.values for row in same]
    for folder, each in ((out, same), (tmp_path / "again", again)):
        write_report(tmp_path / f"{folder.name}.html", SMALL, each, folder, "track2view evaluate out")
    assert (tmp_path / "out.html").read_bytes() == (tmp_path / "again.html").read_bytes()


def film(path: Path, frames: torch.Tensor, fps: Fraction) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, clip_images(Clip(frames=frames, fps=fps)), fps, crf=4)


def test_videos_of_anybody_are_brought_to_the_same_size_and_rate(given: Given[PairTruth], tmp_path: Path) -> None:
    case, target = SMALL.cases[1], given.known.target.colour
    path = tmp_path / f"{case.name}.mp4"
    with pytest.raises(UserError, match=rf"{path.name}: no such video in "):
        Videos(folder=tmp_path)(case, given)
    film(path, target, Fraction(15))
    same = Videos(folder=tmp_path)(case, given)
    assert same.note == ""
    assert float((same.frames.float() - target.float()).abs().mean()) < 4
    twice = target.repeat_interleave(2, 0).repeat_interleave(2, 2).repeat_interleave(2, 3)
    film(path, twice, Fraction(30))
    brought = Videos(folder=tmp_path)(case, given)
    assert brought.note == "30 frames a second, read at 15; 96×168, resized to 48×84"
    assert float((brought.frames.float() - target.float()).abs().mean()) < 4
    film(path, target[:4], Fraction(15))
    with pytest.raises(UserError, match=r"4 frames; 5 are needed"):
        Videos(folder=tmp_path)(case, given)
    film(path, target, Fraction(30))
    with pytest.raises(UserError, match=r"5 frames at 30 a second; 5 at 15 are needed"):
        Videos(folder=tmp_path)(case, given)
    path.write_bytes(b"no video")
    with pytest.raises(UserError, match=path.name):
        Videos(folder=tmp_path)(case, given)


@pytest.mark.parametrize("kind", [TrackConditioner, RenderConditioner])
def test_a_model_is_given_what_it_reads_and_follows_its_camera(given: Given[PairTruth], tmp_path: Path, kind: type[Conditioner]) -> None:
    new_model("micro", tmp_path)
    random_adapter(tmp_path, kind, frames=SMALL.frames)
    pipe = Track2ViewPipeline.from_pretrained(tmp_path / "base", tmp_path / "adapter")
    case = SMALL.cases[1]
    asked, again, misled, other = (
        ByModel(pipe=pipe, misled=misled, seed=seed)(case, given) for misled, seed in ((False, 0), (False, 0), (True, 0), (False, 1))
    )
    assert asked.frames.shape == given.source.shape
    assert torch.equal(asked.frames, again.frames)
    assert not torch.equal(asked.frames, misled.frames)
    assert not torch.equal(asked.frames, other.frames)


def test_the_report_says_what_the_rows_say_and_fetches_nothing(run: tuple[Path, list[Row]], tmp_path: Path) -> None:
    out, rows = run
    failed = [replace(row, method="broken <b>", reason="no such video", values={}) for row in rows if row.method == "copy"]
    write_report(tmp_path / "report.html", SMALL, [*failed, *rows], out, "track2view evaluate out --static 1")
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page
    assert "broken &lt;b&gt;" in page
    assert page.count("<video") == 2
    assert f"{means(rows, 'warp-exact', 'psnr_seen').mean:.2f}<small>" in page
    gained = differences(rows, "warp-exact", "copy", "psnr_seen")
    assert gained.mean == pytest.approx(means(rows, "warp-exact", "psnr_seen").mean - means(rows, "copy", "psnr_seen").mean)
    assert f"{gained.mean:.2f}<small>" in page
    assert page.count("no such video") == 2


def test_the_command_writes_tables_clips_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--static", "0", "--dynamic", "1", "--frames", "5"]
    parse(["evaluate", str(tmp_path / "out"), *asked, "--method", "copy", "warp-tracked"]).run()
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out/report.html")
    lines = (tmp_path / "out/rows.csv").read_text().splitlines()
    assert len(lines) == 3
    videos = tmp_path / "out/clips/copy"
    with pytest.raises(UserError, match=r"there is a method named copy already"):
        parse(["evaluate", str(tmp_path / "out"), *asked, "--method", "copy", "--videos", str(videos)]).run()
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        parse(["evaluate", str(tmp_path / "out"), *asked, "--videos", str(tmp_path / "nowhere")]).run()
    rows = [json.loads(line) for line in (tmp_path / "out" / ROWS).read_text().splitlines()]
    assert [row["method"] for row in rows] == ["copy", "warp-tracked"]


class Means(torch.nn.Module):
    """As Inception's TorchScript is called."""

    def forward(self, pictures: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        each = pictures.float().mean((2, 3))
        return torch.cat([each, each.square() / 255], dim=1) if return_features else each * 0


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_sets_of_frames_are_told_from_the_exact_views(tmp_path: Path) -> None:
    torch.jit.script(Means()).save(tmp_path / "inception.pt")
    inception, out = Inception(tmp_path / "inception.pt"), tmp_path / "out"

    def fails(case: WorldCase, given: Given[PairTruth]) -> Made:
        raise UserError("lost")

    rows = evaluate(TINY, {name: METHODS[name] for name in ("truth", "copy")}, out, inception=inception)
    found = set_distances(rows, out)
    assert list(found) == ["truth", "copy"]
    assert {each.frames for each in found.values()} == {2 * SMALL.frames}
    assert found["truth"].frechet == pytest.approx(0, abs=1e-6)
    truths = [TINY.given(case).known for case in TINY.cases]
    target, source = (np.concatenate([inception.features(getattr(each, view).colour) for each in truths]) for view in ("target", "source"))
    assert found["copy"].frechet == pytest.approx(frechet_distance(source, target))
    assert found["copy"].kernel == pytest.approx(kernel_distance(source, target))
    one = [row if row.case == rows[0].case else replace(row, reason="lost") for row in rows]
    assert {each.frames for each in set_distances(one, out).values()} == {SMALL.frames}
    assert set_distances([replace(row, reason="lost") for row in rows], out) == {}
    evaluate(TINY, {"truth": METHODS["truth"], "fails": fails}, out, inception=inception)
    evaluate(TINY, {"truth": METHODS["truth"]}, tmp_path / "bare")
    with pytest.raises(UserError, match=r"has no scores by inception-2015-12-05 of .* by truth; give another folder"):
        evaluate(TINY, {"truth": METHODS["truth"]}, tmp_path / "bare", inception=inception)
    write_report(tmp_path / "report.html", TINY, rows, out, "track2view evaluate", ["DINO: get it"], found)
    page = (tmp_path / "report.html").read_text()
    assert f"{found['copy'].frechet:.2f}" in page
    assert "Not measured: DINO: get it" in page
    (tmp_path / "inception.pt").write_bytes(b"no network")
    with pytest.raises(UserError, match=r"inception.pt: no TorchScript \(.*get it from https://nvlabs"):
        Inception(tmp_path / "inception.pt")
