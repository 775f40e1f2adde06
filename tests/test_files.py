"""Records, files and folders of our own: as they were written, or refused by name; whole, or not there."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from test_hostile_samples import RECORD, SCENE

from track2view.curate import SceneRecord
from track2view.errors import UserError
from track2view.files import atomic_folder, atomic_path, write_record
from track2view.folders import written_whole
from track2view.model.checkpoint import AdapterRecord, QueryPlan
from track2view.model.dual_view import DualViewModes
from track2view.samples import load_record
from track2view.signals import Stopped, stoppable

ADAPTER = AdapterRecord(
    base="some base",
    width=48,
    modes=DualViewModes(rope="synchronised", attention="cached-source"),
    queries=QueryPlan(rows=3, columns=5, frames=(0, 7, -1)),
    lora_rank=8,
    lora_alpha=4,
    recipe="mine",
    step=12,
    data={"clips": 5},
)
LOADERS: dict[str, tuple[str, object, str, Callable[[Path], object]]] = {
    "sample": ("sample.json", RECORD, "track2view.sample/1", lambda path: load_record(path.parent)),
    "scene": (
        "scene.json",
        SceneRecord(**{**SCENE, "size": (64, 112)}),
        "track2view.scene/1",
        lambda path: SceneRecord.load(path.parent),
    ),
    "adapter": ("track2view.json", ADAPTER, "track2view.adapter/1", AdapterRecord.load),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_record_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    name, record, form, load = LOADERS[kind]
    write_record(tmp_path / name, record, form)
    assert load(tmp_path / name) == record


@pytest.mark.parametrize("kind", LOADERS)
def test_a_folder_without_its_record_is_named_with_what_makes_one(kind: str, tmp_path: Path) -> None:
    name, _, _, load = LOADERS[kind]
    with pytest.raises(UserError, match=rf"^{tmp_path}: not an? {kind}.*: it has no {name}; `track2view .*` makes one$"):
        load(tmp_path / name)


WRONG: dict[str, tuple[str, Callable[[dict], object], str]] = {
    "another format": ("sample", lambda said: said.update(format="track2view.sample/2"), "format: expected"),
    "the format of another record": ("scene", lambda said: said.update(format="track2view.sample/1"), "format: expected"),
    "no format": ("adapter", lambda said: said.pop("format"), "format: expected"),
    "a field gone": ("scene", lambda said: said.pop("caption"), "missing .*caption"),
    "a field too many": ("sample", lambda said: said.update(colour="red"), "unexpected .*colour"),
    "a field of another type": ("sample", lambda said: said.update(split=5), "split"),
    "modes gone": ("adapter", lambda said: said.pop("modes"), "missing .*modes"),
    "modes that are none": ("adapter", lambda said: said.update(modes="joint"), "modes: expected an object"),
    "a mode that there is not": ("adapter", lambda said: said["modes"].update(rope="helical"), "rope: expected sequential or synchronised"),
    "modes that do not go together": ("adapter", lambda said: said["modes"].update(timestep="shared"), "needs timestep"),
    "frames that are none": ("adapter", lambda said: said["queries"].update(frames=5), "frames"),
    "no object": ("sample", lambda said: said.clear(), "format: expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_record_is_named(case: str, tmp_path: Path) -> None:
    kind, spoil, message = WRONG[case]
    name, record, form, load = LOADERS[kind]
    write_record(tmp_path / name, record, form)
    said = json.loads((tmp_path / name).read_text())
    spoil(said)
    (tmp_path / name).write_text(json.dumps(said))
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: not an? {kind}.* \(.*{message}.*\)$"):
        load(tmp_path / name)


def test_an_adapter_from_before_there_were_other_conditioners_is_read(tmp_path: Path) -> None:
    write_record(tmp_path / "track2view.json", ADAPTER, "track2view.adapter/1")
    said = json.loads((tmp_path / "track2view.json").read_text())
    del said["conditioner"]
    (tmp_path / "track2view.json").write_text(json.dumps(said))
    assert AdapterRecord.load(tmp_path / "track2view.json") == ADAPTER


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_path(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def write(*, until_the_end: bool) -> None:
        with atomic_folder(tmp_path / "below" / "a") as partial:
            (partial / "one").write_text("1")
            assert [path.name[0] for path in (tmp_path / "below").iterdir()] == ["."]
            if not until_the_end:
                raise RuntimeError("stopped")
            (partial / "two").write_text("2")

    with pytest.raises(RuntimeError):
        write(until_the_end=False)
    assert list((tmp_path / "below").iterdir()) == []
    write(until_the_end=True)
    assert sorted(path.name for path in (tmp_path / "below" / "a").iterdir()) == ["one", "two"]
    assert (tmp_path / "below" / "a").stat().st_mode & 0o777 == 0o755


WRITERS: dict[str, tuple[Callable[[Path], AbstractContextManager[Path]], Callable[[Path], object]]] = {
    "file": (atomic_path, lambda partial: partial.write_text("x")),
    "folder": (atomic_folder, lambda partial: (partial / "x").write_text("x")),
    "files of a folder": (written_whole, lambda partial: (partial / "x").write_text("x")),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_signal_while_what_is_hidden_is_cleared_away_leaves_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, write = WRITERS[kind]
    signals = [signal.SIGHUP]

    def signalled(clear: Callable[..., None]) -> Callable[..., None]:
        def first(*arguments: object, **options: object) -> None:
            if signals:
                os.kill(os.getpid(), signals.pop())
            clear(*arguments, **options)

        return first

    monkeypatch.setattr(shutil, "rmtree", signalled(shutil.rmtree))
    monkeypatch.setattr(Path, "unlink", signalled(Path.unlink))

    def write_half() -> None:
        with stoppable(), writer(tmp_path / "a") as partial:
            write(partial)
            raise RuntimeError("nothing takes its place")

    with pytest.raises(Stopped):
        write_half()
    assert signals == []
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_a_folder_that_is_there_already_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("x")
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "a") as partial:
        (partial / "yours").write_text("y")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["a", "a/mine"]
