"""The sim-to-real gap: differences of the simulated robot from the simulator of the training.

Isaac's cube has an edge of 48 mm, 0.1 kg, a stiff position-servoed arm without friction, and poses
without noise or delay.  The defaults here are what a laboratory would plausibly have instead
(ours); they are calibrated nowhere.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from zprl.strict_model import FiniteModel

Length = Annotated[float, Field(ge=-0.05, le=0.05, allow_inf_nan=False)]


class SimGap(FiniteModel):
    """Physical differences of the simulated robot.

    With a seed they determine everything that is random about it.
    """

    cube_edge: float = Field(0.044, gt=0.01, lt=0.075, description="[m]")
    cube_mass: float = Field(0.06, gt=0.005, le=1.0, description="[kg]")
    cube_friction: float = Field(
        0.9, gt=0.0, le=3.0, description="sliding, against table and fingers"
    )
    joint_friction: float = Field(
        0.5,
        ge=0.0,
        le=3.0,
        description="dry friction of the joints relative to the identified FR3 (1.1 Nm)",
    )
    joint_damping: float = Field(
        1.0, ge=0.0, le=10.0, description="relative to the identified FR3 (0.21 Nms/rad)"
    )
    gripper_speed: float = Field(
        0.08, gt=0.005, le=0.2, description="fastest change of the opening [m/s]"
    )
    gripper_delay: float = Field(
        0.05, ge=0.0, le=1.0, description="from a gripper command to its first motion [s]"
    )
    control_delay: int = Field(
        0, ge=0, le=20, description="torque commands act this many milliseconds late"
    )
    payload_error: float = Field(
        0.02,
        ge=-0.3,
        le=0.5,
        description="mass at the hand that gravity compensation does not know [kg]",
    )
    table_height: Length = Field(
        0.0, description="of the table top above the base frame's z = 0 [m]"
    )
    tracker_rate: float = Field(60.0, gt=1.0, le=500.0, description="poses per second [Hz]")
    tracker_latency: float = Field(
        0.03, ge=0.0, le=0.5, description="age of a pose when it is published [s]"
    )
    tracker_noise: float = Field(
        0.001, ge=0.0, le=0.02, description="standard deviation of each position coordinate [m]"
    )
    tracker_turn_noise: float = Field(
        0.01, ge=0.0, le=0.5, description="standard deviation of the rotation about each axis [rad]"
    )
    tracker_offset: tuple[Length, Length, Length] = Field(
        (0.001, -0.001, 0.0), description="constant error of the tracker's frame [m]"
    )
