"""The ComfyUI nodes: held to ComfyUI's contract as its documentation has it, and run on real clips as its executor runs them.

ComfyUI itself is no dependency: the three things that the nodes take of it (its folders, its bar, what it does with a graph) are written
out here.
"""

import importlib.util
import inspect
import json
import os
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from shot_support import exact_shot

import track2view as t2v
from track2view.burnt_in import BurntIn
from track2view.generation import Generator, load_model, settings_for
from track2view.guide import nearest_depth
from track2view.model.checkpoint import MINI
from track2view.pipeline import refilm
from track2view.video import clip_images, read_clip, write_video

FOLDER = Path(__file__).parents[1] / "integrations/comfyui"
SIZE, FRAMES, RATE = (64, 112), 5, Fraction(24000, 1001)
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")
CORE = {"IMAGE", "MASK", "VIDEO", "AUDIO", *WIDGETS}
"""ComfyUI's own sockets that a node may have."""
OWN = {"TRACK2VIEW_CLIP", "TRACK2VIEW_SHOT", "TRACK2VIEW_CAMERA", "TRACK2VIEW_MODEL"}
CORE_NODES = {
    "CreateVideo": ({"images": "IMAGE", "fps": "FLOAT", "audio": "AUDIO"}, ("VIDEO",)),
    "SaveVideo": ({"video": "VIDEO"}, ()),
    "PreviewImage": ({"images": "IMAGE"}, ()),
    "MaskToImage": ({"mask": "MASK"}, ("IMAGE",)),
    "PreviewAny": ({"source": "*"}, ()),
}
"""Of ComfyUI's own nodes that the examples use: inputs that may be linked, and outputs."""


class CancelledError(Exception):
    """What ComfyUI raises out of its bar when the user cancels."""


@dataclass
class Comfy:
    """ComfyUI, as far as the nodes know it."""

    root: Path
    told: list[tuple[int, int]] = field(default_factory=list)
    cancelled: bool = False

    def bar(self, total: int) -> SimpleNamespace:
        return SimpleNamespace(update_absolute=self.tell)

    def tell(self, value: int, total: int) -> None:
        if self.cancelled:
            raise CancelledError
        self.told.append((value, total))

    def folder_paths(self) -> dict[str, Callable[..., Any]]:
        return {
            "get_input_directory": lambda: str(self.root / "input"),
            "get_output_directory": lambda: str(self.root / "output"),
            "get_temp_directory": lambda: str(self.root / "temp"),
            "get_annotated_filepath": lambda name: str(self.root / "input" / name),
            "filter_files_content_types": lambda names, kinds: [name for name in names if name.endswith(".mp4") and kinds == ["video"]],
        }


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comfy:
    found = Comfy(root=tmp_path)
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
    for name, contents in {"folder_paths": found.folder_paths(), "comfy": {}, "comfy.utils": {"ProgressBar": found.bar}}.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.fixture
def pack(comfy: Comfy) -> Iterator[ModuleType]:
    """The folder as ComfyUI imports it: by its path, under a name made of its path."""
    name = str(FOLDER).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for each in [each for each in sys.modules if each.startswith(name)]:
        del sys.modules[each]


@pytest.fixture(scope="module")
def shot() -> t2v.Shot:
    return exact_shot(SIZE, FRAMES, 24)[1]


@pytest.fixture(scope="module")
def target(shot: t2v.Shot) -> t2v.CameraPath:
    return t2v.target_camera(shot, "orbit-right:12")


@pytest.fixture(scope="module")
def clip_file(shot: t2v.Shot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comfyui") / "clip.mp4"
    write_video(path, clip_images(shot.clip), RATE)
    return path


def specs(node: type) -> dict[str, tuple]:
    """A node's inputs in the order in which it shows them."""
    inputs = node.INPUT_TYPES()
    return {**inputs["required"], **inputs.get("optional", {})}


def is_widget(spec: tuple) -> bool:
    return isinstance(spec[0], list) or spec[0] in WIDGETS


def options(spec: tuple) -> dict[str, Any]:
    return spec[1] if len(spec) > 1 else {}


def at_first(spec: tuple) -> object:
    """What a widget shows in a new node."""
    return options(spec).get("default", spec[0][0] if isinstance(spec[0], list) and spec[0] else None)


def run(node: type, **inputs: object) -> tuple:
    """As ComfyUI does: a new object, all inputs by name, in a thread that is not the main one, without gradients."""
    given = {name: at_first(spec) for name, spec in specs(node).items() if is_widget(spec)} | inputs
    result: list[Any] = []

    def work() -> None:
        try:
            with torch.inference_mode():
                result.append(getattr(node(), node.FUNCTION)(**given))
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (found,) = result
    if isinstance(found, Exception):
        raise found
    found = found["result"] if isinstance(found, dict) else found
    assert isinstance(found, tuple)
    assert len(found) == len(node.RETURN_TYPES)
    return found


def graph_of(path: Path, nodes: dict[str, type]) -> dict[str, dict[str, Any]]:
    """What ComfyUI's page sends of a graph that it has opened: of each node its class, its widgets in order, and its links."""
    document = json.loads(path.read_text())
    links = {link[0]: link for link in document["links"]}
    graph = {}
    for each in document["nodes"]:
        own = nodes.get(each["type"])
        linkable = CORE_NODES[each["type"]][0] if own is None else {name: spec[0] for name, spec in specs(own).items()}
        inputs: dict[str, Any] = {}
        if own is not None:
            values = list(each["widgets_values"])
            for name, spec in specs(own).items():
                if is_widget(spec):
                    inputs[name] = values.pop(0)
                    if options(spec).get("control_after_generate"):
                        assert values.pop(0) in ("fixed", "randomize", "increment", "decrement")
            assert not values, f"{each['type']}: more values than widgets"
        for slot, socket in enumerate(each["inputs"]):
            kind = linkable[socket["name"]]
            assert socket["type"] == kind
            if socket["link"] is None:
                continue
            _, source, outlet, sink, inlet, carried = links[socket["link"]]
            assert (sink, inlet) == (each["id"], slot)
            (origin,) = (node for node in document["nodes"] if node["id"] == source)
            sends = nodes[origin["type"]].RETURN_TYPES if origin["type"] in nodes else CORE_NODES[origin["type"]][1]
            assert sends[outlet] == carried == origin["outputs"][outlet]["type"]
            assert kind in (carried, "*"), f"{origin['type']} → {each['type']}.{socket['name']}"
            assert socket["link"] in origin["outputs"][outlet]["links"]
            inputs[socket["name"]] = [str(source), outlet]
        graph[str(each["id"])] = {"class_type": each["type"], "inputs": inputs}
    return graph


def run_graph(graph: dict[str, dict[str, Any]], nodes: dict[str, type]) -> dict[str, tuple]:
    """Check and run a graph's nodes of ours, each once all that it reads is there; results by the nodes' numbers."""
    done: dict[str, tuple] = {}

    def output(name: str) -> tuple:
        each = graph[name]
        node = nodes[each["class_type"]]
        if name not in done:
            missing = set(node.INPUT_TYPES()["required"]) - set(each["inputs"])
            assert not missing, f"{each['class_type']} lacks {missing}"
            given = {key: output(value[0])[value[1]] if isinstance(value, list) else value for key, value in each["inputs"].items()}
            checked = getattr(node, "VALIDATE_INPUTS", lambda **_: True)
            asked = inspect.signature(checked).parameters
            assert checked(**{key: value for key, value in given.items() if key in asked}) is True
            done[name] = run(node, **given, **({"prompt": graph} if "hidden" in node.INPUT_TYPES() else {}))
        return done[name]

    for name, each in graph.items():
        if each["class_type"] in nodes:
            output(name)
    return done


def test_every_node_keeps_comfyuis_contract(pack: ModuleType) -> None:
    nodes = pack.NODE_CLASS_MAPPINGS
    assert len(nodes) == 10
    assert set(pack.NODE_DISPLAY_NAME_MAPPINGS) == set(nodes)
    assert len(set(pack.NODE_DISPLAY_NAME_MAPPINGS.values())) == len(nodes)
    for name, node in nodes.items():
        assert name.startswith("Track2View"), "names are shared by all packs"
        assert inspect.ismethod(node.INPUT_TYPES)
        inputs = node.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional", "hidden"}
        assert set(inputs.get("hidden", {}).values()) <= {"PROMPT"}
        for each, spec in specs(node).items():
            assert isinstance(spec, tuple), each
            assert isinstance(spec[0], list) or spec[0] in CORE | OWN, each
            assert not isinstance(spec[0], list) or not spec[0] or at_first(spec) in spec[0], each
            if spec[0] in ("INT", "FLOAT"):
                assert options(spec)["min"] <= at_first(spec) <= options(spec)["max"], each
        json.dumps({key: value for key, value in inputs.items() if key != "hidden"}, allow_nan=False)
        assert set(node.RETURN_TYPES) <= CORE | OWN
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(set(node.RETURN_NAMES))
        assert len(getattr(node, "OUTPUT_TOOLTIPS", node.RETURN_TYPES)) == len(node.RETURN_TYPES)
        assert node.CATEGORY.split("/")[0] == "track2view"
        assert isinstance(node.DESCRIPTION, str)
        asked = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert list(asked) == ["self", *specs(node), *inputs.get("hidden", {})]
        optional = {*inputs.get("optional", {}), *inputs.get("hidden", {})}
        assert {key for key, value in asked.items() if value.default is not inspect.Parameter.empty} == optional
        for hook in ("VALIDATE_INPUTS", "IS_CHANGED"):
            method = getattr(node, hook, None)
            assert method is None or inspect.ismethod(method), "a classmethod"
            named = (
                []
                if method is None
                else [key for key, value in inspect.signature(method).parameters.items() if value.kind is not value.VAR_KEYWORD]
            )
            assert set(named) <= set(specs(node))
    assert [name for name, node in nodes.items() if getattr(node, "OUTPUT_NODE", False)] == ["Track2ViewWriteRunFolder"]


def test_comfyuis_registry_is_told_the_version_of_the_program() -> None:
    own, whole = (tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (FOLDER, FOLDER.parents[1]))
    assert {key: own[key] for key in ("name", "version", "requires-python")} == {
        key: whole[key] for key in ("name", "version", "requires-python")
    }
    assert own["dependencies"] == [whole["name"]]


def test_the_example_re_films_a_clip_and_writes_its_run(pack: ModuleType, comfy: Comfy, clip_file: Path) -> None:
    (comfy.root / "input/clip.mp4").write_bytes(clip_file.read_bytes())
    nodes = pack.NODE_CLASS_MAPPINGS
    assert nodes["Track2ViewLoadClip"].INPUT_TYPES()["required"]["video"][0] == ["clip.mp4"]
    graph = graph_of(FOLDER / "example_workflows/refilm.json", nodes)
    used = {each["class_type"]: (name, each["inputs"]) for name, each in graph.items()}
    assert set(used) - set(nodes) == set(CORE_NODES), "what else it uses comes with ComfyUI"
    used["Track2ViewLoadClip"][1].update(short_side=64)
    used["Track2ViewTrack"][1].update(fov=50.0)
    done = run_graph(graph, nodes)
    clip, fps = done[used["Track2ViewLoadClip"][0]]
    assert fps == pytest.approx(23.976, abs=1e-3)
    assert clip.fps == RATE
    found, report = done[used["Track2ViewTrack"][0]]
    assert json.loads(report)["tracker"] == "sfm"
    assert len(comfy.told) > 3 * FRAMES, "flow, re-filming and the run move the bar"
    assert all(0 <= value <= total for value, total in comfy.told)

    images, guide, never_seen, depth = done[used["Track2ViewRefilm"][0]]
    assert images.shape == guide.shape == depth.shape == (FRAMES, *SIZE, 3)
    assert never_seen.shape == (FRAMES, *SIZE)
    (folder,) = done[used["Track2ViewWriteRunFolder"][0]]
    run_folder = comfy.root / "output/track2view/run"
    assert Path(folder) == run_folder
    by_command = t2v.write_run(found, t2v.target_camera(found, "orbit-right"), comfy.root / "by_command").parent
    names = {path.relative_to(by_command).as_posix() for path in by_command.rglob("*")}
    assert names == {path.relative_to(run_folder).as_posix() for path in run_folder.rglob("*")}
    for name in ("output.mp4", "guide.mp4", "guide_mask.mp4", "depth/00003.png", "target_camera.json", "scene.glb", "tracks.npz"):
        assert (run_folder / name).read_bytes() == (by_command / name).read_bytes(), name
    noted = json.loads((run_folder / "run.json").read_text())["settings"]["comfyui"]
    assert noted == graph

    files = read_clip(run_folder / "guide_mask.mp4").frames[:, 0] > 127
    assert torch.equal(files, never_seen > 0), "the mask of the run is lossless"
    film = read_clip(run_folder / "output.mp4")
    assert film.fps == RATE
    assert float((images - film.frames.permute(0, 2, 3, 1) / 255).abs().mean()) < 0.02
    for frame in range(FRAMES):
        image = cv2.imread(str(run_folder / f"depth/{frame:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.abs(image / 65535 - depth[frame, ..., 0].numpy()).max() < 1e-4


def test_pictures_are_as_comfyui_has_them(pack: ModuleType, shot: t2v.Shot, target: t2v.CameraPath) -> None:
    images, guide, never_seen, depth = run(pack.NODE_CLASS_MAPPINGS["Track2ViewRefilm"], shot=shot, camera=target, device="cpu")
    views = list(refilm(shot, target))
    for each in (images, guide, never_seen, depth):
        assert each.dtype == torch.float32
        assert each.device.type == "cpu"
        assert 0 <= float(each.min()) <= float(each.max()) <= 1
    seen = torch.stack([view.seen for view in views])
    assert 0.02 < 1 - float(seen.float().mean()) < 0.9
    assert torch.equal(never_seen, (~seen).float())
    colour = torch.stack([view.colour for view in views]).permute(0, 2, 3, 1)
    assert torch.equal((images * 255).round().to(torch.uint8), colour)
    assert torch.equal(guide[seen], images[seen])
    assert bool((guide[~seen] == 128 / 255).all())
    nearest = nearest_depth(shot.tracking.tracks, target)
    disparity = torch.stack([view.disparity for view in views])
    assert torch.equal(depth[..., 0], depth[..., 1])
    assert torch.equal(depth[..., 0], depth[..., 2])
    assert bool((depth[~seen] == 0).all())
    assert torch.allclose(depth[..., 0][seen], (disparity[seen] * nearest).clamp(0, 1), atol=1e-6)
    assert float(depth.max()) > 0.4


def test_captions_are_laid_back_over_what_is_shown_and_left_out_of_the_guide(
    pack: ModuleType, shot: t2v.Shot, target: t2v.CameraPath
) -> None:
    mask = np.zeros(SIZE, bool)
    mask[:8] = True
    marked = replace(shot, burnt_in=BurntIn(mask=mask, top=0, bottom=0, left=0, right=0))
    node = pack.NODE_CLASS_MAPPINGS["Track2ViewRefilm"]
    (images, guide, *_), (plain, *_) = (run(node, shot=each, camera=target, device="cpu") for each in (marked, shot))
    assert torch.equal((images[:, :8] * 255).round().to(torch.uint8), shot.clip.frames[:, :, :8].permute(0, 2, 3, 1))
    assert torch.equal(images[:, 8:], plain[:, 8:])
    assert not torch.equal(guide[:, :8], images[:, :8])


def test_other_nodes_pictures_are_the_clip_that_they_were_made_of(pack: ModuleType, shot: t2v.Shot) -> None:
    node = pack.NODE_CLASS_MAPPINGS["Track2ViewClipFromImages"]
    images = shot.clip.frames.permute(0, 2, 3, 1).float() / 255
    (clip,) = run(node, images=images, fps=30000 / 1001)
    assert torch.equal(clip.frames, shot.clip.frames)
    assert clip.fps == Fraction(30000, 1001)
    assert run(node, images=images, fps=25.0)[0].fps == 25
    levels = torch.tensor([-1.0, 0.0, 0.25, 1.0, 2.0]).repeat_interleave(3).reshape(1, 1, 5, 3)
    (clip,) = run(node, images=levels, fps=25.0)
    assert clip.frames[0, 0, 0].tolist() == [0, 0, 64, 255, 255], "out of range is cut off, not wound round"


def test_a_real_clip_goes_one_way_by_its_file_and_by_its_pictures(pack: ModuleType, shared: Path) -> None:
    nodes = pack.NODE_CLASS_MAPPINGS
    by_file, fps = run(nodes["Track2ViewLoadClipFromPath"], path=str(shared / "bear.mp4"), short_side=64, start=0.5, frames=FRAMES)
    images = by_file.frames.permute(0, 2, 3, 1).float() / 255
    (by_pictures,) = run(nodes["Track2ViewClipFromImages"], images=images, fps=fps)
    found = []
    for clip in (by_file, by_pictures):
        shot, _ = run(nodes["Track2ViewTrack"], clip=clip)
        (camera,) = run(nodes["Track2ViewCameraMove"], shot=shot, move="orbit-left")
        found.append(run(nodes["Track2ViewRefilm"], shot=shot, camera=camera))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    images, _, never_seen, _ = found[0]
    assert images.shape == (FRAMES, *by_file.size, 3)
    assert float(images.std()) > 0.05
    assert 0 < float(never_seen.mean()) < 0.5


def test_what_another_renderer_made_is_the_output_of_a_run(pack: ModuleType, comfy: Comfy, shot: t2v.Shot, target: t2v.CameraPath) -> None:
    node = pack.NODE_CLASS_MAPPINGS["Track2ViewWriteRunFolder"]
    made = torch.zeros(FRAMES, *SIZE, 3)
    made[..., 0] = 1
    said = node().write(shot, target, "a/../mine", "vace", "cpu", made)
    folder = comfy.root / "output/mine"
    assert said["result"] == (str(folder),)
    film = read_clip(folder / "output.mp4").frames.float().mean((0, 2, 3))
    assert film[0] > 240
    assert film[1:].max() < 15
    assert {path.name for path in (folder / "guide-vace").iterdir()} == {"src_video.mp4", "src_mask.mp4", "src_ref_image.png"}
    (shown,) = said["ui"]["images"]
    assert (comfy.root / shown["type"] / shown["subfolder"] / shown["filename"]) == folder / "compare.mp4", "what the page shows"
    with pytest.raises(t2v.UserError, match=r"what was made has 5 frames of 112×48, the clip 5 of 112×64; cut and resize it"):
        run(node, shot=shot, camera=target, folder="mine", made=made[:, :48])


def test_cameras_go_where_their_widgets_say(pack: ModuleType, shot: t2v.Shot, target: t2v.CameraPath, tmp_path: Path) -> None:
    nodes = pack.NODE_CLASS_MAPPINGS
    move, text = nodes["Track2ViewCameraMove"], nodes["Track2ViewCamera"]

    def same(found: tuple, wanted: t2v.CameraPath) -> bool:
        return torch.equal(found[0].world_from_camera, wanted.world_from_camera) and torch.equal(found[0].intrinsics, wanted.intrinsics)

    assert same(run(move, shot=shot, move="orbit-right", amount=12.0), target)
    assert same(run(move, shot=shot, move="orbit-right", amount=0.0), t2v.target_camera(shot, "orbit-right"))
    held = t2v.target_camera(shot, "pan-left", easing="linear", relative_to="first-frame")
    assert same(run(move, shot=shot, move="pan-left", easing="linear", relative_to="first-frame"), held)
    assert same(run(text, shot=shot, camera="orbit-right:12"), target)
    assert same(run(text, shot=shot, camera="orbit-right", amount=12.0), target)
    target.save(tmp_path / "path.json")
    assert same(run(text, shot=shot, camera=str(tmp_path / "path.json"), relative_to="world"), target)
    target.resampled(3).save(tmp_path / "short.json")
    with pytest.raises(t2v.UserError, match="has 3 frames, the clip has 5; use --resample"):
        run(text, shot=shot, camera=str(tmp_path / "short.json"))
    assert len(run(text, shot=shot, camera=str(tmp_path / "short.json"), resample=True)[0]) == FRAMES


def test_what_changed_on_the_disk_is_read_again(pack: ModuleType, comfy: Comfy, clip_file: Path, target: t2v.CameraPath) -> None:
    nodes = pack.NODE_CLASS_MAPPINGS
    video, path, lens = comfy.root / "input/clip.mp4", comfy.root / "path.json", comfy.root / "lens.json"
    video.write_bytes(clip_file.read_bytes())
    target.save(path)
    target.save(lens)
    keys = comfy.root / "keys.json"
    keys.write_text('{"format": "track2view.keyframes/1", "keyframes": [{"time": 0}, {"time": 1}]}')
    adapter = comfy.root / "adapter"
    (adapter / "lora").mkdir(parents=True)
    (adapter / "lora/weights").write_text("1")

    def fingerprints() -> list[object]:
        return [
            nodes["Track2ViewLoadClip"].IS_CHANGED(video="clip.mp4", start=0.0),
            nodes["Track2ViewLoadClipFromPath"].IS_CHANGED(path=str(video), start=0.0),
            nodes["Track2ViewLoadClipFromPath"].IS_CHANGED(path=str(video.parent), start=0.0),
            nodes["Track2ViewCamera"].IS_CHANGED(camera=str(path), shot=None),
            nodes["Track2ViewCamera"].IS_CHANGED(camera=str(lens), shot=None),
            nodes["Track2ViewCamera"].IS_CHANGED(camera=str(keys), shot=None),
            nodes["Track2ViewLoadModel"].IS_CHANGED(base="", adapter=str(adapter), dtype="float32"),
        ]

    before = fingerprints()
    assert before == fingerprints()
    for each in (video, keys, adapter / "lora/weights"):
        os.utime(each, ns=(1, 1))
    target.scaled(0.5, "scene").save(path)
    target.with_fov(30).save(lens)
    assert not set(before) & set(fingerprints())
    camera, model = nodes["Track2ViewCamera"], nodes["Track2ViewLoadModel"]
    assert camera.IS_CHANGED(camera="pan-left") == camera.IS_CHANGED(camera="pan-left")
    assert model.IS_CHANGED(base="", adapter="") == model.IS_CHANGED(base="", adapter="")
    for node, linked in (
        (nodes["Track2ViewLoadClipFromPath"], {"path": None}),
        (camera, {"camera": None}),
        (model, {"base": None, "adapter": ""}),
    ):
        assert (node.IS_CHANGED(**linked),) != (node.IS_CHANGED(**linked),), "what comes by a link is not known yet"


def test_the_user_cancels_at_the_next_item_and_nothing_half_written_stays(
    pack: ModuleType, comfy: Comfy, shot: t2v.Shot, target: t2v.CameraPath
) -> None:
    comfy.cancelled = True
    nodes = pack.NODE_CLASS_MAPPINGS
    with pytest.raises(CancelledError):
        run(nodes["Track2ViewTrack"], clip=shot.clip, fov=50.0)
    with pytest.raises(CancelledError):
        run(nodes["Track2ViewWriteRunFolder"], shot=shot, camera=target, folder="mine")
    assert not list((comfy.root / "output/mine").iterdir())


def test_the_diffusion_example_generates_what_the_command_does(pack: ModuleType, comfy: Comfy, clip_file: Path) -> None:
    (comfy.root / "input/clip.mp4").write_bytes(clip_file.read_bytes())
    nodes = pack.NODE_CLASS_MAPPINGS
    graph = graph_of(FOLDER / "example_workflows/refilm_by_diffusion.json", nodes)
    used = {each["class_type"]: (name, each["inputs"]) for name, each in graph.items()}
    used["Track2ViewTrack"][1].update(fov=50.0)
    used["Track2ViewRefilmByDiffusion"][1].update(steps=1, seed=3)
    assert graph.pop(used["Track2ViewWriteRunFolder"][0])["inputs"]["made"] == [used["Track2ViewRefilmByDiffusion"][0], 0]
    done = run_graph(graph, nodes)
    (images,) = done[used["Track2ViewRefilmByDiffusion"][0]]
    found, _ = done[used["Track2ViewTrack"][0]]
    assert images.shape == (FRAMES, *SIZE, 3)

    model = load_model()
    generator = Generator(model=model, settings=settings_for(model.record, steps=1, seed=3))
    planned = model.queries(FRAMES, generator.settings)
    ends = torch.isin(found.tracking.tracks.query_frame, planned.frame)
    assert int(ends.sum()) == len(planned.frame), "tracks start where the model plans it, with its grid alone"
    made = generator.refilm(found, t2v.target_camera(found, "orbit-right"), comfy.root)
    assert torch.equal((images * 255).round().to(torch.uint8), made.frames.permute(0, 2, 3, 1))


def test_a_model_is_what_its_widgets_say(pack: ModuleType) -> None:
    node = pack.NODE_CLASS_MAPPINGS["Track2ViewLoadModel"]
    (generator,) = run(node, base=str(MINI / "base"), adapter=str(MINI / "adapter"), dtype="bfloat16", memory="low")
    assert generator.model.model.transformer.dtype == torch.bfloat16
    assert generator.settings == settings_for(generator.model.record, memory="low")
    assert generator.settings.steps == 4


BAD = [
    ("Track2ViewLoadClipFromPath", {"path": "nowhere.mp4"}, "nowhere.mp4: no such file"),
    ("Track2ViewLoadClipFromPath", {"path": str(FOLDER / "README.md")}, "README.md: "),
    ("Track2ViewLoadClipFromPath", {"path": "CLIP", "start": 100.0}, "clip.mp4: "),
    (
        "Track2ViewClipFromImages",
        {"images": torch.zeros(4, 64, 64, 4)},
        r"images: expected RGB pictures \[T, H, W, 3\], got \[4, 64, 64, 4\]",
    ),
    ("Track2ViewClipFromImages", {"images": torch.full((4, 64, 64, 3), torch.nan)}, "images: hold values that are not numbers"),
    ("Track2ViewTrack", {"clip": "CLIP", "fov": 0.5}, "--fov: expected degrees between 1 and 175"),
    ("Track2ViewTrack", {"clip": "ONE"}, "the clip has one frame"),
    ("Track2ViewCameraMove", {"move": "zoom-in", "amount": -3.0}, r"camera move zoom-in: the amount \(times\) must be positive, got -3"),
    (
        "Track2ViewCamera",
        {"camera": "orbit-rihgt"},
        "unknown camera move 'orbit-rihgt', and no file of that name; did you mean orbit-right",
    ),
    ("Track2ViewCamera", {"camera": ""}, "unknown camera move ''"),
    ("Track2ViewCamera", {"camera": "nowhere.json"}, "nowhere.json: no such"),
    ("Track2ViewCamera", {"camera": "orbit-right", "relative_to": "world"}, "--relative-to world is for camera files"),
    ("Track2ViewRefilm", {"device": "cuda"}, "--device cuda: this machine has no CUDA device"),
    ("Track2ViewWriteRunFolder", {"folder": "../outside"}, "folder: expected one inside of ComfyUI's output folder"),
    ("Track2ViewWriteRunFolder", {"folder": ""}, "folder: expected one inside of ComfyUI's output folder"),
    ("Track2ViewLoadModel", {"adapter": "nowhere"}, "nowhere"),
    ("Track2ViewLoadModel", {"base": "nowhere"}, "nowhere"),
]


@pytest.mark.parametrize(("name", "inputs", "line"), BAD, ids=lambda each: each if isinstance(each, str) else None)
def test_what_cannot_be_used_is_one_line(
    name: str,
    inputs: dict[str, Any],
    line: str,
    pack: ModuleType,
    comfy: Comfy,
    shot: t2v.Shot,
    target: t2v.CameraPath,
    clip_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    node = pack.NODE_CLASS_MAPPINGS[name]
    known = {"CLIP": shot.clip, "ONE": t2v.Clip(frames=shot.clip.frames[:1], fps=RATE)}
    given = {"shot": shot, "camera": target} | {
        key: str(clip_file) if key == "path" and value == "CLIP" else known.get(value, value) if isinstance(value, str) else value
        for key, value in inputs.items()
    }
    with pytest.raises(t2v.UserError, match=line) as refused:
        run(node, **{key: value for key, value in given.items() if key in specs(node)})
    assert "\n" not in str(refused.value)
    assert not list((comfy.root / "output").iterdir())


def test_what_can_be_refused_before_anything_runs_is(pack: ModuleType, comfy: Comfy, clip_file: Path) -> None:
    nodes = pack.NODE_CLASS_MAPPINGS
    (comfy.root / "input/clip.mp4").write_bytes(clip_file.read_bytes())
    video, path, camera = (nodes[f"Track2View{each}"].VALIDATE_INPUTS for each in ("LoadClip", "LoadClipFromPath", "Camera"))
    assert video("clip.mp4") is path(str(clip_file)) is camera("orbit-right:10+pan-left") is True
    assert video(None) is path(None) is camera(None) is True, "what comes by a link is not known yet"
    for said in (video("nowhere.mp4"), path("nowhere.mp4"), path(""), camera("orbit-rihgt"), camera("nowhere.json")):
        assert isinstance(said, str)
        assert said
        assert "\n" not in said
