"""Configuration of the xArm driver."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from zprl.robot.driver_parts import DriverConfig
from zprl.strict_model import FiniteModel

Vector = tuple[float, float, float]


class Tool(FiniteModel):
    """Tool on the flange; wrong values make the arm collide with its own idea of gravity."""

    offset: Vector = Field(description="Tool centre point in the flange's frame [m].")
    turn: Vector = Field(
        (0.0, 0.0, 0.0), description="Roll, pitch, yaw of the tool in the flange's frame [rad]."
    )
    mass: float = Field(gt=0, le=5, description="[kg]")
    centre: Vector = Field(description="of mass in the flange's frame [m].")


class XArmConfig(DriverConfig):
    """All settings of the driver; ``host`` is the address of the control box."""

    axes: Literal[6, 7] = Field(
        7, description="Joints; the xArm 5 cannot take any pose and is not supported."
    )
    gripper: Literal["robotiq", "none"] = Field(
        "robotiq", description="What is on the wrist's serial line."
    )
    gripper_speed: int = Field(255, ge=0, le=255, description="Robotiq's speed byte.")
    gripper_force: int = Field(100, ge=0, le=255, description="Robotiq's force byte.")
    tool: Tool | None = Field(
        None, description="Written at connect; null: the control box's own settings stay."
    )
    collision_sensitivity: int | None = Field(
        None, ge=1, le=5, description="Written at connect, 5 stops first; null: stays."
    )
    reach: float = Field(
        0.70,
        gt=0,
        le=1.0,
        description="Farthest flange position from the base [m] (xArm 6 and 7: 0.70).",
    )
    connect_timeout: float = Field(10.0, gt=0, le=120, description="[s]")
