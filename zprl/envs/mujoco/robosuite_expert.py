"""Scripted operators for robosuite's one-arm tasks.

Each is a generator that reads its world and yields the next action.  A script never gives up: when
the object is lost on the way it begins again, so that the failings which
:class:`zprl.envs.mujoco.noisy_expert.NoisyExpert` adds cost time before they cost success.  Numbers
are ours, from trials.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from zprl.envs.mujoco.noisy_expert import NoisyExpert, NoisyExpertSettings
from zprl.envs.mujoco.robosuite_world import CLOSED, MAX_STEP, MAX_TURN, OPEN

if TYPE_CHECKING:
    from zprl.envs.base import Obs
    from zprl.envs.mujoco.robosuite_world import RobosuiteWorld

    Goal = Callable[[], tuple[np.ndarray, np.ndarray]]
    """Returns the tool's goal of now, (3,) [m], and the horizontal direction along which its
    fingers move, (3,)."""

SHAKE = np.array([1.0, 1.0, 1.0, 0.2, 0.2, 0.2, 0.0])
"""Share of an operator's tremor that shows in position, rotation and gripper: a hand that shakes by
centimetres turns little."""
GAIN = 2.0
"""Multiple of the missing way that a step asks for: the tool makes about 1 cm of the 5 cm that the
largest step asks for."""
NEAR, ALIGNED = 0.01, 0.2
"""Distance and angle within which a waypoint is reached [m], [rad]."""
PATIENCE = 60
"""Steps after which a waypoint is left although it was not reached."""
GRIP_STEPS = 8
"""The command takes ten steps from open to closed, but the fingers meet an object before its
end."""
CLOSE, LEAD = 0.05, 0.1
"""Distance from its goal within which the arm is sent beyond it [m], and the share of the missing
way that each step adds."""
HELD = 0.05
"""Farthest distance of a held object's centre from the tool [m]."""
CARRY_HEIGHT, RELEASE_HEIGHT = 1.0, 0.9
"""Heights of the tool in the world [m]; the bins stand at 0.8 m, and a can less than 0.1 m above
counts as inside."""
HANDLE = np.array([0.058, 0.0, 0.0])
"""Point at which the nut is gripped [m], in its own frame; the middle of its handle is at 0.054."""
UP = np.array([0.0, 0.0, 1.0])
SIDEWAYS = np.array([0.0, 1.0, 0.0])
"""Direction in which the fingers move when an episode starts."""


class SceneState:
    """A world as its operator sees it.

    All is in its place but for the hand, which seems ``aim`` (3,) away [m].
    """

    def __init__(self, world: RobosuiteWorld) -> None:
        self.env = world.env
        self.body = world.body
        self.aim = np.zeros(3)
        self._tool = world.tool

    def tool(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the apparent position (3,) of the hand [m] and its rotation (3, 3)."""
        position, turned = self._tool()
        return position + self.aim, turned


class ScriptedArm:
    """The arm of one world, tool pointing down."""

    def __init__(self, world: SceneState) -> None:
        self.world = world

    def toward(
        self, goal: Goal, gripper: float, lead: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return one action (7,) toward ``goal`` and beyond it by ``lead`` [m].

        Returns:
            The action, the missing way (3,) [m] and the missing turn (3,) [rad].
        """
        position, fingers = goal()
        tool, turned = self.world.tool()

        way = position - tool
        wanted = np.stack((fingers, np.cross(-UP, fingers), -UP), 1)
        turn = Rotation.from_matrix(wanted @ turned.T).as_rotvec()
        action = np.concatenate((GAIN * (way + lead) / MAX_STEP, GAIN * turn / MAX_TURN, [gripper]))
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
        """Go to ``goal``, which may move, until it is reached, the object lost or time over."""
        lead = np.zeros(3)
        for _ in range(patience):
            action, way, turn = self.toward(goal, gripper, lead)
            if (np.linalg.norm(way) < near and np.linalg.norm(turn) < ALIGNED) or lost():
                return
            # The arm stops short of its target, the more the farther it is stretched out.
            if np.linalg.norm(way) < CLOSE:
                lead += LEAD * way
            yield action

    def lost(self, body: str) -> bool:
        """Return whether a body is no longer between the fingers."""
        return bool(np.linalg.norm(self.world.tool()[0] - self.world.body(body)[0]) > HELD)

    def grip(self, goal: Goal, gripper: float) -> Iterator[np.ndarray]:
        """Stay at ``goal`` while the fingers move."""
        for _ in range(GRIP_STEPS):
            yield self.toward(goal, gripper)[0]


Script = Generator[np.ndarray, None, None]


def nearest(directions: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the horizontal direction that is nearest to ``wanted`` (3,), of length 1.

    Candidates are ``directions`` (n, 3) and their opposites.
    """
    both = np.concatenate((directions, -directions)) * (1.0, 1.0, 0.0)
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-9)
    best: np.ndarray = both[np.argmax(both @ wanted)]
    return best


def fixed(position: np.ndarray, fingers: np.ndarray) -> Goal:
    """Return a goal that does not move."""
    return lambda: (position, fingers)


def lift(world: SceneState) -> Script:
    """Grip the cube by two of its sides and raise it."""
    arm = ScriptedArm(world)

    def cube(height: float = 0.0) -> Goal:
        def goal() -> tuple[np.ndarray, np.ndarray]:
            position, turned = world.body("cube_main")
            return position + height * UP, nearest(turned.T, SIDEWAYS)

        return goal

    while True:
        yield from arm.reach(cube(0.06), OPEN)
        yield from arm.reach(cube(), OPEN)
        yield from arm.grip(cube(), CLOSED)
        # A held cube takes its goal along, so this ends in success, or when it has slipped.
        yield from arm.reach(cube(0.06), CLOSED, lost=lambda: arm.lost("cube_main"))


def can(world: SceneState) -> Script:
    """Grip the can from above, carry it over the wall into its bin and let it go."""
    arm = ScriptedArm(world)
    # On the near side of its bin's middle, which the arm reaches only when stretched out.
    middle = world.env.target_bin_placements[world.env.object_id][:2]
    corner = world.env.bin2_pos[:2]
    drop = corner + 0.6 * (middle - corner)

    def over_can(height: float) -> Goal:
        return lambda: (world.body("Can_main")[0] + height * UP, SIDEWAYS)

    def over_bin(height: float) -> Goal:
        return fixed(np.array([*drop, height]), SIDEWAYS)

    def lost() -> bool:
        return arm.lost("Can_main")

    while True:
        yield from arm.reach(over_can(0.10), OPEN)
        yield from arm.reach(over_can(0.01), OPEN)
        yield from arm.grip(over_can(0.01), CLOSED)
        risen = np.array([*world.tool()[0][:2], CARRY_HEIGHT])
        yield from arm.reach(fixed(risen, SIDEWAYS), CLOSED, near=0.03, lost=lost)
        yield from arm.reach(over_bin(CARRY_HEIGHT), CLOSED, near=0.03, lost=lost)
        yield from arm.reach(over_bin(RELEASE_HEIGHT), CLOSED, near=0.02, lost=lost)
        yield from arm.grip(over_bin(RELEASE_HEIGHT), OPEN)
        yield from arm.reach(over_bin(CARRY_HEIGHT), OPEN)


def square(world: SceneState) -> Script:
    """Grip the nut by its handle, turn it to fit the peg and push it down."""
    arm = ScriptedArm(world)
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
        yield from arm.reach(handle(0.10), OPEN)
        yield from arm.reach(handle(0.0), OPEN)
        yield from arm.grip(handle(0.0), CLOSED)

        tool, turned = world.tool()
        yield from arm.reach(fixed(tool + 0.15 * UP, turned[:, 0]), CLOSED, near=0.03, lost=lost)

        # The handle must not point away from the robot, where the arm does not reach: to its side,
        # or toward it.
        now = heading(world.body("SquareNut_main")[1])
        yaw = float(np.sign(now) * (np.pi / 2 if abs(now) < 3 * np.pi / 4 else np.pi))

        # Each try is pushed down at another place near the peg.
        while not lost():
            angle = 2.4 * tries
            jiggle = 0.002 * min(tries, 3) * np.array([np.cos(angle), np.sin(angle)])
            yield from arm.reach(nut_at(1.0, jiggle), CLOSED, near=0.006, lost=lost)
            yield from arm.reach(nut_at(0.85, jiggle), CLOSED, lost=lost, patience=20)
            tries += 1


def heading(turned: np.ndarray) -> float:
    """Return the angle about the vertical [rad] of a rotation (3, 3)."""
    return float(np.arctan2(turned[1, 0], turned[0, 0]))


SCRIPTS: dict[str, Callable[[SceneState], Script]] = {"lift": lift, "can": can, "square": square}
"""Task name to its script."""


class RobosuiteExpert(NoisyExpert):
    """One episode's worth of playing a script in N worlds, with the failings of people.

    Args:
        script: Yields the actions of a flawless operator.
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
