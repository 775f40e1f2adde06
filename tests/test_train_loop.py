"""The training loop on a tiny adapter of the real classes: what follows from what, whatever stops it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_cache import small_disk
from torch import Tensor
from train_support import PLAN, MadeUp, run, tiny_task

from track2view.errors import Notice, UserError
from track2view.model.parallel import trainable_parameters
from track2view.train.adapter import AdapterTask
from track2view.train.denoising import NoisyBatch, fixed_batches, with_choice
from track2view.train.loop import OUTLIER, USUAL_AFTER, USUAL_SHARE
from track2view.train.plan import Order
from track2view.train.state import Checkpoint, checkpoints

PROGRAM = [sys.executable, str(Path(__file__).with_name("train_support.py"))]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def losses(out: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def newest(out: Path) -> Checkpoint:
    return Checkpoint.load(checkpoints(out / "checkpoints")[-1])


def assert_equal(one: Checkpoint, other: Checkpoint, tolerance: float = 0.0) -> None:
    for part in ("trained", "average", "optimiser"):
        ours, theirs = getattr(one, part), getattr(other, part)
        assert ours.keys() == theirs.keys()
        for name, each in ours.items():
            assert torch.allclose(each, theirs[name], atol=tolerance, rtol=0), f"{part} {name}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([*PROGRAM, str(out)], env=ENVIRONMENT, check=True, capture_output=True)
    return out


@given(
    shapes=st.lists(st.sampled_from([(1, 2, 2), (2, 2, 2), (3, 2, 4)]), min_size=4, max_size=40),
    size=st.integers(1, 2),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=40)
def test_an_epoch_takes_each_example_at_most_once_in_batches_of_one_shape(shapes: list[tuple[int, ...]], size: int, seed: int) -> None:
    order = Order(shapes=shapes, size=size, seed=seed)
    for number in (0, 1):
        epoch = order.epoch(number)
        taken = [index for batch in epoch for index in batch]
        assert len(epoch) == order.per_epoch
        assert len(set(taken)) == len(taken)
        assert all(len(batch) == size and len({shapes[index] for index in batch}) == 1 for batch in epoch)
        left = [shapes[index] for index in range(len(shapes)) if index not in taken]
        assert all(left.count(shape) < size for shape in left)
    assert order.epoch(1) == Order(shapes=shapes, size=size, seed=seed).epoch(1)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = Order(shapes=[(1, 1, 1)] * 30, size=3, seed=0)
    assert order.epoch(0) != order.epoch(1)
    assert order.epoch(0) != Order(shapes=order.shapes, size=3, seed=1).epoch(0)


def test_the_rate_rises_stays_and_falls_and_does_not_know_the_end_before() -> None:
    plan = replace(PLAN, steps=100, warmup=10, decay=20, learning_rate=1.0, final_rate=0.1)
    rates = [plan.rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[9:80]) == {1.0}
    assert all(0.1 < after < before for before, after in pairwise(rates[79:]))
    assert rates[99] < 0.15
    longer = replace(plan, steps=200)
    assert [longer.rate_at(step) for step in range(80)] == rates[:80]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 0}, "plan.steps"),
        ({"batch": 5}, "plan.micro_batch"),
        ({"learning_rate": -1.0}, "plan.learning_rate"),
        ({"clip": 0.0}, "plan.clip"),
        ({"warmup": 6}, "plan.steps"),
        ({"kept": 0}, "plan.kept"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_name(change: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        replace(PLAN, **change)


def test_only_what_is_trained_changes() -> None:
    task = tiny_task()
    frozen = {name: each.clone() for name, each in task.model.named_parameters() if not each.requires_grad}
    trained = trainable_parameters(task.model)
    assert frozen
    assert all("lora_" in name or name.startswith(("conditioner", "view_embedding")) for name in trained)


def test_a_run_learns_and_changes_nothing_that_is_frozen(tmp_path: Path) -> None:
    before = {name: each.clone() for name, each in tiny_task().model.named_parameters()}
    task = run(tmp_path)
    after = dict(task.model.named_parameters())
    assert before.keys() == after.keys()
    for name, each in after.items():
        assert torch.equal(before[name], each) is not each.requires_grad, name
    found = losses(tmp_path)
    assert sorted(found) == list(range(1, 9))
    assert found[8] < found[1]


def test_a_run_holds_what_it_should(undisturbed: Path) -> None:
    assert [each.name for each in checkpoints(undisturbed / "checkpoints")] == ["step-00000006", "step-00000008"]
    assert {each.name for each in (undisturbed / "model/adapter").iterdir()} == {
        "conditioner",
        "lora",
        "track2view.json",
        "view_embedding.safetensors",
    }
    assert json.loads((undisturbed / "model/adapter/track2view.json").read_text())["step"] == 8
    mean = newest(undisturbed).average
    saved = load_file(undisturbed / "model/adapter/conditioner/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(each, mean[f"conditioner.{name}"]) for name, each in saved.items())
    assert any((undisturbed / "tensorboard").iterdir())


def test_the_average_lags_behind_as_planned(tmp_path: Path) -> None:
    run(tmp_path, replace(PLAN, steps=2, decay=0, save_every=1, validate_every=9, average=0.25))
    first, second = (Checkpoint.load(each) for each in checkpoints(tmp_path / "checkpoints"))
    for name, each in second.average.items():
        stays = min(0.25, 2 / 11)
        assert torch.allclose(each, stays * first.average[name] + (1 - stays) * second.trained[name], atol=1e-7), name


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_anywhere_and_resumed_it_ends_the_same_bit_for_bit(seed: int, undisturbed: Path, tmp_path: Path) -> None:
    chance, kills = random.Random(seed), 0
    while not (done := checkpoints(tmp_path / "checkpoints")) or done[-1].name != "step-00000008":
        running = subprocess.Popen([*PROGRAM, str(tmp_path)], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if kills < 2:
            kill_at_work(running, tmp_path / "log.jsonl", chance)
            kills += 1
        running.communicate()
    assert_equal(newest(tmp_path), newest(undisturbed))
    assert losses(tmp_path) == losses(undisturbed)


def kill_at_work(running: subprocess.Popen[bytes], log: Path, chance: random.Random) -> None:
    """Within half a second of the first row that it adds to its log."""
    size = least = log.stat().st_size if log.exists() else 0
    while size <= least and running.poll() is None:
        time.sleep(0.01)
        size = log.stat().st_size if log.exists() else 0
        least = min(least, size)  # rows beyond the checkpoint go first
    time.sleep(chance.uniform(0.0, 0.5))
    running.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_killed_ten_times_at_random_steps_it_ends_the_same_bit_for_bit(undisturbed: Path, tmp_path: Path) -> None:
    chance, plan = random.Random(2), [*PROGRAM, str(tmp_path / "out")]
    for _ in range(10):
        running = subprocess.Popen(plan, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        kill_at_work(running, tmp_path / "out/log.jsonl", chance)
        running.communicate()
    subprocess.run(plan, env=ENVIRONMENT, check=True, capture_output=True)
    assert_equal(newest(tmp_path / "out"), newest(undisturbed))
    assert losses(tmp_path / "out") == losses(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(number: signal.Signals, undisturbed: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, save_every=100, steps=400, decay=3)
    started = time.monotonic()

    class Signalling(MadeUp):
        def __getitem__(self, index: int):
            if time.monotonic() - started > 0.5:
                os.kill(os.getpid(), number)
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, plan, Signalling())
    kept = newest(tmp_path)
    assert 0 < kept.record.step < 400
    assert kept.record.step == max(losses(tmp_path))


def test_a_longer_plan_goes_on_as_if_it_had_always_been_so(tmp_path: Path) -> None:
    run(tmp_path / "short", replace(PLAN, steps=6, decay=2))
    for each in checkpoints(tmp_path / "short/checkpoints")[1:]:
        each.rename(each.with_name(f"later-{each.name}"))  # at step 4 the rate had not begun to fall
    run(tmp_path / "short", replace(PLAN, steps=8, decay=2))
    run(tmp_path / "long", replace(PLAN, steps=8, decay=2))
    assert_equal(newest(tmp_path / "short"), newest(tmp_path / "long"))


def test_a_plan_that_changes_once_the_rate_falls_is_refused(tmp_path: Path) -> None:
    run(tmp_path, PLAN)
    with pytest.raises(UserError, match="planned for 8 steps, now 12"):
        run(tmp_path, replace(PLAN, steps=12))


def test_another_recipe_or_other_data_are_refused_by_name(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=2, warmup=0, decay=0)
    run(tmp_path, plan)
    with pytest.raises(UserError, match=r"step-00000002: .*learning_rate: 0.01 there, 0.02 now"):
        run(tmp_path, replace(plan, learning_rate=2e-2))
    with pytest.raises(UserError, match="other data"):
        run(tmp_path, plan, MadeUp(12))


def test_numbers_that_are_none_stop_it_and_name_the_examples(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite.*the examples were .*pair7") as caught:
        run(tmp_path, replace(PLAN, steps=20, save_every=1), MadeUp(13, spoilt=7))
    there = checkpoints(tmp_path / "checkpoints")
    if there:
        assert str(there[-1]) in str(caught.value)
        assert all(bool(each.isfinite().all()) for each in newest(tmp_path).trained.values())
    run(tmp_path / "again", replace(PLAN, steps=2, warmup=0, decay=0))


def test_a_gradient_far_from_the_usual_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses_asked = 0
    own = AdapterTask.loss

    def loss(self: AdapterTask, model: torch.nn.Module, batch: NoisyBatch) -> Tensor:
        nonlocal losses_asked
        losses_asked += 1
        return own(self, model, batch) * (1e3 if losses_asked > 2 * (USUAL_AFTER + 3) else 1.0)

    monkeypatch.setattr(AdapterTask, "loss", loss)
    plan = replace(PLAN, steps=80, warmup=0, decay=0, save_every=10, validate_every=80, learning_rate=1e-3)
    with pytest.raises(UserError, match=r"50 times the usual .*step-00000050 is kept; the examples were pair"):
        run(tmp_path, plan)


def test_without_a_compiler_it_is_said_and_nothing_is_lost(undisturbed: Path, tmp_path: Path) -> None:
    nowhere = {**ENVIRONMENT, "CXX": "nowhere", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([*PROGRAM, str(tmp_path / "out"), "--compiled"], env=nowhere, check=True, capture_output=True, text=True)
    assert "blocks are not compiled" in done.stderr
    assert_equal(newest(tmp_path / "out"), newest(undisturbed))


@pytest.mark.slow
def test_compiled_training_is_the_same_but_for_rounding(undisturbed: Path, tmp_path: Path) -> None:
    subprocess.run([*PROGRAM, str(tmp_path), "--compiled"], env=ENVIRONMENT, check=True, capture_output=True)
    compiled, plain = newest(tmp_path), newest(undisturbed)
    assert_equal(compiled, plain, 1e-3)
    with pytest.raises(AssertionError):
        assert_equal(compiled, plain)


def test_an_outlier_hardly_moves_what_is_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = AdapterTask.loss
    plan = replace(PLAN, steps=10, warmup=0, decay=0, save_every=10, validate_every=10, learning_rate=1e-7)
    run(tmp_path / "plain", plan)
    losses_asked = 0

    def loss(self: AdapterTask, model: torch.nn.Module, batch: NoisyBatch) -> Tensor:
        nonlocal losses_asked
        losses_asked += 1
        return own(self, model, batch) * (1000 if losses_asked in (17, 18) else 1)

    monkeypatch.setattr(AdapterTask, "loss", loss)
    run(tmp_path / "spiked", plan)
    plain, spiked = (newest(tmp_path / name).record.usual_norm for name in ("plain", "spiked"))
    assert plain < spiked < (USUAL_SHARE + (1 - USUAL_SHARE) * OUTLIER + 0.02) * plain


@pytest.mark.parametrize(("tracks", "count"), [("all", 27), ("first", 13), ("half", 14), ("quarter", 7)])
def test_fewer_tracks_are_the_same_ones_whenever_an_example_is_read(tracks: str, count: int) -> None:
    example = MadeUp()[7]
    fewer, again = (with_choice(MadeUp()[7], tracks).condition for _ in range(2))
    assert fewer.confidence.shape[2] == count
    for view in ("source", "target"):
        assert torch.equal(getattr(fewer, view).uv, getattr(again, view).uv)
        places = getattr(example.condition, view).uv[0, 0].tolist()
        kept = [places.index(each) for each in getattr(fewer, view).uv[0, 0].tolist()]
        assert kept == sorted(set(kept))
        assert tracks != "first" or kept == list(range(13))
    other = with_choice(MadeUp()[8], tracks)
    assert other.condition.confidence.shape[2] > 0


def test_validation_asks_the_same_each_time_whole_at_all_levels() -> None:
    first, again = (next(fixed_batches(MadeUp(), [5])) for _ in range(2))
    assert torch.equal(first.latents, again.latents)
    assert first.timestep.tolist() == pytest.approx([100, 300, 500, 700, 900])
    noise = (first.latents - (1 - first.timestep[:, None, None, None, None] / 1000) * MadeUp()[5].target) * 1000
    assert torch.allclose(noise / first.timestep[:, None, None, None, None], noise[:1] / 100, atol=1e-4)
    assert torch.equal(first.source[0], MadeUp()[5].source)
    assert torch.equal(first.condition.source.valid[3], MadeUp()[5].condition.source.valid[0])


@pytest.mark.parametrize("part", ["trained.safetensors", "optimiser.safetensors", "training.json"])
def test_a_damaged_checkpoint_is_named(part: str, tmp_path: Path) -> None:
    run(tmp_path, replace(PLAN, steps=2, warmup=0, decay=0))
    file = checkpoints(tmp_path / "checkpoints")[-1] / part
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="step-00000002"):
        run(tmp_path, PLAN)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "size=1500k"):
        run(disk / "out", replace(PLAN, steps=2, warmup=0, decay=0))
        before = newest(disk / "out")
        room = os.statvfs(disk)
        (disk / "filler").write_bytes(b"x" * (room.f_bavail * room.f_frsize - 20_000))
        with pytest.raises((UserError, OSError), match=r"step-00000004|No space"):
            run(disk / "out", replace(PLAN, steps=4, warmup=0, decay=0))
        assert_equal(newest(disk / "out"), before)


def test_read_ahead_in_other_processes_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    run(tmp_path, loaders=2)
    assert losses(tmp_path) == losses(undisturbed)


def test_processes_that_cannot_share_a_step_are_refused_with_those_that_can() -> None:
    with pytest.raises(UserError, match=r"3 processes .* use 1 or 2 processes"):
        PLAN.accumulation(3)
    assert PLAN.accumulation(2) == 1


def ranks(out: Path, *arguments: str) -> None:
    """Two processes as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [*PROGRAM, str(out), *arguments],
            env={
                **ENVIRONMENT,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [each.communicate()[0] for each in started]
    assert all(each.returncode == 0 for each in started), "\n".join(said)


@pytest.mark.parametrize("sharding", ["none", *(pytest.param(each, marks=pytest.mark.slow) for each in ("zero1", "fsdp2"))])
def test_two_processes_equal_one_with_twice_the_accumulation_and_go_on_as_one(sharding: str, undisturbed: Path, tmp_path: Path) -> None:
    ranks(tmp_path, "--sharding", sharding)
    assert_equal(newest(tmp_path), newest(undisturbed), tolerance=1e-6)
    found, expected = losses(tmp_path), losses(undisturbed)
    assert [found[step] for step in expected] == pytest.approx(list(expected.values()), abs=1e-6)
    for each in checkpoints(tmp_path / "checkpoints")[1:]:
        each.rename(each.with_name(f"later-{each.name}"))
    with pytest.warns(Notice, match="saved by 2 processes, goes on in 1"):
        run(tmp_path)
    assert_equal(newest(tmp_path), newest(undisturbed), tolerance=1e-6)


@pytest.mark.parametrize("sharding", [pytest.param("zero1", marks=pytest.mark.slow), "fsdp2"])
def test_sharded_runs_go_on_from_what_one_process_saved(sharding: str, undisturbed: Path, tmp_path: Path) -> None:
    run(tmp_path, replace(PLAN, kept=9))
    for each in checkpoints(tmp_path / "checkpoints")[2:]:
        each.rename(each.with_name(f"later-{each.name}"))
    ranks(tmp_path, "--sharding", sharding)
    assert_equal(newest(tmp_path), newest(undisturbed), tolerance=1e-6)


def test_sharding_needs_several_processes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torchrun"):
        run(tmp_path, sharding="fsdp2")
