"""Recipes: what they train and take, and that all of a small one learns."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from test_docs import blocks, typed
from train_support import PLAN
from train_support import run as train_tiny

from track2view import training
from track2view.ablation import SeededRun, ablate, by_case, table
from track2view.cli.commands import parse
from track2view.errors import UserError
from track2view.evaluate.row import Row
from track2view.evaluate.run import read_rows
from track2view.evaluate.worlds import Worlds
from track2view.model.bases import load_transformer
from track2view.model.checkpoint import MINI, load_adapter
from track2view.model.conditioners import Conditioner
from track2view.model.conditioners.camera import CameraConditioner
from track2view.model.conditioners.render import RenderConditioner
from track2view.model.conditioners.trajectory import TrajectoryConditioner
from track2view.model.conditioners.unconditional import UnconditionalConditioner
from track2view.model.make import new_model
from track2view.model.parallel import trainable_parameters
from track2view.recipes import (
    RECIPES,
    WAN_1_3B,
    AdapterRecipe,
    AnyShape,
    CameraShape,
    RenderShape,
    TrajectoryShape,
    UnconditionalShape,
    ablations,
    baselines,
    micro,
    mini,
    one_gpu,
    paper,
    proof,
    recipe_named,
)
from track2view.train.adapter import AdapterTask
from track2view.train.estimate import groups_of


def lora_parameters(rank: int, width: int = 1536, feed_forward: int = 8960, blocks: int = 30) -> int:
    """Both attentions have four square products; the feed-forward has two."""
    return blocks * rank * (8 * 2 * width + 2 * (width + feed_forward))


@pytest.mark.parametrize("rank", [16, 64])
def test_trained_parameters_match_the_formula_on_the_meta_device(rank: int) -> None:
    recipe = replace(paper(), lora_rank=rank, lora_alpha=rank)
    with torch.device("meta"):
        model = training.new_adapter(WanTransformer3DModel(**WAN_1_3B), recipe)
    groups, frozen = groups_of(model)
    assert groups["LoRA"] == lora_parameters(rank)
    assert set(groups) == {"LoRA", "conditioner"}
    assert frozen == 1_418_996_800
    if rank == 16:
        assert round(groups["LoRA"] / 1e6, 1) == 21.9


@pytest.mark.parametrize("name", ["paper", "one-gpu"])
def test_a_dry_run_says_what_a_run_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parse(["train", name, "nowhere", "nothing", "--dry-run"]).run()
    said = capsys.readouterr().out
    for each in ("trained", "LoRA", "conditioner", "GB a process", "TFLOP", "on 4 h100" if name == "paper" else "on 1 h100", "Memory:"):
        assert each in said


def test_sharding_lowers_what_a_process_holds() -> None:
    plain, zero, fully = (
        training.estimate(paper(), None, processes=4, sharding=sharding).bytes_by_use for sharding in ("none", "zero1", "fsdp2")
    )
    assert zero["moments"] == plain["moments"] / 4
    assert zero["frozen weights"] == plain["frozen weights"]
    assert fully["frozen weights"] == plain["frozen weights"] / 4


def test_operations_follow_the_passes() -> None:
    whole = training.estimate(paper(), None, processes=4)
    recipe = replace(paper(), plan=replace(paper().plan, checkpointing=False))
    assert training.estimate(recipe, None, processes=4).step_flops == pytest.approx(whole.step_flops * 2 / 3)
    cached = replace(paper(), modes=replace(paper().modes, attention="cached-source"))
    assert 0.75 < training.estimate(cached, None, processes=4).step_flops / whole.step_flops < 0.85


def test_every_recipe_and_ablation_is_found_by_its_name() -> None:
    for name in RECIPES:
        assert recipe_named(name).name == name
    for of in (mini(), proof(), one_gpu(), paper()):
        for name, recipe in (ablations(of) | baselines(of)).items():
            assert recipe_named(name) == recipe
            assert recipe.name == name
    with pytest.raises(UserError, match=r"recipe: expected micro.*layers-2.*'maxi'"):
        recipe_named("maxi")


def test_an_ablation_changes_one_choice() -> None:
    for recipe in ablations(paper()).values():
        ours, theirs = training.as_json(recipe), training.as_json(paper())
        assert len({name.split(".")[0] for name in ours if ours[name] != theirs[name]} - {"name"}) <= 1


@pytest.mark.parametrize("of", [mini(), one_gpu(), paper()], ids=lambda each: each.name)
def test_a_baseline_trains_as_many_weights(of: AdapterRecipe) -> None:
    base = MINI / "base" if of.name == "mini" else None
    ours = training.estimate(of, base, processes=1)
    for recipe in baselines(of).values():
        theirs = training.estimate(recipe, base, processes=1)
        assert theirs.trained == pytest.approx(ours.trained, rel=0.1)
        assert theirs.frozen == ours.frozen
        assert recipe.plan == of.plan


def test_ablations_of_tracks_need_tracks() -> None:
    with pytest.raises(ValueError, match="mini-camera reads no tracks"):
        ablations(baselines(mini())["mini-camera"])


def test_a_recipe_as_json_has_every_choice_and_no_habit_of_reporting() -> None:
    found = training.as_json(micro())
    assert found == json.loads(json.dumps(found))
    assert found["modes.attention"] == "joint"
    assert found["plan.learning_rate"] == micro().plan.learning_rate
    assert not {"plan.log_every", "plan.steps", "plan.kept"} & found.keys()


def test_what_is_missing_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --base"):
        training.run(mini(), tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="no such base folder"):
        training.run(mini(), tmp_path, tmp_path / "out", base=tmp_path / "base")
    with pytest.raises(UserError, match="needs --held-out"):
        training.run(recipe_named("mini-vae"), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_little_memory_or_disk_is_refused_with_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = training.estimate(paper(), None, processes=1)
    device = torch.device("cpu")
    monkeypatch.setattr(training.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 8_000_000_000}))
    with pytest.raises(UserError, match=r"needs about .* GB of CPU memory, 8.0 are free"):
        training.check_room(found, paper(), tmp_path, device)
    monkeypatch.setattr(training.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1e15}))
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 1_000_000_000}))
    with pytest.raises(UserError, match=r"checkpoints need about .* GB, 1.00 are free"):
        training.check_room(found, paper(), tmp_path / "not yet" / "there", device)


GOLDEN = """
1.98190 1.87583 1.67429 1.52258 1.50974 1.43323 1.40557 1.37878 1.37901 1.34257
1.29697 1.31120 1.33197 1.23299 1.19370 1.16784 1.15075 1.15618 1.13756 1.16122
"""
"""Losses of the first twenty steps."""


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps of ``micro``, as a user takes them."""
    folder = tmp_path_factory.mktemp("micro")
    parse(["train", "micro", str(folder / "data"), str(folder / "out"), "--steps", "20"]).run()
    return folder


def test_the_first_twenty_losses_of_micro_are_golden(learnt: Path) -> None:
    rows = [json.loads(line) for line in (learnt / "out/log.jsonl").read_text().splitlines()]
    found = [row["loss"] for row in rows if "loss" in row]
    assert found == pytest.approx([float(each) for each in GOLDEN.split()], rel=2e-3)


def test_what_was_trained_in_full_loads_as_a_base_and_its_adapter(learnt: Path) -> None:
    model, record = load_adapter(learnt / "out/model/adapter", load_transformer(learnt / "out/model/base"))
    assert record.recipe == "micro"
    assert record.step == 20
    before = dict(load_transformer(learnt / "data/base").named_parameters())
    moved = [name for name, each in model.transformer.named_parameters() if not torch.equal(each, before[name])]
    assert len(moved) > 0.9 * len(before)


def test_recipes_are_compared_on_worlds_that_none_has_seen(learnt: Path, tmp_path: Path) -> None:
    """Two runs of twenty steps that are there, and one of a single step that is not."""
    data, base, out = learnt / "data/worlds", learnt / "data/base", tmp_path / "runs"
    for seed in (0, 1):
        shutil.copytree(learnt / "out", out / f"micro-{seed}")
    new = SeededRun(recipe=replace(micro(), plan=replace(micro().plan.lasting(1), seed=2)), folder=out / "micro-2")
    assert new.finished is None
    given = {"base": base, "held_out": None, "device": "cpu", "steps": None, "command": "track2view ablation"}
    worlds = Worlds(static=0, dynamic=1, frames=9, size=(32, 56))
    path = ablate([new], worlds, data, out, **given)
    assert new.finished == 1
    lines = path.read_text().splitlines()
    assert [line.split("|")[1:3] for line in lines[2:9]] == [
        *([f" {name} ", " 1 "] for name in ("truth", "copy", "shuffled-camera", "warp-exact")),
        [" micro at 20 ", " 2 "],
        [" micro at 1 ", " 1 "],
        [" micro at 20 minus micro at 1 ", " "],
    ]
    rows = read_rows(out / "evaluation")
    taught, new_one = ([row.values["psnr"] for row in rows if row.method.endswith(end)] for end in ("@20", "@1"))
    assert taught[0] == taught[1] != new_one[0], "the base that was trained with it is its own"
    at = lines[0].split("|").index(" PSNR ")
    assert lines[6].split("|")[at].startswith(f" {taught[0]:.2f} (")
    assert (out / "evaluation/report.html").exists()
    with pytest.raises(UserError, match=r"recipe mini-base trains no adapter, which an ablation compares"):
        parse(["ablation", "mini-base", str(data), str(out), "--base", str(base), "--variants", ""]).run()


def test_a_table_compares_world_by_world() -> None:
    """Each seed has another world that it lacks."""
    numbers = {"proof-0": {"a": 1.0, "b": 2.0}, "proof-1": {"a": 3.0, "c": 5.0}, "proof-camera-0": {"a": 7.0, "b": 9.0}}
    rows = [
        Row(case=case, method=f"{run}@8", group="static", source="", target="", values={"rotation": value})
        for run, values in numbers.items()
        for case, value in values.items()
    ]
    assert by_case(rows, ["proof-0@8", "proof-1@8"], "rotation") == {"a": 2.0, "b": 2.0, "c": 5.0}
    lines = list(table(rows))
    assert lines[0] == "| | seeds | RotErr ° |"
    assert lines[2].startswith("| proof at 8 | 2 | 3.00 (")
    assert lines[3].startswith("| proof-camera at 8 | 1 | 8.00 (")
    assert lines[4].startswith("| proof at 8 minus proof-camera at 8 | | -6.00 (")
    assert lines[4].endswith("; 2) |"), "of the worlds that both have"


def test_a_run_in_the_way_is_not_written_over(learnt: Path) -> None:
    with pytest.raises(UserError, match=r"holds a run at step-00000020; go on with --resume"):
        parse(["train", "micro", str(learnt / "data"), str(learnt / "out")]).run()
    parse(["train", "micro", str(learnt / "data"), str(learnt / "out"), "--resume", "--steps", "20"]).run()


@pytest.mark.slow
def test_the_commands_of_the_training_page_run(learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(learnt / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    for line in blocks("docs/training.md", "sh")[0].strip().splitlines():
        typed(line.replace("--steps 20", "--steps 2"))
    assert (tmp_path / "out/model/adapter/track2view.json").exists()


def test_products_in_another_precision_are_another_run(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parse(["train", "paper", str(learnt / "data"), "out", "--dry-run", "--precision", "float32"]).run()
    assert "falling in the last 1000; float32" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"plan.precision: 'float32' there, 'bfloat16' now"):
        parse(["train", "micro", str(learnt / "data"), str(learnt / "out"), "--resume", "--steps", "20", "--precision", "bfloat16"]).run()


def test_a_processor_that_emulates_bfloat16_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(emulates: bool) -> bool:
        monkeypatch.setattr("track2view.train.loop.emulates_bfloat16", lambda _: emulates)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            train_tiny(tmp_path / str(emulates), replace(PLAN, steps=5, precision="bfloat16"))
        return any("begin with --precision float32" in str(each.message) for each in seen)

    assert told(True)
    assert not told(False)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (CameraShape(), CameraConditioner),
        pytest.param(TrajectoryShape(branch_width=24), TrajectoryConditioner, marks=pytest.mark.slow),
        pytest.param(RenderShape(guide_width=24), RenderConditioner, marks=pytest.mark.slow),
        pytest.param(UnconditionalShape(), UnconditionalConditioner, marks=pytest.mark.slow),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_baseline_is_trained_by_the_same_command_on_the_same_data(
    learnt: Path, tmp_path: Path, shape: AnyShape, kind: type[Conditioner]
) -> None:
    data, base = learnt / "data/worlds", learnt / "data/base"
    plan = replace(micro().plan, steps=3, warmup=1, decay=1)
    recipe = replace(micro(), name="micro-other", conditioner=shape, plan=plan, examples=None, pairs=4)
    if kind is RenderConditioner:
        with pytest.raises(UserError, match=r"has no rendered views; `track2view curate encode --rendered`"):
            training.run(recipe, data, tmp_path / "out", base=base)
        parse(["curate", "encode", str(data), "--base", str(base), "--rendered", "4"]).run()
    training.run(recipe, data, tmp_path / "out", base=base, held_out=None if kind is CameraConditioner else data)
    adapter = tmp_path / "out/model/adapter"
    model, record = load_adapter(adapter, load_transformer(tmp_path / "out/model/base"))
    assert isinstance(model.conditioner, kind)
    assert all(float(each.detach().abs().max()) > 0 for each in model.conditioner.parameters())
    assert record.recipe == "micro-other"
    with pytest.raises(UserError, match=f"has conditioner '{kind.__name__}', recipe micro 'TrackConditioner'"):
        training.run(micro(), data, tmp_path / "again", base=base, adapter=adapter)


def test_a_seed_and_pairs_are_of_the_run(learnt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, base = learnt / "data/worlds", learnt / "data/base"
    drawn = training.build(replace(micro(), examples=None, pairs=20), data, base, None, torch.device("cpu"))
    names = [drawn.feed.examples[index].name for index in range(len(drawn.feed.examples))]
    assert len(set(names)) == 20
    fewer = training.build(replace(micro(), examples=None, pairs=5), data, base, None, torch.device("cpu"))
    assert {fewer.feed.examples[index].name for index in range(5)} < set(names)
    assert fewer.feed.fingerprint() != drawn.feed.fingerprint()
    for count in (0, 91):
        with pytest.raises(UserError, match=f"pairs of a world's cameras: expected 1 to 90, got {count}"):
            training.build(replace(micro(), examples=None, pairs=count), data, base, None, torch.device("cpu"))
    with pytest.raises(UserError, match=r"plan\.seed: 0 there, 3 now"):
        parse(["train", "micro", str(learnt / "data"), str(learnt / "out"), "--resume", "--steps", "20", "--seed", "3"]).run()


def test_data_that_are_not_encoded_name_the_command(learnt: Path, tmp_path: Path) -> None:
    new_model("small", tmp_path, seed=1)
    with pytest.raises(UserError, match=r"is not encoded with .*curate encode"):
        training.run(micro(), learnt / "data/worlds", tmp_path / "out", base=tmp_path / "base")


@pytest.mark.slow
def test_micro_overfits_and_follows_its_tracks(tmp_path: Path) -> None:
    parse(["train", "micro", str(tmp_path / "data"), str(tmp_path / "out")]).run()
    rows = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-20:]) / 20 < sum(losses[:5]) / 5 / 10
    own, others = sampled(tmp_path)
    assert min(own) > 25
    assert max(others) < min(own) - 5


def sampled(folder: Path) -> tuple[list[float], list[float]]:
    """Fidelity of latents sampled for each example, with its own tracks and with those of another target camera, in dB."""
    data, out = folder / "data", folder / "out/model"
    recipe = micro()
    task = training.build(recipe, data / "worlds", data / "base", data / "worlds", torch.device("cpu"))
    assert isinstance(task, AdapterTask)
    task.model, _ = load_adapter(out / "adapter", load_transformer(out / "base"))
    examples = [task.feed.examples[index] for index in range(4)]
    found: tuple[list[float], list[float]] = ([], [])
    for number, example in enumerate(examples):
        for way, tracks in zip(found, (example, examples[(number + 1) % 4]), strict=True):
            made = task.latents(replace(example, condition=tracks.condition))[0]
            true = example.target.float()
            error = (made - true).square().mean()
            way.append(10 * float(torch.log10((true.max() - true.min()).square() / error)))
    return found


def test_an_adapter_that_was_trained_before_is_trained_on() -> None:
    base, adapter = MINI / "base", MINI / "adapter"
    fresh = training.new_adapter(load_transformer(base), mini())
    found, record = training.continued_adapter(load_transformer(base), mini(), adapter)
    stored, _ = load_adapter(adapter, load_transformer(base))
    own = trainable_parameters(found)
    assert own.keys() == trainable_parameters(fresh).keys()
    assert all(each.dtype == torch.float32 for each in own.values())
    assert record.step > 0
    for name, each in stored.named_parameters():
        assert torch.equal(dict(found.named_parameters())[name], each)
    with pytest.raises(UserError, match=r"adapter: has lora_rank 64, recipe mini 8"):
        training.continued_adapter(load_transformer(base), replace(mini(), lora_rank=8), adapter)
    deeper = replace(mini(), conditioner=replace(mini().conditioner, layers=2))
    with pytest.raises(UserError, match=r"adapter: has layers 4, recipe mini 2"):
        training.continued_adapter(load_transformer(base), deeper, adapter)


@pytest.mark.slow
def test_a_run_begins_with_the_adapter_it_is_given(learnt: Path, tmp_path: Path) -> None:
    model = learnt / "out/model"
    before, data = str(model / "adapter"), learnt / "data/worlds"
    run = ["train", "micro", str(data), str(tmp_path / "out"), "--base", str(model / "base"), "--adapter", before, "--steps", "1"]
    parse([*run, "--held-out", str(data)]).run()
    rows = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    first = next(row["loss"] for row in rows if "loss" in row)
    assert first < 0.75 * float(GOLDEN.split(maxsplit=1)[0])
    _, record = load_adapter(tmp_path / "out/model/adapter", load_transformer(tmp_path / "out/model/base"))
    assert record.data["begun_with"] == "micro of step 20"
    with pytest.raises(UserError, match=r"recipe mini-base trains no adapter"):
        parse(["train", "mini-base", str(data), str(tmp_path / "base"), "--base", str(model / "base"), "--adapter", before]).run()
