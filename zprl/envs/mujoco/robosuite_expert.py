"""Scripted operators for robosuite's one-arm tasks: each is a generator that looks at its world and yields the next action.

A script never gives up: when the object is lost on the way it begins again, so that the failings
which
:class:`zprl.envs.mujoco.noisy_expert.NoisyExpert` adds cost time before they cost success.  Numbers are ours, found by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from zprl.envs.mujoco.noisy_expert import NoisyExpert, NoisyExpertSettings
from zprl.envs.mujoco.robosuite import CLOSED, OPEN, STEP, TURN

if TYPE_CHECKING:
    from zprl.envs.base import Obs
    from zprl.envs.mujoco.robosuite import RobosuiteWorld

    Goal = Callable[[], tuple[np.ndarray, np.ndarray]]
    """Where the tool should be now, (3,) [m], and the horizontal direction along which its fingers
    should move, (3,)."""

SHAKE = np.array([1.0, 1.0, 1.0, 0.2, 0.2, 0.2, 0.0])
"""How much of an operator's tremor shows in position, rotation and gripper: a hand that shakes by
centimetres turns little."""
GAIN = 2.0
"""How much of the missing way a step asks for: the tool makes about 1 cm of the 5 cm that the
largest step asks for."""
NEAR, ALIGNED = 0.01, 0.2
"""When a waypoint is reached [m], [rad]."""
PATIENCE = 60
"""Steps after which a waypoint is left although it was not reached."""
GRIP_STEPS = 8
"""The command takes ten steps from open to closed, but the fingers meet an object before its
end."""
CLOSE, LEAD = 0.05, 0.1
"""Within how much of its goal [m] the arm is told to go beyond it, and by what share more at each
step."""
HELD = 0.05
"""How far from the tool a held object's centre is at most [m]."""
CARRY_HEIGHT, RELEASE_HEIGHT = 1.0, 0.9
"""Of the tool in the world [m]; the bins stand at 0.8 m, and what is less than 0.1 m above counts
as inside."""
HANDLE = np.array([0.058, 0.0, 0.0])
"""Where on the nut to grip it [m], in its own frame; the middle of its handle is at 0.054."""
UP = np.array([0.0, 0.0, 1.0])
SIDEWAYS = np.array([0.0, 1.0, 0.0])
"""How the fingers move when an episode starts."""


class SceneState:
    """A world as its operator sees it: all is where it is but for the hand, which seems ``aim`` (3,) away [m]."""

    def __init__(self, world: RobosuiteWorld) -> None:
        self.env, self.body, self._tool, self.aim = world.env, world.body, world.tool, np.zeros(3)

    def tool(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the hand seems to be [m], and its rotation (3, 3)."""
        position, turned = self._tool()
        return position + self.aim, turned


class Hand:
    """The arm of one world, tool pointing down."""

    def __init__(self, world: SceneState) -> None:
        self.world = world

    def toward(
        self, goal: Goal, gripper: float, lead: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One action (7,) toward ``goal`` and beyond it by ``lead`` [m]; the missing way (3,) [m]; the missing turn (3,) [rad]."""
        position, fingers = goal()
        tool, turned = self.world.tool()
        way = position - tool
        wanted = np.stack((fingers, np.cross(-UP, fingers), -UP), 1)
        turn = Rotation.from_matrix(wanted @ turned.T).as_rotvec()
        action = np.concatenate((GAIN * (way + lead) / STEP, GAIN * turn / TURN, [gripper]))
        return np.clip(action, -1.0, 1.0), way, turn

    def reach(
        self,
        goal: Goal,
        gripper: float,
        *,
        near: float = NEAR,
        lost: Callable[[], bool] = lambda: False,
        patience: int = PATIENCE,
    ) -> Iterator[np.ndarray]:
        """Go to ``goal``, which may move, until it is reached, patience ends or the object is lost."""
        lead = np.zeros(3)
        for _ in range(patience):
            action, way, turn = self.toward(goal, gripper, lead)
            if (np.linalg.norm(way) < near and np.linalg.norm(turn) < ALIGNED) or lost():
                return
            # The arm stops short of what it is told, the more the farther it is stretched out.
            if np.linalg.norm(way) < CLOSE:
                lead += LEAD * way
            yield action

    def lacks(self, body: str) -> bool:
        """Whether a body is no longer between the fingers."""
        return bool(np.linalg.norm(self.world.tool()[0] - self.world.body(body)[0]) > HELD)

    def grip(self, goal: Goal, gripper: float) -> Iterator[np.ndarray]:
        """Stay at ``goal`` while the fingers move."""
        for _ in range(GRIP_STEPS):
            yield self.toward(goal, gripper)[0]


Script = Generator[np.ndarray, None, None]


def nearest(directions: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Of directions (n, 3) and their opposites the horizontal unit one that is nearest to ``wanted`` (3,)."""
    both = np.concatenate((directions, -directions)) * (1.0, 1.0, 0.0)
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-9)
    return both[np.argmax(both @ wanted)]


def fixed(position: np.ndarray, fingers: np.ndarray) -> Goal:
    """A goal that does not move."""
    return lambda: (position, fingers)


def lift(world: SceneState) -> Script:
    """Grip the cube by two of its sides and raise it."""
    hand = Hand(world)

    def cube(height: float = 0.0) -> Goal:
        def goal() -> tuple[np.ndarray, np.ndarray]:
            position, turned = world.body("cube_main")
            return position + height * UP, nearest(turned.T, SIDEWAYS)

        return goal

    while True:
        yield from hand.reach(cube(0.06), OPEN)
        yield from hand.reach(cube(), OPEN)
        yield from hand.grip(cube(), CLOSED)
        # A held cube takes its goal along, so this ends in success, or when it has slipped.
        yield from hand.reach(cube(0.06), CLOSED, lost=lambda: hand.lacks("cube_main"))


def can(world: SceneState) -> Script:
    """Grip the can from above, carry it over the wall into its bin and let it go."""
    hand = Hand(world)
    # On the near side of its bin's middle, which the arm reaches only when stretched out.
    middle, corner = (
        world.env.target_bin_placements[world.env.object_id][:2],
        world.env.bin2_pos[:2],
    )
    drop = corner + 0.6 * (middle - corner)

    def over_can(height: float) -> Goal:
        return lambda: (world.body("Can_main")[0] + height * UP, SIDEWAYS)

    def over_bin(height: float) -> Goal:
        return fixed(np.array([*drop, height]), SIDEWAYS)

    def lost() -> bool:
        return hand.lacks("Can_main")

    while True:
        yield from hand.reach(over_can(0.10), OPEN)
        yield from hand.reach(over_can(0.01), OPEN)
        yield from hand.grip(over_can(0.01), CLOSED)
        risen = np.array([*world.tool()[0][:2], CARRY_HEIGHT])
        yield from hand.reach(fixed(risen, SIDEWAYS), CLOSED, near=0.03, lost=lost)
        yield from hand.reach(over_bin(CARRY_HEIGHT), CLOSED, near=0.03, lost=lost)
        yield from hand.reach(over_bin(RELEASE_HEIGHT), CLOSED, near=0.02, lost=lost)
        yield from hand.grip(over_bin(RELEASE_HEIGHT), OPEN)
        yield from hand.reach(over_bin(CARRY_HEIGHT), OPEN)


def square(world: SceneState) -> Script:
    """Grip the nut by its handle, turn it to fit the peg and push it down."""
    hand = Hand(world)
    peg = world.env.sim.data.body_xpos[world.env.peg1_body_id][:2].copy()

    def handle(height: float) -> Goal:
        def goal() -> tuple[np.ndarray, np.ndarray]:
            position, turned = world.body("SquareNut_main")
            return position + turned @ HANDLE + height * UP, nearest(turned.T[1:2], SIDEWAYS)

        return goal

    def nut_at(height: float, jiggle: np.ndarray) -> Goal:
        def goal() -> tuple[np.ndarray, np.ndarray]:
            tool, turned = world.tool()
            nut, pose = world.body("SquareNut_main")
            turn = Rotation.from_rotvec([0, 0, yaw - heading(pose)]).as_matrix()
            # The nut turns about the tool; this is where the tool must be for the turned nut to be
            # in its place.
            return np.array([*(peg + jiggle), height]) - turn @ (nut - tool), turn @ turned[:, 0]

        return goal

    def lost() -> bool:
        return bool(np.linalg.norm(world.tool()[0] - handle(0.0)()[0]) > HELD)

    tries = 0
    while True:
        yield from hand.reach(handle(0.10), OPEN)
        yield from hand.reach(handle(0.0), OPEN)
        yield from hand.grip(handle(0.0), CLOSED)
        tool, turned = world.tool()
        yield from hand.reach(fixed(tool + 0.15 * UP, turned[:, 0]), CLOSED, near=0.03, lost=lost)
        # The handle must not point away from the robot, where the arm does not reach: to its side,
        # or toward it.
        now = heading(world.body("SquareNut_main")[1])
        yaw = float(np.sign(now) * (np.pi / 2 if abs(now) < 3 * np.pi / 4 else np.pi))
        while not lost():
            angle = 2.4 * tries
            jiggle = 0.002 * min(tries, 3) * np.array([np.cos(angle), np.sin(angle)])
            yield from hand.reach(nut_at(1.0, jiggle), CLOSED, near=0.006, lost=lost)
            yield from hand.reach(nut_at(0.85, jiggle), CLOSED, lost=lost, patience=20)
            tries += 1


def heading(turned: np.ndarray) -> float:
    """Angle about the vertical [rad] of a rotation (3, 3)."""
    return float(np.arctan2(turned[1, 0], turned[0, 0]))


SCRIPTS: dict[str, Callable[[SceneState], Script]] = {"lift": lift, "can": can, "square": square}
"""Task name to its script."""


class RobosuiteExpert(NoisyExpert):
    """One episode's worth of playing a script in N worlds, with the failings of :class:`zprl.envs.mujoco.noisy_expert.NoisyExpert`.

    Args:
        script: What a flawless operator does.
        worlds: The N worlds.
        seed: Seed of grades, tremor, drift and pauses.
        settings: Grades of operators.
    """

    def __init__(
        self,
        script: Callable[[SceneState], Script],
        worlds: Sequence[RobosuiteWorld],
        seed: int,
        settings: NoisyExpertSettings,
    ) -> None:
        seen = [SceneState(world) for world in worlds]
        playing = [script(world) for world in seen]

        def advise(aim: np.ndarray) -> np.ndarray:
            for world, off in zip(seen, aim, strict=True):
                world.aim = off
            return np.stack([next(play) for play in playing])

        super().__init__(advise, len(worlds), seed, settings, still=np.zeros(6), shake=SHAKE)
        self._worlds = worlds

    def act(self, obs: Obs) -> torch.Tensor:
        """Return the next action (N, A), steps or poses as the worlds take them."""
        steps = super().act(obs)
        actions = [
            world.as_action(step)
            for world, step in zip(self._worlds, steps.cpu().numpy(), strict=True)
        ]
        return torch.from_numpy(np.stack(actions)).float().to(steps.device)
