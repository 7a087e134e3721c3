"""The configuration under every task with the Franka.

It is Isaac Lab's lift task, made to run on our engines, with our assets or NVIDIA's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zprl.envs.isaac import physics
from zprl.envs.isaac.franka import CONTROL_HZ, TOOL_OFFSET
from zprl.envs.isaac.randomisation import resize_cubes
from zprl.envs.isaac.usd import compare, panda

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.isaac.manager_terms import ManagerTerms

ISAAC_TASK = "IsaacContrib-Lift-Cube-Franka-IK-Abs"
ENV_SPACING = 1.5
"""Distance between environments [m]; the stock task has 2.5.  Contacts lose precision far from the
world's origin: with 200 environments 2.5 m apart a policy that never failed within 12 m of the
origin failed in a tenth of the episodes, nearly all beyond it."""


def build_config(
    task: Task, *, num_envs: int, device: str, terms: ManagerTerms | None = None
) -> Any:
    """Return the stock configuration on our engine.

    Args:
        task: The section ``task`` of the parameters.
        num_envs: Environments stepped side by side.
        device: Device of the simulator.
        terms: With them the configuration is also lean, with our success and the scenario's scene;
            without, it is the stock task with all managers, the yardstick of the benchmark.
    """
    from isaaclab_tasks.utils import parse_env_cfg

    config = parse_env_cfg(ISAAC_TASK, device=device, num_envs=num_envs)
    physics.configure(config, task.physics)
    physics.compensate_gravity(config.scene.robot, task.physics)
    config.scene.env_spacing = ENV_SPACING
    # Half a step less than asked for: Isaac Lab rounds up, and 200 x 0.02 s must not become 201
    # steps.
    config.episode_length_s = (task.episode_steps - 0.5) / CONTROL_HZ
    config.actions.arm_action.body_offset.pos = [0.0, 0.0, TOOL_OFFSET]

    if task.assets == "authored":
        drive_both_fingers(config.scene.robot)
    else:
        compare.check_robot(Path(config.scene.robot.spawn.usd_path))
    physics.tune_drives(config.scene.robot, task.physics)
    # The command's markers are an asset that is not authored here.
    config.commands.object_pose.debug_vis = False

    if terms is None:
        # OvPhysX names the cube's single body differently from Kit's PhysX; the term does not need
        # the name.
        config.events.reset_object_position.params["asset_cfg"].body_names = None
    else:
        _use_terms(config, task, terms)
    return config


def _use_terms(config: Any, task: Task, terms: ManagerTerms) -> None:
    """Replace the stock task's managers and scene with a scenario's."""
    from isaaclab.managers import EventTermCfg, ObservationTermCfg, TerminationTermCfg

    # Managers that nobody reads cost time in every step.
    config.rewards = config.curriculum = config.commands = None
    config.scene.ee_frame = None
    policy = config.observations.policy
    for name in ("joint_pos", "joint_vel", "object_position", "target_object_position", "actions"):
        setattr(policy, name, None)
    policy.frame = ObservationTermCfg(func=lambda env: terms.observe(env))

    if task.assets == "authored":
        config.scene.robot.spawn.variants["Colliders"] = (
            panda.CLEAR if task.physics == "newton" else terms.scenario.colliders
        )
    terms.scenario.configure(config)
    terms.cameras.configure(config, task.physics)
    resize_cubes(config, terms.scenario.cubes, task.randomise)

    config.terminations.success = TerminationTermCfg(func=lambda env: terms.success(env))
    config.events.reset_object_position = EventTermCfg(
        func=lambda env, env_ids: terms.place(env, env_ids), mode="reset"
    )
    config.compute_final_obs = True


def drive_both_fingers(robot: Any) -> None:
    """Drive each finger of the authored Panda.

    The published one couples them with a mimic joint.
    """
    from isaaclab.actuators import ImplicitActuatorCfg

    robot.actuators.pop("panda_finger2_passive", None)
    robot.actuators["panda_hand"] = ImplicitActuatorCfg(
        joint_names_expr=["panda_finger_joint.*"],
        joint_effort_limit=200.0,
        stiffness=2e3,
        damping=1e2,
    )
