"""One world of a benchmark in numpy, and N of them as a :class:`zprl.envs.base.VectorEnv`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

import numpy as np
import torch

from zprl import seeding
from zprl.envs.base import Obs, StepResult, TaskSpec, check_action
from zprl.envs.usage_errors import closed_error, reset_error

if TYPE_CHECKING:
    from mujoco import MjData, MjModel

    from zprl.config import Task
    from zprl.envs.mujoco.camera_images import CameraRenderer

    Frame = Mapping[str, np.ndarray]


class MujocoWorld(Protocol):
    """One copy of a task.  It knows neither episodes' limits nor tensors."""

    obs_dims: Mapping[str, int]
    action_dim: int
    control_hz: float

    def reset(self, seed: int) -> Frame:
        """Start an episode, a pure function of ``seed``; return key to (d,)."""
        ...

    def step(self, action: np.ndarray) -> tuple[Frame, bool]:
        """Execute (A,) for one control step; return the frame after it and whether it succeeds."""
        ...

    def hold(self) -> np.ndarray:
        """Return the action (A,) that leaves the robot where it is, gripper open."""
        ...

    def target(self) -> np.ndarray:
        """Return the tool position (3,) that the last action commanded [m]."""
        ...

    def state(self) -> np.ndarray:
        """Return everything that the next steps depend on, float64 of a fixed length."""
        ...

    def restore(self, state: np.ndarray) -> None:
        """Go back to :meth:`state`; the steps after it repeat bit for bit."""
        ...

    def close(self) -> None:
        """Free the simulator; calling it twice is harmless."""
        ...

    def physics(self) -> tuple[MjModel, MjData]:
        """Return MuJoCo's model and data, to render them."""
        ...


W = TypeVar("W", bound=MujocoWorld)


class MujocoWorlds(Generic[W]):
    """N worlds of one task in this process, each with its own simulator.

    Episode e of world n starts from the seed ``derive(seed, "start", n, e)``, whatever the other
    worlds do; the first world's number is 0 unless :meth:`count_from` says otherwise.

    Args:
        task: The section ``task`` of the parameters.
        make_world: Makes one world.
        num_envs: N.
        device: Device of the tensors; the simulators run on the CPU.
    """

    def __init__(
        self,
        task: Task,
        make_world: Callable[[], W],
        *,
        num_envs: int,
        device: str = "cpu",
    ) -> None:
        self.worlds = [make_world() for _ in range(num_envs)]
        first = self.worlds[0]

        self._renderer: CameraRenderer | None = None
        if task.cameras:
            from zprl.envs.mujoco.camera_images import CameraRenderer

            model, _ = first.physics()
            self._renderer = CameraRenderer(
                model, task.cameras, task.image_size, getattr(first, "hidden_groups", ())
            )
        sizes = {f"{camera}_image": (task.image_size, task.image_size) for camera in task.cameras}
        self.spec = TaskSpec(
            task.name,
            num_envs,
            dict(first.obs_dims),
            first.action_dim,
            first.control_hz,
            task.episode_steps,
            device,
            sizes,
        )

        self._seed = 0
        self._first = 0
        self._age = np.zeros(num_envs, np.int64)
        self._episode = np.zeros(num_envs, np.int64)
        self._awake = np.ones(num_envs, bool)
        self._blank = {key: np.zeros(width) for key, width in first.obs_dims.items()}
        self._started = False

    def reset(self, seed: int) -> Obs:
        """Start every episode anew."""
        self._alive()
        self._seed = seed
        self._started = True
        self._age[:] = 0
        self._episode[:] = 0
        self._awake[:] = True
        return self._tensors([self._start(n) for n in range(len(self.worlds))]) | self._images()

    def count_from(self, first: int) -> None:
        """Number the worlds ``first``, ``first + 1``, ... from the next reset on."""
        self._first = first

    def rest(self, which: torch.Tensor) -> None:
        """Leave the worlds of a mask (N,) as they are until the next reset.

        Steps pass them by, and their observations are zero.
        """
        self._awake[:] = ~which.cpu().numpy()

    def step(self, action: torch.Tensor, *, render: bool = True) -> StepResult:
        """Execute one action (N, A) in every world; see :meth:`zprl.envs.base.VectorEnv.step`."""
        self._alive()
        check_action(self.spec, action)
        if not self._started:
            raise reset_error()

        commands = action.detach().cpu().numpy()
        awake, success = self._awake, np.zeros(len(self.worlds), bool)
        final: list[Frame] = [self._blank] * len(self.worlds)
        for n in np.flatnonzero(awake).tolist():
            final[n], success[n] = self.worlds[n].step(commands[n])
        targets = np.stack([world.target() for world in self.worlds])
        self._age += awake
        truncated = awake & ~success & (self._age >= self.spec.episode_steps)

        # Last images are rendered before the next episodes begin.
        over = np.flatnonzero(success | truncated)
        last_images = self._images(over) if render or len(over) else {}
        first = list(final)
        for n in over.tolist():
            self._age[n] = 0
            self._episode[n] += 1
            first[n] = self._start(n)

        images = self._images(None if awake.all() else np.flatnonzero(awake)) if render else {}
        if render:  # the same moment, but where an episode ended
            going = self._flags(~(success | truncated))
            last_images = {
                key: torch.where(going[:, None, None, None], images[key], value)
                for key, value in last_images.items()
            }

        succeeded = self._flags(success)
        return StepResult(
            obs=self._tensors(first) | images,
            reward=succeeded.float(),
            terminated=succeeded.clone(),
            truncated=self._flags(truncated),
            success=succeeded,
            final_obs=self._tensors(final) | last_images,
            target=torch.from_numpy(targets).float().to(self.spec.device),
        )

    def hold(self) -> torch.Tensor:
        """Return the action (N, A) that leaves every robot where it is."""
        self._alive()
        actions = np.stack([world.hold() for world in self.worlds])
        return torch.from_numpy(actions).float().to(self.spec.device)

    def scene(self) -> dict[str, torch.Tensor]:
        """Return nothing.

        Reports draw poses of bodies; these worlds have images of their own (``task.cameras``).
        """
        return {}

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that the next steps depend on.

        It holds ``world`` (N, S) float64, ``age`` and ``episode`` (N,), ``seed`` and ``first``
        (1,).
        """
        self._alive()
        return {
            "world": torch.from_numpy(np.stack([world.state() for world in self.worlds])),
            "age": torch.from_numpy(self._age.copy()),
            "episode": torch.from_numpy(self._episode.copy()),
            "seed": torch.tensor([self._seed]),
            "first": torch.tensor([self._first]),
        }

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to :meth:`state`, also one of another object of the same task."""
        self._alive()
        for world, part in zip(self.worlds, state["world"].numpy(), strict=True):
            world.restore(part)

        self._age[:] = state["age"].numpy()
        self._episode[:] = state["episode"].numpy()
        self._awake[:] = True
        self._seed = int(state["seed"])
        self._first = int(state["first"])
        self._started = True

    def close(self) -> None:
        """Close every world."""
        worlds, self.worlds = self.worlds, []
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        for world in worlds:
            world.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _alive(self) -> None:
        if not self.worlds:
            raise closed_error()

    def _start(self, n: int) -> Frame:
        episode = int(self._episode[n])
        return self.worlds[n].reset(seeding.derive(self._seed, "start", self._first + n, episode))

    def _tensors(self, frames: list[Frame]) -> Obs:
        return {
            key: torch.from_numpy(np.stack([frame[key] for frame in frames]).astype(np.float32)).to(
                self.spec.device
            )
            for key in self.spec.obs_dims
        }

    def _images(self, which: np.ndarray | None = None) -> Obs:
        """Return images (N, H, W, 3) of now, of the worlds ``which``; black elsewhere."""
        if self._renderer is None:
            return {}

        size, cameras = self._renderer.size, len(self._renderer.names)
        images = np.zeros((cameras, len(self.worlds), size, size, 3), np.uint8)
        for n in range(len(self.worlds)) if which is None else which.tolist():
            images[:, n] = self._renderer.draw(*self.worlds[n].physics())
        return {
            key: torch.from_numpy(value).to(self.spec.device)
            for key, value in zip(self.spec.image_sizes, images, strict=True)
        }

    def _flags(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.copy()).to(self.spec.device)
