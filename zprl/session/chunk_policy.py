"""The actor's decision: observations to a chunk, and everything about it that learning needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from zprl import plugins, seeding
from zprl.config import Real, Rl
from zprl.models.bundle import load_policy, read_bundle
from zprl.rl import steering_bundle
from zprl.rl.sac import Actor
from zprl.rl.session_learner import BASE, STEERING, agent_config, weights_digest
from zprl.rl.steering import ChooseResidual, DecisionInputs, decision_inputs, steer
from zprl.session.messages import SIM_WEIGHTS_VERSION, ChunkRequest

WARM_UP = ChunkRequest(
    number=0,
    start_number=0,
    evaluation=False,
    explore=True,
    weights=None,
    decision=0,
    step=0,
    stamp=0.0,
    final=False,
)
"""A request whose answer is dropped."""


class ChunkPolicy:
    """The frozen policy with the newest weights of the residual.

    Args:
        folder: The session's ``start`` folder.
        config: The session's ``finetune_real`` section.
        seed: The session's seed.
    """

    def __init__(self, folder: Path | str, config: Real, *, seed: int) -> None:
        folder = Path(folder)
        document, tensors = read_bundle(folder / STEERING, steering_bundle.KIND)
        rl = Rl.model_validate(document["config"])
        self.policy = load_policy(folder / BASE, noise_scale=rl.steering.noise_scale)
        self.space = plugins.load("spaces", str(document["space"]))()
        self.config = config
        self.seed = seed
        self.sample_latent = rl.exploration.sample_latent

        self.scale = tensors["scale"]
        state_dim = self.policy.spec.policy.embedding_dim + len(self.scale)
        self.actor = Actor(state_dim, len(self.scale), agent_config(rl, config), None)
        self.simulated = tensors["actor"]
        self.version: int | None = None
        self.digest = ""
        self.use(SIM_WEIGHTS_VERSION, self.simulated)

    def use(self, version: int, weights: torch.Tensor) -> None:
        """Swap the residual's weights; called between chunks only."""
        if version != self.version:
            self.actor.net.flat.copy_(weights)
            self.version, self.digest = version, weights_digest(weights)

    def warm_up(self) -> None:
        """Decide once and drop the result.

        The first pass through the networks is many times slower than the next.
        """
        steps = self.policy.spec.policy.obs_steps
        obs = {
            key: np.zeros((steps, width), np.float32)
            for key, width in self.policy.spec.obs_dims.items()
        }
        obs |= {
            image.key: np.zeros((steps, *image.size, 3), np.uint8)
            for image in self.policy.spec.images
        }
        self.choose(obs, WARM_UP)

    def _generator(self, purpose: str, request: ChunkRequest) -> torch.Generator:
        """Return a generator for a decision; evaluations before and after draw the same numbers."""
        if request.evaluation:
            return seeding.torch_generator(
                self.config.evaluation_seed, purpose, request.start_number, request.decision
            )
        return seeding.torch_generator(self.seed, purpose, request.number, request.decision)

    @torch.inference_mode()
    def choose(self, obs: Mapping[str, np.ndarray], request: ChunkRequest) -> dict[str, np.ndarray]:
        """Make a decision.

        Args:
            obs: Policy key to (O, d), the newest last; images (O, H, W, 3) uint8.
            request: Which decision this is.

        Returns:
            The arrays of a ``chunk`` message: ``targets`` (C, A), ``embedding`` (D,), ``anchor``,
                ``residual``, ``point`` (R,), and for a space with a posterior its ``mean`` and
                ``log_std`` (Z,).
        """
        sample = None
        if request.explore and self.sample_latent:
            generator = self._generator("session-latent", request)
            sample = torch.randn(1, self.policy.spec.vib.latent_dim, generator=generator)

        decision = steer(
            self.policy,
            self.space,
            self.scale,
            self._decision_inputs(obs, request, sample),
            self._explore(request) if request.explore else self._exploit,
        )
        arrays = {
            "targets": decision.chunk,
            "embedding": decision.embedding,
            "anchor": decision.anchor,
            "residual": decision.residual,
            "point": decision.point,
        }
        posterior = self.space.posterior(self.policy, decision.embedding)
        if posterior is not None:
            arrays["mean"], arrays["log_std"] = posterior
        return {name: value[0].numpy() for name, value in arrays.items()}

    @torch.inference_mode()
    def embed_last(
        self, obs: Mapping[str, np.ndarray], request: ChunkRequest
    ) -> dict[str, np.ndarray]:
        """Return embedding (D,) and anchor (R,) where an episode ended."""
        end = self._decision_inputs(obs, request)
        return {"final_embedding": end.embedding[0].numpy(), "final_anchor": end.anchor[0].numpy()}

    def _decision_inputs(
        self,
        obs: Mapping[str, np.ndarray],
        request: ChunkRequest,
        sample: torch.Tensor | None = None,
    ) -> DecisionInputs:
        keys = self.policy.spec.obs_keys
        embedding = self.policy.embed({key: torch.tensor(obs[key])[None] for key in keys})
        noise = self.policy.draw_noise(1, self._generator("session-noise", request))
        return decision_inputs(self.policy, self.space, embedding, noise, latent_sample=sample)

    def _explore(self, request: ChunkRequest) -> ChooseResidual:
        generator = self._generator("session-exploration", request)
        draw = torch.randn(1, len(self.scale), generator=generator)
        return lambda inputs: self.actor.sample(inputs.state, draw)[0].residual

    def _exploit(self, inputs: DecisionInputs) -> torch.Tensor:
        return self.actor.mean(inputs.state)
