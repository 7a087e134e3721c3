"""The functions that Isaac Lab's managers call: observation, success and start positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zprl import seeding
from zprl.envs import rotation
from zprl.envs.isaac.franka import TOOL_OFFSET
from zprl.envs.isaac.randomisation import DRAWS

if TYPE_CHECKING:
    from zprl.envs.isaac.cameras import Cameras
    from zprl.envs.isaac.randomisation import Randomiser
    from zprl.envs.isaac.scenario import Scenario


class ManagerTerms:
    """Terms of one world; Isaac Lab's environment comes with each call.

    Args:
        scenario: The task.
        randomiser: Changes the world at the start of each episode.
        cameras: Cameras of the world.
    """

    def __init__(self, scenario: Scenario, randomiser: Randomiser, cameras: Cameras) -> None:
        self.scenario = scenario
        self.randomiser = randomiser
        self.cameras = cameras

        self._hand = -1
        self.restart(0)

    def restart(self, seed: int) -> None:
        """Count episodes from the first again."""
        self.seed = seed
        self.randomiser.restart(seed)
        self.episode: torch.Tensor | None = None
        self.tables: dict[tuple[str, int], torch.Tensor] = {}

    def tool(self, env: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tool's position (N, 3) in the environment's frame and quaternion (N, 4)."""
        data = env.scene["robot"].data
        if self._hand < 0:
            self._hand = env.scene["robot"].body_names.index("panda_hand")

        quat = data.body_quat_w.torch[:, self._hand]
        offset = quat.new_tensor((0.0, 0.0, TOOL_OFFSET)).expand(len(quat), 3)
        position = data.body_pos_w.torch[:, self._hand] + rotation.rotate(quat, offset)
        return position - env.scene.env_origins, quat

    def observe(self, env: Any) -> torch.Tensor:
        """Return all observation keys side by side (N, sum of widths), a new tensor."""
        position, quat = self.tool(env)
        fingers = env.scene["robot"].data.joint_pos.torch[:, -2:]
        # Raw gripper actions are zeroed by a reset, and Isaac Lab reads zero as "open".
        raw = env.action_manager.get_term("gripper_action").raw_actions
        command = torch.where(raw < 0, -1.0, 1.0)
        own = self.scenario.observe(env, position)
        return torch.cat((position, quat, fingers, command, own), dim=1)

    def success(self, env: Any) -> torch.Tensor:
        """Return whether each task is done, (N,) bool."""
        return self.scenario.success(env, *self.tool(env))

    def place(self, env: Any, env_ids: Any) -> None:
        """Put things where the next episode of each given environment begins."""
        if self.episode is None:
            self.episode = torch.zeros(env.num_envs, dtype=torch.long)

        chosen = env_ids.cpu() if isinstance(env_ids, torch.Tensor) else env_ids
        ids = torch.arange(env.num_envs)[chosen]
        number = self.episode[ids]
        self.episode[ids] += 1

        scenario = self.scenario
        draws = self._draws(scenario.start_purpose, scenario.start_draws, ids, number, env.num_envs)
        scenario.place(env, env_ids, ids, draws)
        self.randomiser.begin(env, ids, self._draws("randomise", DRAWS, ids, number, env.num_envs))

    def _draws(
        self, purpose: str, width: int, ids: torch.Tensor, number: torch.Tensor, num_envs: int
    ) -> torch.Tensor:
        """Return uniform numbers (k, width) for episode ``number`` (k,) of environments ``ids``."""
        draws = torch.empty(len(ids), width)
        for episode in sorted(set(number.tolist())):
            key = (purpose, episode)
            if key not in self.tables:
                generator = seeding.torch_generator(self.seed, *key)
                self.tables[key] = torch.rand(num_envs, width, generator=generator)
            rows = number == episode
            draws[rows] = self.tables[key][ids[rows]]
        return draws
