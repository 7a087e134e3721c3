"""A user's own manager-based Isaac Lab task by its id, ``isaaclab/<Task-Id>``.

A file describes its terms, see :mod:`zprl.envs.isaac.isaaclab_terms`.

The task keeps its own observations, actions, starts and ends.  So its starts are a function of
(seed, everything since the reset): Isaac Lab draws them from one generator.  Equal seeds on fresh
simulators give equal trajectories, as everywhere.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import torch

from zprl import seeding
from zprl.envs.base import StepResult, TaskSpec, check_action
from zprl.envs.isaac import config as base_config
from zprl.envs.isaac import launch, physics
from zprl.envs.isaac.isaaclab_terms import IsaacLabTerms, RewardAbove
from zprl.envs.isaac.usd import panda
from zprl.envs.usage_errors import reset_error
from zprl.errors import ConfigError, EnvironmentProblem
from zprl.suggestions import did_you_mean

if TYPE_CHECKING:
    from zprl.config import Task
    from zprl.envs.base import Obs

PREFIX = "isaaclab/"
_SUCCESS = "zprl_success"
"""Name of the termination that a reward term is made to."""
_PRESETS = {"ovphysx": "ovphysx", "newton": "newton_mjwarp", "isaacsim": "isaacsim_physx"}


def make(task: Task, *, num_envs: int, device: str = "cpu") -> IsaacLabWorld:
    """Make the environment; entry point ``isaaclab/*``.

    An id ``module:Id`` imports the module that registers it first.

    Raises:
        ConfigError: the file of terms is missing, or does not fit the task.
        EnvironmentProblem: Isaac Lab is missing, has no such task, lacks its assets, or its engine
            does not start.
    """
    if task.cameras:
        raise ConfigError(f"{task.name} has no cameras", remedy="leave task.cameras empty")

    task_id = task.name.removeprefix(PREFIX)
    return IsaacLabWorld(
        task, task_id, IsaacLabTerms.load(task_id, task.file), num_envs=num_envs, device=device
    )


def configure(task: Task, task_id: str, terms: IsaacLabTerms, *, num_envs: int, device: str) -> Any:
    """Return the task's own configuration on our engine.

    It has final observations, and its success as a termination.

    Raises:
        ConfigError: the file of terms does not fit the task.
        EnvironmentProblem: Isaac Lab lacks the task.
    """
    config = _registered(task, task_id, terms, num_envs=num_envs, device=device)
    hz = 1.0 / (config.decimation * config.sim.dt)
    if abs(hz - terms.control_hz) > 1e-3 * hz:
        raise ConfigError(
            f"{task_id} acts {hz:g} times a second, its file says {terms.control_hz:g}",
            remedy=f"write control_hz: {hz:g}",
        )

    config.episode_length_s = (task.episode_steps - 0.5) / hz
    config.compute_final_obs = True
    _adapt(config, task)
    _check_terms(config, task_id, terms)
    return config


def _check_terms(config: Any, task_id: str, terms: IsaacLabTerms) -> None:
    """Check the observations, and add or check the termination that is success."""
    group = getattr(config.observations, terms.group, None)
    if group is None:
        raise ConfigError(
            f"{task_id} has no observation group '{terms.group}'",
            remedy="name one that it has as group",
        )
    group.concatenate_terms = False

    wanted = {name for names in terms.observations.values() for name in names}
    known = _term_names(group)
    if missing := sorted(wanted.difference(known)):
        raise ConfigError(
            f"{task_id} has no observation term '{missing[0]}'", remedy=f"it has {', '.join(known)}"
        )

    if isinstance(terms.success, RewardAbove):
        _end_at_reward(config, task_id, terms.success)
    elif not hasattr(getattr(config.terminations, terms.success, None), "func"):
        known = _term_names(config.terminations)
        raise ConfigError(
            f"{task_id} has no termination '{terms.success}'",
            remedy=f"it has {', '.join(known)}; or name a reward term",
        )


def _term_names(terms: Any) -> list[str]:
    """Return the names of a configuration's terms."""
    return [name for name, value in vars(terms).items() if hasattr(value, "func")]


def _registered(
    task: Task, task_id: str, terms: IsaacLabTerms, *, num_envs: int, device: str
) -> Any:
    import gymnasium
    import isaaclab_tasks  # noqa: F401  (registers Isaac Lab's ids)
    from isaaclab.envs import ManagerBasedRLEnvCfg
    from isaaclab_tasks.utils import parse_env_cfg

    module, _, name = task_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise EnvironmentProblem(
                f"{task_id} is registered by a module that needs '{error.name}'",
                remedy="install it here, or put its folder on PYTHONPATH",
            ) from error

    if name not in gymnasium.registry:
        hint = did_you_mean(name, gymnasium.registry, lead="; ", cutoff=0.5)
        raise EnvironmentProblem(
            f"Isaac Lab has no task '{name}'{hint}",
            remedy="write module:Id where a module of your own registers it",
        )

    overrides = [*terms.overrides]
    try:  # tasks with presets choose their robot's variants by the engine, too
        config = parse_env_cfg(
            name,
            device=device,
            num_envs=num_envs,
            overrides=[f"physics={_PRESETS[task.physics]}", *overrides],
        )
    except ValueError:
        config = parse_env_cfg(name, device=device, num_envs=num_envs, overrides=overrides)

    if not isinstance(config, ManagerBasedRLEnvCfg):
        raise EnvironmentProblem(
            f"{name} is not a manager-based task", remedy="write an environment of your own for it"
        )
    return config


def _adapt(config: Any, task: Task) -> None:
    """Replace what only Kit can run, and what the authored assets lack."""
    from isaaclab.assets import RigidObjectCfg

    engine = task.physics
    robot: Any = getattr(config.scene, "robot", None)
    kind = type(config.sim.physics).__name__
    if kind != {"ovphysx": "OvPhysxCfg", "newton": "NewtonCfg", "isaacsim": "PhysxCfg"}[engine]:
        physics.configure(config, engine)
        if robot is not None:
            physics.compensate_gravity(robot, engine)

    # Markers are assets, and no window shows them.
    for term in vars(config.commands or object).values():
        if hasattr(term, "debug_vis"):
            term.debug_vis = False

    path = str(getattr(getattr(robot, "spawn", None), "usd_path", ""))
    if task.assets == "authored" and path.endswith(panda.PATH):
        base_config.drive_both_fingers(robot)
        physics.tune_drives(robot, engine)
        robot.spawn.variants["Colliders"] = panda.CLEAR

    # A rigid object is a single body, which engines name differently.
    for event in vars(config.events or object).values():
        entity = getattr(event, "params", {}).get("asset_cfg")
        if entity is None:
            continue
        if isinstance(getattr(config.scene, entity.name, None), RigidObjectCfg):
            entity.body_names = None


def _end_at_reward(config: Any, task_id: str, success: RewardAbove) -> None:
    from isaaclab.managers import TerminationTermCfg

    term: Any = getattr(config.rewards, success.reward, None)
    if not hasattr(term, "func"):
        known = _term_names(config.rewards)
        raise ConfigError(
            f"{task_id} has no reward '{success.reward}'", remedy=f"it has {', '.join(known)}"
        )
    if unknown := sorted(set(success.params).difference(term.params)):
        raise ConfigError(
            f"reward {success.reward} has no parameter '{unknown[0]}'",
            remedy=f"it has {', '.join(term.params)}",
        )

    def reached(env: Any) -> torch.Tensor:
        made = env.reward_manager.get_term_cfg(success.reward)  # its parameters are resolved by now
        value: torch.Tensor = made.func(env, **{**made.params, **success.params})
        return value > success.above

    setattr(config.terminations, _SUCCESS, TerminationTermCfg(func=reached))


class IsaacLabWorld:
    """N copies of the task; observation keys are those of the file."""

    def __init__(
        self, task: Task, task_id: str, terms: IsaacLabTerms, *, num_envs: int, device: str
    ) -> None:
        self._terms = terms
        self._simulator = launch.Simulator()
        self._simulator.start(
            lambda: configure(task, task_id, terms, num_envs=num_envs, device=device),
            device,
            task.assets,
        )
        self._success = _SUCCESS if isinstance(terms.success, RewardAbove) else terms.success
        try:
            widths = self._widths(task_id)
        except BaseException:
            self.close()
            raise
        self.spec = TaskSpec(
            task.name,
            num_envs,
            widths,
            terms.action_dim,
            terms.control_hz,
            task.episode_steps,
            device,
        )
        self._generator: torch.Tensor | None = None

    @torch.no_grad()
    def reset(self, seed: int) -> Obs:
        """Start all episodes."""
        env = self._env
        start = seeding.derive(seed, "isaaclab-task")
        self._generator = torch.Generator().manual_seed(start).get_state()
        with self._own_generator():
            obs, _ = env.reset()
        return self._split(obs)

    @torch.no_grad()
    def step(self, action: torch.Tensor) -> StepResult:
        """Execute the task's own actions (N, A)."""
        env = self._env
        check_action(self.spec, action)
        with self._own_generator():
            obs, reward, terminated, truncated, extras = env.step(action.detach())

        terminated = terminated.clone()
        truncated = truncated & ~terminated
        success = env.termination_manager.get_term(self._success) & terminated

        first = self._split(obs)
        done = (terminated | truncated)[:, None]
        last = self._split(extras["final_obs"]) if bool(done.any()) else first
        final = {key: torch.where(done, last[key], first[key]) for key in first}
        reward = success.float() if self._terms.reward == "success" else reward.float().clone()
        return StepResult(first, reward, terminated, truncated, success, final)

    def hold(self) -> torch.Tensor:
        """Return the file's ``hold``, or zeros, (N, A)."""
        values = torch.tensor(
            self._terms.hold or [0.0] * self.spec.action_dim, device=self.spec.device
        )
        return values.repeat(self.spec.num_envs, 1)

    def scene(self) -> dict[str, torch.Tensor]:
        """Return root poses (N, 7) of articulations and rigid objects by name."""
        scene = self._env.scene
        things = {**scene.articulations, **scene.rigid_objects}
        return {
            name: torch.cat(
                (thing.data.root_pos_w.torch - scene.env_origins, thing.data.root_quat_w.torch),
                dim=1,
            )
            for name, thing in things.items()
        }

    def close(self) -> None:
        """Close the simulator."""
        self._simulator.close()

    @property
    def _env(self) -> Any:
        return self._simulator.env

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _widths(self, task_id: str) -> dict[str, int]:
        """Return the width of each key, once the world exists; check it and the action's."""
        actual = self._env.action_manager.total_action_dim
        if actual != self._terms.action_dim:
            raise ConfigError(
                f"{task_id} takes {actual} numbers, its file says {self._terms.action_dim}",
                remedy=f"action_dim: {actual}",
            )

        manager = self._env.observation_manager
        group = self._terms.group
        sizes = dict(
            zip(manager.active_terms[group], manager.group_obs_term_dim[group], strict=True)
        )

        widths = {}
        for key, names in self._terms.observations.items():
            for name in names:
                if len(sizes[name]) != 1:
                    raise ConfigError(
                        f"observation term '{name}' of {task_id} has shape {sizes[name]}",
                        remedy="take terms that are vectors",
                    )
            widths[key] = sum(sizes[name][0] for name in names)
        return widths

    def _split(self, obs: Any) -> Obs:
        group = obs[self._terms.group]
        return {
            key: torch.cat([group[name] for name in names], dim=1).float()
            for key, names in self._terms.observations.items()
        }

    @contextlib.contextmanager
    def _own_generator(self) -> Iterator[None]:
        """Let Isaac Lab draw from this environment's own generator instead of the global one."""
        if self._generator is None:
            raise reset_error()

        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._generator)
            yield
            self._generator = torch.get_rng_state()
