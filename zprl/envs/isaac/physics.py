"""The engine under a world: OvPhysX, Newton (MuJoCo-Warp) or Isaac Sim's PhysX.

Each has here what it needs to hold a cube between two fingers.

Newton's numbers are ours, measured on the scripted pick; see ``docs/worlds.md``.  On a CPU it steps
one environment nearly as slowly as many: about a thousand small kernels are launched one after
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from zprl.config import Engine

_NO_LIMIT = 1e4
"""Torque beyond any that a spring of the arm asks for [N m]."""


def configure(config: Any, engine: Engine) -> None:
    """Set the engine, ``config.sim.physics``, of an Isaac Lab configuration."""
    if engine == "ovphysx":
        from isaaclab_ov.physics import OvPhysxCfg

        config.sim.physics = OvPhysxCfg()
    elif engine == "newton":
        config.sim.physics = newton()
    else:
        from isaaclab_physx.physics import PhysxCfg

        # A stock task's own is made for this engine.
        if not isinstance(config.sim.physics, PhysxCfg):
            config.sim.physics = PhysxCfg()


def newton() -> Any:
    """Return Newton's configuration for arms that grasp."""
    from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg, NewtonShapeCfg

    return NewtonCfg(
        # Elliptic cones, and friction stiffer than the normal direction: otherwise a held cube
        # creeps out of the fingers.
        solver_cfg=MJWarpSolverCfg(
            njmax=200,
            nconmax=60,
            integrator="implicitfast",
            cone="elliptic",
            impratio=100.0,
            iterations=20,
            ls_iterations=50,
        ),
        num_substeps=2,
        # MuJoCo's contacts are springs per unit of mass, here at the stiffest that 5 ms substeps
        # bear: a time constant of 10 ms. Friction is what PhysX gives to shapes that say nothing;
        # Newton would give 1.
        default_shape_cfg=NewtonShapeCfg(ke=1e4, kd=200.0, mu=0.5),
    )


def compensate_gravity(robot: Any, engine: Engine) -> None:
    """Carry the weight of an arm whose asset says ``disable_gravity``.

    That is PhysX's word; Newton's is ``gravcomp``.
    """
    if engine != "newton":
        return

    from isaaclab_newton.sim.schemas import MujocoRigidBodyCfg

    if "Physics" in (getattr(robot.spawn, "variants", None) or {}):
        robot.spawn.variants["Physics"] = "mujoco"
    props = getattr(robot.spawn, "rigid_props", None)
    listed = [*props] if isinstance(props, list | tuple) else [props]
    if any(getattr(entry, "disable_gravity", False) for entry in listed):
        robot.spawn.rigid_props = [*listed, MujocoRigidBodyCfg(gravcomp=1.0)]


def tune_drives(robot: Any, engine: Engine) -> None:
    """Make the robot's drives under Newton do what they do under PhysX.

    Arm: Newton limits the force of a drive's spring before it makes its damper implicit, which acts
    like 0.4 kg m^2 of inertia; limited to the wrist's 12 N m, a turn of the hand takes twice as
    long and lifts the tool by 6 cm on its way.  Without the limit the arm goes as PhysX's does,
    within a millimetre (measured); what it lacks is the limit of its force against things.

    Fingers: contacts yield in proportion to force over mass: 50 N on fingers of 15 g press them
    centimetres into the cube.  A limit on the force instead of a softer spring would not do: two
    fingers at their limits hold a cube anywhere between them.
    """
    if engine != "newton":
        return
    for name, actuator in robot.actuators.items():
        if name.startswith("panda_hand"):
            actuator.armature, actuator.stiffness, actuator.damping = 0.1, 800.0, 60.0
        elif "finger" not in name:
            actuator.joint_effort_limit = _NO_LIMIT


def friction(env: Any, thing: Any, engine: Engine) -> torch.Tensor:
    """Return a copy of the friction of a thing's shapes.

    It is (N, shapes, 3) static, dynamic and restitution; under Newton (N, shapes).
    """
    return _friction(env, thing, engine).clone()


def set_friction(
    env: Any, thing: Any, engine: Engine, own: torch.Tensor, ids: torch.Tensor, factor: torch.Tensor
) -> None:
    """Multiply the friction ``own`` of environments ``ids`` (k,) by ``factor`` (k, 1).

    Each engine is written to as Isaac Lab's own event does.
    """
    present = _friction(env, thing, engine)
    rows, factor = ids.to(present.device), factor.to(present.device)
    if engine == "newton":
        from newton import ModelFlags

        present[rows] = own[rows] * factor
        env.sim.physics_manager.add_model_change(ModelFlags.SHAPE_PROPERTIES)
        return

    import warp

    present[rows, :, :2] = own[rows, :, :2] * factor[..., None]
    values = warp.from_torch(present.contiguous(), dtype=warp.float32)
    indices = warp.from_torch(rows.to(torch.int32))
    if engine == "isaacsim":
        thing.root_view.set_material_properties(values, indices)
    else:
        thing.root_view.set_attribute(_friction_type(thing), values, indices=indices)


def _friction(env: Any, thing: Any, engine: Engine) -> torch.Tensor:
    import warp

    if engine == "newton":
        model = env.sim.physics_manager.get_model()
        present = thing._root_view.get_attribute("shape_material_mu", model)[:, 0]
    elif engine == "isaacsim":
        present = thing.root_view.get_material_properties()
    else:
        present = thing.root_view.get_attribute(_friction_type(thing))
    values: torch.Tensor = warp.to_torch(present)
    return values


def _friction_type(thing: Any) -> Any:
    from isaaclab.assets import BaseArticulation
    from isaaclab_ov import tensor_types

    if isinstance(thing, BaseArticulation):
        return tensor_types.SHAPE_FRICTION_AND_RESTITUTION
    return tensor_types.RIGID_BODY_SHAPE_FRICTION_AND_RESTITUTION
