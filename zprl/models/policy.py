"""The policy, from observation to action chunk.

observation -> embedding e -> latent z -> decoded embedding e~ -> flow -> action chunk.  The base
path (encoder and velocity network) is an ordinary flow-matching policy; the bottleneck sits between
the two and only swaps the condition.  Training touches each part as :mod:`zprl.offline.losses`
says; everywhere else the policy is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from torch import Tensor, nn

from zprl import config, seeding
from zprl.data.normalizer import Normalizer
from zprl.errors import ConfigError, DataError
from zprl.models.flow_matching import euler, time_embedding, time_grid
from zprl.models.image_encoder import ImageObsEncoder, ImageSpec, embedding_dim
from zprl.models.obs_encoder import ObsEncoder
from zprl.models.velocity_mlp import VelocityMlp
from zprl.models.velocity_unet import VelocityUnet
from zprl.models.vib import Vib
from zprl.strict_model import StrictModel

if TYPE_CHECKING:
    from zprl.data.store import EpisodeStore

M = TypeVar("M", bound=nn.Module)


class PolicySpec(StrictModel):
    """Everything that decides a policy's shapes and how it samples; stored in its bundle."""

    obs_dims: dict[str, config.Width] = Field(
        min_length=1,
        max_length=1000,
        description="Width of each observation key, in the order the encoder concatenates.",
    )
    action_dim: config.Width = Field(description="Width A of an action in physical units.")
    policy: config.Policy
    vib: config.VibConfig
    images: tuple[ImageSpec, ...] = Field(
        (), max_length=16, description="Cameras, in order; none: a policy on states alone."
    )

    @classmethod
    def of(cls, store: EpisodeStore, params: config.Params) -> PolicySpec:
        """Return the spec of a policy for stored demonstrations.

        With images, the embedding is as wide as their encoder makes it.
        """
        images = tuple(
            ImageSpec(
                key=key,
                size=size,
                crop=tuple(max(1, round(params.images.crop * side)) for side in size),
                **params.images.model_dump(exclude={"crop"}),
            )
            for key, size in store.image_sizes.items()
        )

        policy = params.policy
        if images:
            policy = policy.model_copy(
                update={"embedding_dim": embedding_dim(store.obs_dims, images, policy.obs_steps)}
            )
        return cls(
            obs_dims=store.obs_dims,
            action_dim=store.action_dim,
            policy=policy,
            vib=params.vib,
            images=images,
        )

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """All keys that the policy reads."""
        return (*self.obs_dims, *(image.key for image in self.images))

    @model_validator(mode="after")
    def _fits(self) -> PolicySpec:
        if len(set(self.obs_keys)) != len(self.obs_keys):
            raise ValueError(f"an observation key stands twice in {self.obs_keys}")
        if self.images:
            width = embedding_dim(self.obs_dims, self.images, self.policy.obs_steps)
            if self.policy.embedding_dim != width:
                raise ValueError(
                    f"embedding_dim is {self.policy.embedding_dim}, "
                    f"but images and states together are {width} wide"
                )
        return self

    @model_serializer(mode="wrap")
    def _omit_empty_images(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out ``images`` where there are none: bundles of policies on states lack the key."""
        fields: dict[str, Any] = handler(self)
        if not self.images:
            del fields["images"]
        return fields


class FlowPolicy(nn.Module):
    """A chunked flow-matching policy with a bottleneck.

    Shapes: B batch, T horizon, C chunk_steps, O obs_steps, A action, F varying action features, D
    embedding, Z latent.

    Args:
        spec: Shapes and sampler.
        normalizer: Fitted on the demonstrations; its number of varying action dimensions is F.
        seed: Seed of the initial weights.  Each part draws from its own, so one part's size never
            changes another's start.

    Raises:
        ConfigError: sizes of the network that do not fit together.
        DataError: a normaliser for other observations or actions.
    """

    def __init__(self, spec: PolicySpec, normalizer: Normalizer, *, seed: int = 0) -> None:
        super().__init__()
        known = {key: normalizer.obs_dims.get(key) for key in spec.obs_dims}
        if known != spec.obs_dims or normalizer.action_dim != spec.action_dim:
            raise DataError(
                f"the normaliser was fitted on observations {normalizer.obs_dims} "
                f"and {normalizer.action_dim} action dimensions, "
                f"the policy wants {spec.obs_dims} and {spec.action_dim}",
                remedy="run the ingest stage again (dvc repro ingest)",
            )

        self.spec = spec
        self.normalizer = normalizer
        p = spec.policy
        self.num_features = int(normalizer.num_features)
        self.noise_scale = 1.0
        """Standard deviation of the noise from which sequences are made; training knows 1, and less
        means less chance."""

        # The parts, each with initial weights of its own.
        self.encoder = _seeded(seed, "init-encoder", lambda: _encoder(spec))
        self.velocity_net = _seeded(
            seed, "init-velocity", lambda: _velocity_net(p, self.num_features)
        )
        self.vib: Vib | None = None
        if spec.vib.enabled:
            self.vib = _seeded(
                seed,
                "init-vib",
                lambda: Vib(p.embedding_dim, spec.vib.latent_dim, hidden=spec.vib.hidden),
            )

        self.grid = time_grid(p.time_grid, p.flow_steps)
        # Features of the sampler's fixed times (flow_steps, E): computed once, not at every
        # decision.
        self.grid_features: Tensor
        self.register_buffer(
            "grid_features",
            time_embedding(torch.tensor(self.grid[:-1]), p.time_embedding_dim),
            persistent=False,
        )

    # -- the parts, in the order in which data flows through them ----------------------------------

    def embed(self, obs: Mapping[str, Tensor], augment: torch.Generator | None = None) -> Tensor:
        """Return the embedding (B, D): all that the parts behind it, and RL, get of an observation.

        Args:
            obs: {key: (B, O, d)} in physical units; images (B, O, H, W, 3) uint8.
            augment: Source of random crops of images, in training and while collecting (official
                code); ``None`` crops the middle.
        """
        seen = self.normalizer.normalize_obs({key: obs[key] for key in self.spec.obs_dims})
        images = {image.key: obs[image.key] for image in self.spec.images}
        embedding: Tensor = self.encoder(seen | images, augment)
        return embedding

    def posterior(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation (B, Z) of the latent for an embedding (B, D)."""
        return self._bottleneck().posterior(embedding)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the decoded embedding (B, D) of a latent (B, Z)."""
        return self._bottleneck().decode(latent)

    def velocity(self, noisy: Tensor, flow_time: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity (B, T, F).

        Args:
            noisy: Noisy sequence (B, T, F).
            flow_time: (B,).
            condition: (B, D).
        """
        times = time_embedding(flow_time, self.spec.policy.time_embedding_dim)
        velocity: Tensor = self.velocity_net(noisy, times, condition)
        return velocity

    def generate(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Return the normalised action sequence (B, T, F), by Euler steps from scaled noise.

        Args:
            condition: (B, D).
            noise: Standard normal (B, T, F).
        """
        times = self.grid_features[:, None].expand(-1, len(noise), -1)
        return euler(
            lambda point, i: self.velocity_net(point, times[i], condition),
            self.noise_scale * noise,
            self.grid,
        )

    @property
    def executed_slice(self) -> slice:
        """The executed part of the horizon: C steps from that of the newest observation on.

        Diffusion Policy has the same.
        """
        start = self.spec.policy.obs_steps - 1
        return slice(start, start + self.spec.policy.chunk_steps)

    def executed(self, sequence: Tensor) -> Tensor:
        """Return the executed chunk (B, C, A), in physical units, of a sequence (B, T, F)."""
        return self.normalizer.denormalize_actions(sequence[:, self.executed_slice])

    def act(self, obs: Mapping[str, Tensor], noise: Tensor, *, bottleneck: bool = True) -> Tensor:
        """Return the base policy's chunk (B, C, A).

        Args:
            obs: Observations {key: (B, O, d)} in physical units.
            noise: Flow noise (B, T, F), standard normal; the only source of chance.
            bottleneck: True conditions on the decoded posterior mean (the policy that RL steers;
                official code evaluates this one), False on the embedding itself.
        """
        condition = self.embed(obs)
        if bottleneck:
            condition = self.decode(self.posterior(condition)[0])
        return self.executed(self.generate(condition, noise))

    def draw_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Draw flow noise (rows, T, F) for :meth:`act` and :meth:`generate`."""
        return torch.randn(
            rows,
            self.spec.policy.horizon,
            self.num_features,
            generator=generator,
            device=generator.device,
        )

    def freeze(self) -> FlowPolicy:
        """Make this policy immutable for optimisers and return it."""
        return self.eval().requires_grad_(requires_grad=False)

    def _bottleneck(self) -> Vib:
        if self.vib is None:
            raise ConfigError(
                "this policy was trained without a bottleneck",
                remedy="set vib.enabled: true and pretrain again, or use bottleneck=False",
            )
        return self.vib


def _encoder(spec: PolicySpec) -> nn.Module:
    p = spec.policy
    if spec.images:
        return ImageObsEncoder(spec.obs_dims, spec.images, obs_steps=p.obs_steps)
    return ObsEncoder(
        spec.obs_dims, obs_steps=p.obs_steps, hidden=p.encoder_hidden, embedding_dim=p.embedding_dim
    )


def _velocity_net(p: config.Policy, num_features: int) -> nn.Module:
    sizes = {
        "horizon": p.horizon,
        "time_dim": p.time_embedding_dim,
        "condition_dim": p.embedding_dim,
    }
    if p.velocity_net == "unet":
        return VelocityUnet(
            num_features,
            **sizes,
            channels=p.unet_channels,
            kernel=p.unet_kernel,
            groups=p.unet_groups,
        )
    return VelocityMlp(num_features, **sizes, hidden=p.mlp_hidden)


def _seeded(seed: int, purpose: str, build: Callable[[], M]) -> M:
    """Build a module with initial weights that depend on (seed, purpose) alone.

    Torch's own generator stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive(seed, purpose))
        return build()
