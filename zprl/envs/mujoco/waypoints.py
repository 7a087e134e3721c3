"""Scripted operators for robosuite's one-arm tasks: each is a generator that looks at its world and yields the next action.

A script never gives up: when the object is lost on the way it begins again, so that the failings which
:class:`zprl.envs.mujoco.expert.Expert` adds cost time before they cost success.  Numbers are ours, found by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from zprl.envs.mujoco.robosuite import CLOSED, OPEN

if TYPE_CHECKING:
    from zprl.envs.mujoco.robosuite import RobosuiteWorld

    Goal = Callable[[], tuple[np.ndarray, np.ndarray]]
    """Where the tool should be now, (3,) [m], and the horizontal direction along which its fingers should move, (3,)."""

STEP, TURN = 0.05, 0.5
"""What 1 of an action asks for [m] and [rad]; robosuite's."""
GAIN = 2.0
"""Share of the missing way that a step asks for: the controller answers a step with about half of it."""
NEAR, ALIGNED = 0.01, 0.2
"""When a waypoint is reached [m], [rad]."""
PATIENCE = 60
"""Steps after which a waypoint is left although it was not reached."""
GRIP_STEPS = 8
"""The command needs five steps from half open to closed; the fingers need a little longer."""
HELD = 0.05
"""How far from the tool a held object's centre is at most [m]."""
CARRY_HEIGHT, RELEASE_HEIGHT = 1.0, 0.9
"""Of the tool in the world [m]; the bins' floor is at 0.8 m and their walls end at 0.9 m."""
UP = np.array([0.0, 0.0, 1.0])
SIDEWAYS = np.array([0.0, 1.0, 0.0])
"""How the fingers move when an episode starts."""


class Hand:
    """The arm of one world, tool pointing down."""

    def __init__(self, world: RobosuiteWorld) -> None:
        self.world = world

    def toward(self, goal: Goal, gripper: float) -> tuple[np.ndarray, float, float]:
        """One action (7,) toward ``goal``, how far it is [m], and how far it is turned away [rad]."""
        position, fingers = goal()
        tool, turned = self.world.tool()
        way = position - tool
        wanted = np.stack((fingers, np.cross(-UP, fingers), -UP), 1)
        turn = Rotation.from_matrix(wanted @ turned.T).as_rotvec()
        action = np.concatenate((GAIN * way / STEP, GAIN * turn / TURN, [gripper]))
        return np.clip(action, -1.0, 1.0), float(np.linalg.norm(way)), float(np.linalg.norm(turn))

    def reach(self, goal: Goal, gripper: float, *, near: float = NEAR, lost: Callable[[], bool] = lambda: False) -> Iterator[np.ndarray]:
        """Go to ``goal``, which may move, until it is reached, patience ends or the object is lost."""
        for _ in range(PATIENCE):
            action, way, turn = self.toward(goal, gripper)
            if (way < near and turn < ALIGNED) or lost():
                return
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


def lift(world: RobosuiteWorld) -> Script:
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


def can(world: RobosuiteWorld) -> Script:
    """Grip the can from above, carry it over the wall into its bin and let it go."""
    hand = Hand(world)
    # On the near side of its bin's middle, which the arm reaches only when stretched out.
    middle, corner = world.env.target_bin_placements[world.env.object_id][:2], world.env.bin2_pos[:2]
    drop = corner + 0.6 * (middle - corner)

    def over_can(height: float) -> Goal:
        return lambda: (world.body("Can_main")[0] + height * UP, SIDEWAYS)

    def over_bin(height: float) -> Goal:
        goal = np.array([*drop, height])
        return lambda: (goal, SIDEWAYS)

    def risen() -> tuple[np.ndarray, np.ndarray]:
        return np.array([*grasped[:2], CARRY_HEIGHT]), SIDEWAYS

    def lost() -> bool:
        return hand.lacks("Can_main")

    while True:
        yield from hand.reach(over_can(0.10), OPEN)
        yield from hand.reach(over_can(0.01), OPEN)
        yield from hand.grip(over_can(0.01), CLOSED)
        grasped = world.tool()[0]
        yield from hand.reach(risen, CLOSED, near=0.03, lost=lost)
        yield from hand.reach(over_bin(CARRY_HEIGHT), CLOSED, near=0.03, lost=lost)
        yield from hand.reach(over_bin(RELEASE_HEIGHT), CLOSED, near=0.02, lost=lost)
        yield from hand.grip(over_bin(RELEASE_HEIGHT), OPEN)
        yield from hand.reach(over_bin(CARRY_HEIGHT), OPEN)


SCRIPTS: dict[str, Callable[[RobosuiteWorld], Script]] = {"lift": lift, "can": can}
"""Task name to its script."""
