"""Configuration of the Franka driver."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from zprl.robot.driver_parts import DriverConfig
from zprl.strict_model import FiniteModel


class Load(FiniteModel):
    """Load on the flange besides the hand.

    Wrong values make the arm jump when impedance control starts.
    """

    mass: float = Field(0.0, ge=0.0, le=3.0, description="[kg]")
    centre: tuple[float, float, float] = Field(
        (0.0, 0.0, 0.0), description="of mass in the flange's frame [m]"
    )
    inertia: tuple[float, float, float] = Field(
        (0.0, 0.0, 0.0), description="about the centre of mass, diagonal [kg m^2]"
    )


class FrankaConfig(DriverConfig):
    """All settings of the driver."""

    realtime: Literal["enforce", "ignore"] = Field(
        "enforce", description="What a kernel without real-time scheduling means."
    )
    translational_stiffness: float = Field(2000.0, ge=50.0, le=3000.0, description="[N/m]")
    rotational_stiffness: float = Field(60.0, ge=2.0, le=150.0, description="[Nm/rad]")
    translational_damping: float = Field(
        100.0, ge=10.0, le=400.0, description="[Ns/m]; franky's default takes the arm for 1 kg"
    )
    rotational_damping: float = Field(10.0, ge=0.5, le=50.0, description="[Nms/rad]")
    translational_clip: float = Field(
        0.02,
        gt=0.0,
        le=0.1,
        description="Longest spring [m]; stiffness times this bounds the force.",
    )
    rotational_clip: float = Field(0.4, gt=0.0, le=1.0, description="[rad]")
    posture_stiffness: float = Field(
        5.0, ge=0.0, le=50.0, description="Pull of the elbow towards its place at connect [Nm/rad]."
    )
    max_torque_rate: float = Field(
        1.0, gt=0.0, le=1.0, description="Steepest change of the joint torques [Nm/ms]."
    )
    collision_force: float = Field(
        50.0, ge=5.0, le=100.0, description="External force at which the robot stops itself [N]."
    )
    collision_torque: float = Field(
        30.0,
        ge=5.0,
        le=100.0,
        description="External joint torque at which the robot stops itself [Nm].",
    )
    dynamics: float = Field(
        0.2, gt=0.0, le=1.0, description="Of franky's own motions, relative to the robot's limits."
    )
    load: Load = Load()
    gripper_speed: float = Field(0.08, gt=0.0, le=0.2, description="[m/s]")
    gripper_force: float = Field(20.0, gt=0.0, le=70.0, description="of a grasp [N]")
    gripper_step: float = Field(
        0.005,
        gt=0.0,
        le=0.05,
        description="Smallest change of the requested opening that moves the hand [m].",
    )
    connect_timeout: float = Field(10.0, gt=0.0, le=120.0, description="[s]")
    recover_timeout: float = Field(1.0, gt=0.0, le=10.0, description="[s]")

    @model_validator(mode="after")
    def _real_robots_need_real_time(self) -> Self:
        if self.realtime == "ignore" and not self.is_loopback:
            raise ValueError(
                "realtime: ignore is for simulated robots at 127.x only; "
                "a real Franka needs a PREEMPT_RT kernel"
            )
        return self
