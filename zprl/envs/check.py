"""The public checker: run it on your own task before you train on it.

``check_env(factory)`` plays a few short scripts and raises :class:`EnvRuleError` with the name of
the first rule that does not hold. A task that passes can be trained, evaluated and resumed exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from zprl.errors import DataError, ZprlError

if TYPE_CHECKING:
    from zprl.envs.base import Obs, StepResult, VectorEnv

    Factory = Callable[[], VectorEnv]

RULES = {
    "spec": "spec names positive sizes, and its tensors' device",
    "obs-keys": "observations have exactly the keys of spec.obs_dims, in order",
    "obs-shape": "each observation is (num_envs, width)",
    "dtype": "observations and rewards are float32, flags bool",
    "finite": "observations and rewards are finite",
    "seed-repeats": "equal seeds on fresh simulators give bit-identical trajectories",
    "seed-differs": "different seeds give different start states",
    "flags-exclusive": "terminated and truncated are never both true",
    "success-is-end": "success is reported only where an episode ends",
    "time-out": "an episode that the task does not end is truncated at exactly spec.episode_steps",
    "final-obs": "final_obs is the ended episode's last frame where done, and equals obs elsewhere",
    "first-obs": "after an end, obs is the next episode's first frame, not the ended one's last",
    "own-tensors": "returned tensors are not overwritten by later steps",
    "hold-shape": "hold() returns (num_envs, action_dim), finite",
    "hold-holds": "holding keeps robot0_eef_pos within 2 cm of where the episode began",
    "refuses-shape": "an action of wrong shape is refused with a ConfigError or ValueError",
    "refuses-nan": "an action with NaN is refused with a ZprlError or ValueError",
    "close": "close() may be called twice",
}
"""Rule name to its sentence."""

EEF_KEY = "robot0_eef_pos"
HOLD_TOLERANCE = 0.02
"""Farthest drift of the tool while holding [m] (ours)."""


class EnvRuleError(DataError):
    """Error of an environment that breaks a rule; ``rule`` is its name in :data:`RULES`."""

    def __init__(self, rule: str, detail: str) -> None:
        self.rule = rule
        super().__init__(f"rule '{rule}' is broken: {detail}", remedy=RULES[rule])


def check_env(factory: Factory, *, seed: int = 0, jitter: float = 0.01) -> None:
    """Check every rule of :data:`RULES`; one simulator is open at a time.

    Args:
        factory: Returns a fresh environment at each call; keep it small (2 to 4 environments, short
            episodes).
        seed: Seed of the scripts.
        jitter: Standard deviation of the noise that the script adds to ``hold()`` in the first
            three action dimensions.

    Raises:
        EnvRuleError: with the name of the first rule that does not hold.
    """
    with factory() as env:
        _check_episode(env, seed)

    first = _play(factory, seed, jitter)
    again = _play(factory, seed, jitter)
    _require(len(first) == len(again), "seed-repeats", "the scripts had different lengths")
    for number, (one, two) in enumerate(zip(first, again, strict=True)):
        _require(
            torch.equal(one, two),
            "seed-repeats",
            f"the trajectories differ from recorded tensor {number} on",
        )

    with factory() as env:
        _check_refusals(env, seed)
        start, other = first[0], torch.cat(_states(env.reset(seed + 1)), 1)
        _require(
            not torch.equal(start, other),
            "seed-differs",
            f"seeds {seed} and {seed + 1} start alike",
        )

    try:
        env.close()
    except Exception as error:  # whatever a foreign environment raises is the finding
        raise EnvRuleError("close", f"the second call raised {error!r}") from error


def _states(obs: Obs) -> list[torch.Tensor]:
    """Return the observations (N, d), without the images."""
    return [value for value in obs.values() if value.dim() == 2]


def _require(holds: bool, rule: str, detail: str) -> None:
    if not holds:
        raise EnvRuleError(rule, detail)


def _check_obs(env: VectorEnv, obs: Obs, what: str) -> None:
    spec = env.spec
    keys = [*spec.obs_dims, *spec.image_sizes]
    shapes: dict[str, tuple[int, ...]] = {
        key: (spec.num_envs, width) for key, width in spec.obs_dims.items()
    }
    shapes |= {key: (spec.num_envs, *size, 3) for key, size in spec.image_sizes.items()}
    _require(list(obs) == keys, "obs-keys", f"{what} has {list(obs)}, spec {keys}")

    for key, wanted in shapes.items():
        value = obs[key]
        shape = tuple(value.shape)
        _require(shape == wanted, "obs-shape", f"{what} '{key}' is {shape}, expected {wanted}")
        kind = torch.uint8 if key in spec.image_sizes else torch.float32
        _require(value.dtype == kind, "dtype", f"{what} '{key}' is {value.dtype}")

        if key in spec.image_sizes:
            pixels = value.flatten(1)
            shows = bool((pixels.amax(1) > pixels.amin(1)).all())
            _require(shows, "finite", f"{what} '{key}' shows nothing")
        else:
            _require(bool(value.isfinite().all()), "finite", f"{what} '{key}' is not finite")


def _check_result(env: VectorEnv, result: StepResult) -> None:
    _check_obs(env, result.obs, "obs")
    _check_obs(env, result.final_obs, "final_obs")

    wanted = (env.spec.num_envs,)
    for name in ("reward", "terminated", "truncated", "success"):
        value = getattr(result, name)
        _require(
            tuple(value.shape) == wanted,
            "obs-shape",
            f"{name} is {tuple(value.shape)}, expected {wanted}",
        )
        kind = torch.float32 if name == "reward" else torch.bool
        _require(value.dtype == kind, "dtype", f"{name} is {value.dtype}, expected {kind}")

    _require(bool(result.reward.isfinite().all()), "finite", "reward is not finite")
    _require(
        not bool((result.terminated & result.truncated).any()),
        "flags-exclusive",
        "an episode is terminated and truncated at once",
    )
    done = result.terminated | result.truncated
    _require(
        not bool((result.success & ~done).any()),
        "success-is-end",
        "success while the episode goes on",
    )

    for key in result.obs:
        same = (result.obs[key] == result.final_obs[key]).flatten(1).all(1) | done
        _require(bool(same.all()), "final-obs", f"'{key}' differs from obs where no episode ended")


def _check_spec(env: VectorEnv) -> None:
    spec = env.spec
    sizes = (
        spec.num_envs,
        spec.action_dim,
        spec.episode_steps,
        spec.control_hz,
        *spec.obs_dims.values(),
    )
    _require(bool(spec.obs_dims) and all(size > 0 for size in sizes), "spec", f"sizes are {sizes}")


def _check_episode(env: VectorEnv, seed: int) -> None:
    """Hold through one whole episode and the first steps of the next."""
    _check_spec(env)
    spec = env.spec
    obs = env.reset(seed)
    _check_obs(env, obs, "reset")
    _require(
        all(v.device.type == torch.device(spec.device).type for v in obs.values()),
        "spec",
        f"tensors are not on {spec.device}",
    )

    start = {key: value.clone() for key, value in obs.items()}
    kept: list[tuple[torch.Tensor, torch.Tensor]] = [(obs[key], start[key]) for key in obs]
    hold = _checked_hold(env)

    age = torch.zeros(spec.num_envs, dtype=torch.long, device=hold.device)
    previous, moved = start, 0.0
    for _ in range(spec.episode_steps + 2):
        result = env.step(hold)
        age += 1
        _check_result(env, result)
        _check_age(env, result, age)
        if EEF_KEY in start:
            drift = (result.final_obs[EEF_KEY] - start[EEF_KEY]).norm(dim=1).max()
            moved = max(moved, float(drift))

        done = result.terminated | result.truncated
        if bool(done.any()):
            _check_boundary(result, previous, done)
            start = {
                key: torch.where(done[:, None], result.obs[key], start[key])
                for key in spec.obs_dims
            }
            hold = env.hold()
        age[done] = 0

        given = (*result.obs.values(), *result.final_obs.values(), result.reward, done)
        kept += [(value, value.clone()) for value in given]
        previous = result.obs

    _require(
        all(torch.equal(now, then) for now, then in kept),
        "own-tensors",
        "a tensor handed out earlier has changed",
    )
    _require(moved <= HOLD_TOLERANCE, "hold-holds", f"the tool moved {100 * moved:.1f} cm")


def _checked_hold(env: VectorEnv) -> torch.Tensor:
    hold = env.hold()
    wanted = (env.spec.num_envs, env.spec.action_dim)
    _require(
        tuple(hold.shape) == wanted and bool(hold.isfinite().all()),
        "hold-shape",
        f"got {tuple(hold.shape)}, expected {wanted}",
    )
    return hold


def _check_age(env: VectorEnv, result: StepResult, age: torch.Tensor) -> None:
    """Refuse an episode that is truncated at another age (N,) than the spec's, or not at all."""
    limit = env.spec.episode_steps
    late = ~(result.terminated | result.truncated) & (age >= limit)
    early = result.truncated & (age != limit)
    _require(
        not bool((late | early).any()),
        "time-out",
        f"ages {age[late | early].tolist()}, episode_steps {limit}",
    )


def _check_boundary(result: StepResult, previous: Obs, done: torch.Tensor) -> None:
    """Check that the last frame continues the ended episode and is not the next one's first."""
    last, first, before = (
        torch.cat([v[done] for v in _states(obs)], 1)
        for obs in (result.final_obs, result.obs, previous)
    )
    same = (last == first).all(1)

    # Which of the two is wrong: a last frame far from the frame before it is really the next
    # episode's first.
    near = (last - before).norm(dim=1)
    _require(
        not bool(same.any()) or bool((near[same] < 0.05).all()),
        "final-obs",
        "final_obs is the next episode's first frame",
    )
    _require(not bool(same.any()), "first-obs", "obs is the ended episode's last frame")


def _play(factory: Factory, seed: int, jitter: float) -> list[torch.Tensor]:
    """Return all tensors of noisy holding across an episode's end, on a fresh simulator."""
    with factory() as env:
        tape = [torch.cat(_states(env.reset(seed)), 1).clone()]
        hold = env.hold()

        for step in range(env.spec.episode_steps + 5):
            draw = torch.Generator().manual_seed(step)
            noise = torch.randn(hold.shape[0], 3, generator=draw).to(hold.device)
            action = hold.clone()
            action[:, :3] += jitter * noise[:, : action.shape[1]]

            result = env.step(action)
            observed = (*result.obs.values(), *result.final_obs.values())
            tape += [value.clone() for value in (*observed, result.reward, result.terminated)]

    return tape


def _check_refusals(env: VectorEnv, seed: int) -> None:
    env.reset(seed)
    good = env.hold()
    bad_value = good.clone()
    bad_value[0, 0] = float("nan")

    for rule, action in (("refuses-shape", good[:, :-1]), ("refuses-nan", bad_value)):
        try:
            env.step(action)
        except (ZprlError, ValueError):
            continue
        except Exception as error:  # any other exception is unclear to a user, which is the finding
            raise EnvRuleError(rule, f"it raised {error!r}") from error
        raise EnvRuleError(rule, "the step was executed")
