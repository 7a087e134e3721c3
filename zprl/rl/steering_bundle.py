"""Steering bundles: a learned residual or generator, and the digest of its base policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zprl import durable, plugins
from zprl.config import PolicyGradient, Rl
from zprl.errors import ConfigError, DataError, ZprlError
from zprl.models.bundle import load_policy, read_bundle, write_bundle
from zprl.models.policy import FlowPolicy
from zprl.rl.networks import EnsembleMLP, parameters
from zprl.rl.sac import Actor, make_critics
from zprl.rl.steered_policy import SteeredPolicy
from zprl.rl.steering_spaces import SteeringSpace

KIND = "steering"
GENERATOR = "generator"
"""In place of a space: the generator itself was changed."""


def save_steering(
    path: Path | str,
    actor: Actor,
    scale: Tensor,
    *,
    space: SteeringSpace,
    config: Rl,
    base_digest: str,
    provenance: Mapping[str, Any],
    critics: EnsembleMLP | None = None,
) -> None:
    """Write a steering bundle.

    Args:
        path: The folder; replaced if it exists.
        actor: The learned residual.
        scale: (R,) residual scale.
        space: Where the residual enters.
        config: The section it was learned with.
        base_digest: Digest of the base policy's bundle; a steering bundle acts on no other.
        provenance: JSON facts that do not change from run to run.
        critics: Judges of the candidates where ``config.steering.best_of`` is more than one.
    """
    if (critics is None) != (config.steering.best_of == 1):
        raise ConfigError(
            "critics belong to best_of > 1, and to nothing else",
            remedy="pass them with the configuration they learned with",
        )
    document = {
        "space": space.name,
        "state_dim": actor.net.sizes[0],
        "config": config.model_dump(mode="json"),
        "base_digest": base_digest,
        "provenance": dict(provenance),
    }
    choosing = {} if critics is None else {"critics": critics.flat}
    write_bundle(path, KIND, document, {"actor": actor.net.flat, "scale": scale, **choosing})


def save_generator(
    path: Path | str,
    tuned: FlowPolicy,
    *,
    config: PolicyGradient,
    base_digest: str,
    provenance: Mapping[str, Any],
) -> None:
    """Write a policy's changed generator as a steering bundle; everything else is the base's."""
    document = {
        "space": GENERATOR,
        "config": config.model_dump(mode="json"),
        "base_digest": base_digest,
        "provenance": dict(provenance),
    }
    write_bundle(path, KIND, document, tuned.velocity_net.state_dict())


def load_steered(
    path: Path | str, base_path: Path | str, device: str = "cpu"
) -> SteeredPolicy | FlowPolicy:
    """Read a steering bundle and the base policy it belongs to; both kinds of result ``act`` alike.

    Raises:
        DataError: when either is damaged, or the base is not the one the residual was learned on.
    """
    document, tensors = read_bundle(path, KIND)
    if document.get("base_digest") != durable.digest(base_path):
        raise DataError(
            f"{path} was learned on another base policy than {base_path}",
            remedy="give its own base bundle, or run finetune_sim again",
        )
    try:
        if document["space"] == GENERATOR:
            return _tuned(base_path, tensors, device)
        return _steered(base_path, document, tensors, device)
    except ZprlError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} does not make a steering policy: {error}",
            remedy="make the bundle again (dvc repro finetune_sim)",
        ) from error


def load_residual(
    path: Path | str, base_path: Path | str, space: str, device: str = "cpu"
) -> SteeredPolicy:
    """Read a steering bundle that must hold a residual in one space.

    Raises:
        ConfigError: it holds one in another space, or a changed generator.
        DataError: see :func:`load_steered`.
    """
    steered = load_steered(path, base_path, device)
    if not isinstance(steered, SteeredPolicy) or steered.space.name != space:
        raise ConfigError(
            f"{path} holds no residual on the {space}",
            remedy=f"set finetune_sim.steering.space: {space}",
        )
    return steered


def _tuned(base_path: Path | str, tensors: Mapping[str, Tensor], device: str) -> FlowPolicy:
    """Return the base policy with the bundle's generator."""
    policy = load_policy(base_path, device=device)
    policy.velocity_net.load_state_dict({name: value.to(device) for name, value in tensors.items()})
    return policy


def _steered(
    base_path: Path | str,
    document: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    device: str,
) -> SteeredPolicy:
    """Return the base policy with the bundle's residual."""
    config = Rl.model_validate(document["config"])
    policy = load_policy(base_path, device=device, noise_scale=config.steering.noise_scale)
    space = plugins.load("spaces", str(document["space"]))()
    scale, state_dim = tensors["scale"].to(device), int(document["state_dim"])
    if scale.dim() != 1 or state_dim != policy.spec.policy.embedding_dim + len(scale):
        raise ValueError(
            f"state of width {state_dim} and {len(scale)} residual dimensions "
            "do not fit the base policy"
        )

    _fits(tensors["actor"], parameters((state_dim, *config.networks.hidden, 2 * len(scale))))
    actor = Actor(state_dim, len(scale), config, None, device)
    actor.net.flat.copy_(tensors["actor"])

    critics = None
    if config.steering.best_of > 1:
        width = state_dim + len(scale)
        _fits(
            tensors["critics"],
            parameters((width, *config.networks.hidden, 1), config.critics.count),
        )
        critics = make_critics(config, width, None, device)
        critics.flat.copy_(tensors["critics"])
    return SteeredPolicy(policy, space, actor, scale, critics, config.steering.best_of)


def _fits(weights: Tensor, count: int) -> None:
    """Refuse weights of another number before a network of that size is made.

    Copying would repeat a single one.
    """
    if weights.shape != (count,):
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} where its configuration asks for {count}"
        )
