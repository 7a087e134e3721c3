"""Sections ``run`` and ``task``: the run as a whole, and the world that it acts in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zprl.config.sections import Section

Share = Annotated[float, Field(ge=0, lt=1)]


class Run(Section):
    """Settings of the whole pipeline run."""

    seed: int = Field(0, ge=0, description="Training seed of every stage.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where torch and the simulator run.")
    threads: int = Field(
        1,
        ge=1,
        description="Torch threads; more than one is slower for networks of this size (ours).",
    )


class Randomise(Section):
    """Domain randomisation of the worlds with Isaac's Franka.

    Every episode is on a robot and with things that are slightly others.  A share of 0.1
    means: the own value times a factor that is drawn evenly between 0.9 and 1.1.
    """

    mass: Share = Field(
        0.0, description="Share by which the mass of things differs (inertia with it)."
    )
    friction: Share = Field(0.0, description="Share by which the friction of things differs.")
    gains: Share = Field(
        0.0, description="Share by which stiffness and damping of the arm's joints differ, each."
    )
    latency_steps: int = Field(
        0,
        ge=0,
        le=50,
        description="Actions arrive up to so many environment steps late, equally for an episode.",
    )
    observation_noise: float = Field(
        0.0,
        ge=0,
        description="Standard deviation of Gaussian noise on every observed number but the "
        "gripper's command [m, or as it is].",
    )
    cube_size: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share by which the edges of cubes differ between environments.",
    )


Engine = Literal["ovphysx", "newton", "isaacsim"]
"""Physics engines under Isaac's worlds."""

Assets = Literal["authored", "nvidia"]
"""Whose USD files they are made of."""


class Task(Section):
    """The world in which policies act and are judged."""

    name: str = Field(
        "isaac/lift-cube", description="Registered task; `zprl env list` prints them."
    )
    episode_steps: int = Field(
        200, ge=10, description="Environment steps after which an episode is truncated."
    )
    cameras: tuple[str, ...] = Field(
        (),
        description="Cameras whose images are observed, as `<camera>_image`: front, side, wrist in "
        "Isaac's worlds.",
    )
    image_size: int = Field(
        84, ge=16, le=1024, description="Height and width of these images (paper: 84)."
    )
    workers: int = Field(
        0,
        ge=0,
        description="Processes that step MuJoCo's worlds side by side, with equal results; 0: none "
        "but the stage's own.",
    )
    physics: Engine = Field(
        "ovphysx",
        description="Engine under Isaac's worlds: PhysX; Newton (MuJoCo-Warp), slow on a CPU; or "
        "Isaac Sim's PhysX, with RTX cameras.",
    )
    assets: Assets = Field(
        "authored",
        description="USD files of Isaac's worlds: those authored here, or NVIDIA's below the "
        "folder that ISAACSIM_ASSET_ROOT names.",
    )
    randomise: Randomise = Field(
        Randomise(),
        description="Domain randomisation of Isaac's worlds with the Franka; off by default.",
    )
    file: str | None = Field(
        None,
        description="File that says what an Isaac Lab task's terms mean here; for "
        "`isaaclab/<Task-Id>` alone.",
    )
