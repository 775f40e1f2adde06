"""Jointed figures: people and four-legged animals, each limb a solid of its own that follows its joints exactly.

A figure's own axes are the world's turned about y: x to its right, y down, z where it faces. Joint angles are in degrees, about the
figure's x axis: positive ones bring the end of a hanging limb forward.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from track2view.geometry import rigid, rotation_about
from track2view.scenes.build import COLOURS, cloth_of, painted, with_article
from track2view.scenes.world import Shape, Solid, Texture

Doing = Literal["walking", "turning", "gesturing", "sitting"]
SKINS = ((0.85, 0.66, 0.54), (0.70, 0.50, 0.38), (0.48, 0.33, 0.25), (0.92, 0.76, 0.66))
HAIRS = ((0.16, 0.12, 0.10), (0.42, 0.28, 0.16), (0.75, 0.62, 0.38), (0.55, 0.55, 0.55))
COATS = {"brown": (0.45, 0.30, 0.18), "black": (0.18, 0.17, 0.17), "sandy": (0.75, 0.60, 0.40), "white": (0.80, 0.78, 0.74)}
HEIGHT = (1.55, 1.9)
STEPS_PER_SECOND, METRES_PER_STEP = 1.8, 0.72
Angle = Float64[Tensor, "T"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a figure is over time.

    Attributes:
        feet: the point on the ground below it, in metres.
        heading: about y, degrees; 0 faces away along z.
    """

    feet: Float64[Tensor, "T 3"]
    heading: Float64[Tensor, "T"]

    @staticmethod
    def along(start: tuple[float, float], heading: float, *, speed: float, turning: float, frames: int, fps: float) -> "Place":
        """On its way from ``start`` (x, z) at ``speed`` metres and ``turning`` degrees a second."""
        seconds = torch.arange(frames, dtype=torch.float64) / fps
        headings = heading + turning * seconds
        ahead = torch.stack([torch.sin(torch.deg2rad(headings)), torch.zeros_like(seconds), torch.cos(torch.deg2rad(headings))], dim=-1)
        travelled = torch.cat([torch.zeros(1, 3, dtype=torch.float64), (speed / fps * ahead).cumsum(0)[:-1]])
        return Place(feet=torch.tensor([start[0], 0.0, start[1]], dtype=torch.float64) + travelled, heading=headings)


class _Body:
    """Puts solids together, limb by limb."""

    def __init__(self, name: str, root: Float64[Tensor, "T 4 4"]) -> None:
        self.name, self.root, self.solids = name, root, []

    def part(self, what: str, shape: Shape, half: tuple[float, float, float], pose: Float64[Tensor, "T 4 4"], texture: Texture) -> None:
        extent = torch.tensor(half, dtype=torch.float64)
        self.solids.append(Solid(name=f"{self.name}: {what}", shape=shape, half_extent=extent, world_from_solid=pose, texture=texture))

    def joint(self, parent: Float64[Tensor, "T 4 4"], at: tuple[float, float, float], bend: Angle, spread: float = 0.0) -> Tensor:
        """A joint ``at`` a place of its parent: bent forward, and spread to its right."""
        frames = len(parent)
        rotation = rotation_about("z", torch.full((frames,), -spread, dtype=torch.float64)) @ rotation_about("x", bend)
        return parent @ rigid(rotation, torch.tensor(at, dtype=torch.float64).expand(frames, 3))

    def limb(self, what: str, joint: Float64[Tensor, "T 4 4"], length: float, radius: float, texture: Texture) -> Tensor:
        """Hangs from a joint; where the next joint is."""
        middle, end = (joint @ _shifted((0.0, share * length, 0.0), len(joint)) for share in (0.5, 1.0))
        self.part(what, "ellipsoid", (radius, 0.5 * length + 0.6 * radius, radius), middle, texture)
        return end


def person(random: np.random.Generator, noise: Tensor, doing: Doing, place: Place, fps: float) -> tuple[list[Solid], str]:
    """A dressed person of 17 parts, and what is said of it.

    Args:
        noise: what its textures are cut from.
        doing: "walking" swings arms and legs with the distance travelled; "gesturing" stands and raises its arms; "sitting" bends hips
            and knees; "turning" stands and lets its arms hang.
    """
    tall = float(random.uniform(*HEIGHT))
    shirt, trousers = (str(each) for each in random.choice(list(COLOURS), 2, replace=False))
    skin = painted(random, noise, SKINS[int(random.integers(len(SKINS)))], 3.0)
    hair = painted(random, noise, HAIRS[int(random.integers(len(HAIRS)))], 12.0)
    shoes = painted(random, noise, (0.15, 0.13, 0.12), 4.0)
    cloth = cloth_of(random, noise, COLOURS[shirt], (4.0, 9.0))
    denim = painted(random, noise, COLOURS[trousers], float(random.uniform(4.0, 8.0)))
    swing, seated = _gait(place, doing, fps, phase=float(random.uniform(0.0, 2 * math.pi))), doing == "sitting"
    leg, knee_to_ankle = 0.26 * tall, 0.25 * tall
    hip = (knee_to_ankle + 0.077 * tall) if seated else (leg + knee_to_ankle + 0.05 * tall)
    body = _Body("person", _root(place, hip + tall * swing.amount * (0.028 * torch.cos(2 * swing.phase) - 0.024)))
    pelvis = body.root
    body.part("pelvis", "ellipsoid", (0.095 * tall, 0.07 * tall, 0.075 * tall), pelvis, denim)
    waist = body.joint(pelvis, (0.0, -0.04 * tall, 0.0), swing.lean)
    _above(body, "torso", waist, 0.17 * tall, (0.105 * tall, 0.19 * tall, 0.07 * tall), cloth)
    neck = body.joint(waist, (0.0, -0.33 * tall, 0.0), swing.nod)
    _above(body, "neck", neck, 0.02 * tall, (0.03 * tall, 0.05 * tall, 0.03 * tall), skin)
    _above(body, "head", neck, 0.105 * tall, (0.048 * tall, 0.07 * tall, 0.056 * tall), skin)
    _above(body, "hair", neck, 0.122 * tall, (0.052 * tall, 0.06 * tall, 0.06 * tall), hair, back=0.012 * tall)
    for side, sign in (("right", 1.0), ("left", -1.0)):
        bend = torch.full_like(swing.phase, 85.0) if seated else sign * swing.amount * 28.0 * torch.sin(swing.phase)
        lifted = torch.relu(torch.cos(swing.phase) * sign)
        knee = torch.full_like(swing.phase, -85.0) if seated else -swing.amount * 45.0 * lifted - 4.0
        upper = body.limb(f"{side} thigh", body.joint(pelvis, (sign * 0.055 * tall, 0.02 * tall, 0.0), bend), leg, 0.05 * tall, denim)
        lower = body.limb(f"{side} shin", body.joint(upper, (0.0, 0.0, 0.0), knee), knee_to_ankle, 0.036 * tall, denim)
        foot = body.joint(lower, (0.0, 0.012 * tall, 0.04 * tall), -(bend + knee) * (1.0 if seated else 0.3))
        body.part(f"{side} foot", "ellipsoid", (0.03 * tall, 0.022 * tall, 0.075 * tall), foot, shoes)
        raised = swing.gesture if side == "right" else 0.4 * swing.gesture
        shoulder = body.joint(waist, (sign * 0.115 * tall, -0.29 * tall, 0.0), -0.8 * bend * (not seated) + raised, sign * 8.0)
        elbow = body.joint(body.limb(f"{side} arm", shoulder, 0.17 * tall, 0.032 * tall, cloth), (0.0, 0.0, 0.0), 12.0 + 0.6 * raised)
        wrist = body.limb(f"{side} forearm", elbow, 0.15 * tall, 0.024 * tall, skin)
        body.part(f"{side} hand", "ellipsoid", (0.018 * tall, 0.045 * tall, 0.03 * tall), wrist, skin)
    return body.solids, f"a person in {with_article(shirt)} shirt and {trousers} trousers {doing}"


def animal(random: np.random.Generator, noise: Tensor, place: Place, fps: float) -> tuple[list[Solid], str]:
    """A dog-like animal of 13 parts that trots where its place goes, and what is said of it."""
    coat = str(random.choice(list(COATS)))
    long = float(random.uniform(0.7, 1.1))
    fur, dark = painted(random, noise, COATS[coat], 8.0), painted(random, noise, (0.16, 0.13, 0.12), 6.0)
    swing = _gait(place, "walking", fps, phase=float(random.uniform(0.0, 2 * math.pi)), step=0.45)
    upper, lower = 0.28 * long, 0.27 * long
    body = _Body("dog", _root(place, upper + lower + 0.05 * long + 0.01 * torch.cos(2 * swing.phase) * swing.amount))
    none = torch.zeros_like(swing.phase)
    body.part("trunk", "ellipsoid", (0.15 * long, 0.16 * long, 0.42 * long), body.root, fur)
    neck = body.joint(body.root, (0.0, -0.06 * long, 0.34 * long), none + 140.0 + 4.0 * torch.sin(swing.phase))
    skull = body.joint(body.limb("neck", neck, 0.26 * long, 0.085 * long, fur), (0.0, 0.0, 0.0), none - 65.0)
    body.part("head", "ellipsoid", (0.085 * long, 0.14 * long, 0.09 * long), skull, fur)
    muzzle = body.joint(skull, (0.0, 0.15 * long, 0.0), none)
    body.part("muzzle", "ellipsoid", (0.045 * long, 0.09 * long, 0.045 * long), muzzle, dark)
    tail = body.joint(body.root, (0.0, -0.08 * long, -0.4 * long), none - 120.0, 0.0)
    body.limb("tail", tail, 0.35 * long, 0.03 * long, fur)
    for number, (ahead, sign) in enumerate(((1, 1.0), (1, -1.0), (-1, 1.0), (-1, -1.0))):
        stride = swing.amount * 26.0 * torch.sin(swing.phase + (0.0 if ahead * sign > 0 else math.pi))
        folded = swing.amount * 30.0 * torch.relu(torch.cos(swing.phase + (0.0 if ahead * sign > 0 else math.pi)))
        hip = body.joint(body.root, (sign * 0.09 * long, 0.04 * long, ahead * 0.28 * long), stride)
        knee = body.joint(body.limb(f"thigh {number}", hip, upper, 0.06 * long, fur), (0.0, 0.0, 0.0), -folded if ahead > 0 else folded)
        body.limb(f"shin {number}", knee, lower, 0.033 * long, fur)
    return body.solids, f"{with_article(coat)} dog"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gait:
    """What joints follow: the phase of the stride, how much of it there is, and what the upper body does."""

    phase: Angle
    amount: float
    lean: Angle
    nod: Angle
    gesture: Angle


def _gait(place: Place, doing: Doing, fps: float, *, phase: float, step: float = METRES_PER_STEP) -> _Gait:
    seconds = torch.arange(len(place.heading), dtype=torch.float64) / fps
    travelled = torch.cat([torch.zeros(1, dtype=torch.float64), place.feet.diff(dim=0).norm(dim=-1).cumsum(0)])
    walks = doing == "walking"
    slow = torch.sin(2 * math.pi * 0.45 * seconds + phase)
    return _Gait(
        phase=phase + math.pi * travelled / step if walks else phase + torch.zeros_like(seconds),
        amount=1.0 if walks else 0.0,
        lean=-(4.0 if walks else 1.5) + 1.5 * slow,
        nod=5.0 * torch.sin(2 * math.pi * 0.3 * seconds + 1.7 * phase),
        gesture=(50.0 + 35.0 * slow) if doing in ("gesturing", "sitting") else torch.zeros_like(seconds),
    )


def _root(place: Place, above: Angle) -> Float64[Tensor, "T 4 4"]:
    """The pelvis or trunk, so many metres above the feet."""
    centre = place.feet.clone()
    centre[:, 1] -= above
    return rigid(rotation_about("y", place.heading), centre)


def _above(
    body: _Body, what: str, joint: Tensor, height: float, half: tuple[float, float, float], texture: Texture, back: float = 0.0
) -> None:
    """A part whose middle is above a joint, and a little behind."""
    body.part(what, "ellipsoid", half, joint @ _shifted((0.0, -height, -back), len(joint)), texture)


def _shifted(by: tuple[float, float, float], frames: int) -> Float64[Tensor, "T 4 4"]:
    return rigid(torch.eye(3, dtype=torch.float64).expand(frames, 3, 3), torch.tensor(by, dtype=torch.float64).expand(frames, 3))
