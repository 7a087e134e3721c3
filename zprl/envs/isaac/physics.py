"""The engine under a world: PhysX (OvPhysX) or Newton (MuJoCo-Warp), with what each needs to hold a cube between two fingers.

Newton's numbers are ours, measured on the scripted pick; see ``docs/worlds.md``.  On a CPU it steps one environment nearly as slowly
as many: about a thousand small kernels are launched one after another.
"""

from __future__ import annotations

from typing import Any, Literal

Engine = Literal["ovphysx", "newton"]


def configure(config: Any, engine: Engine) -> None:
    """Set ``config.sim.physics`` of an Isaac Lab configuration, and what the robot's asset must say to that engine."""
    if engine == "ovphysx":
        from isaaclab_ov.physics import OvPhysxCfg

        config.sim.physics = OvPhysxCfg()
        return
    config.sim.physics = newton()


def newton() -> Any:
    """Newton for arms that grasp."""
    from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg, NewtonShapeCfg

    return NewtonCfg(
        # Elliptic cones, and friction stiffer than the normal direction: otherwise a held cube creeps out of the fingers.
        solver_cfg=MJWarpSolverCfg(
            njmax=200, nconmax=60, integrator="implicitfast", cone="elliptic", impratio=100.0, iterations=20, ls_iterations=50
        ),
        num_substeps=2,
        # MuJoCo's contacts are springs per unit of mass, here at the stiffest that 5 ms substeps bear: a time constant of 10 ms.
        default_shape_cfg=NewtonShapeCfg(ke=1e4, kd=200.0),
    )


def compensate_gravity(robot: Any, engine: Engine) -> None:
    """Carry the weight of an arm whose asset says ``disable_gravity``: that is PhysX's word, Newton's is ``gravcomp``."""
    if engine != "newton":
        return
    from isaaclab_newton.sim.schemas import MujocoRigidBodyCfg

    if "Physics" in (getattr(robot.spawn, "variants", None) or {}):
        robot.spawn.variants["Physics"] = "mujoco"
    props = getattr(robot.spawn, "rigid_props", None)
    listed = [*props] if isinstance(props, list | tuple) else [props]
    if any(getattr(entry, "disable_gravity", False) for entry in listed):
        robot.spawn.rigid_props = [*listed, MujocoRigidBodyCfg(gravcomp=1.0)]


def firm_fingers(robot: Any, engine: Engine) -> None:
    """Give the fingers inertia and a gentler spring under Newton.

    Its contacts yield in proportion to force over mass: 50 N on fingers of 15 g press them centimetres into the cube.  A limit on the
    force instead of a softer spring would not do: two fingers at their limits hold a cube anywhere between them.
    """
    if engine == "newton":
        hand = robot.actuators["panda_hand"]
        hand.armature, hand.stiffness, hand.damping = 0.1, 800.0, 60.0
