"""Conditions and chunks of base and steered policy on the demonstrations' own states.

The paper's finding is that steering mostly changes *which state gets which known action*.  Known is
what the base policy does anywhere on the demonstrations; how far a point departs from that is
measured in the distances the known points have among each other (:func:`departure`, ours).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zprl import seeding
from zprl.data.store import EpisodeStore
from zprl.errors import DataError
from zprl.models.policy import FlowPolicy
from zprl.rl.demo_transitions import embed_frames
from zprl.rl.steered_policy import SteeredPolicy
from zprl.rl.steering import move, normalized_chunk
from zprl.rl.steering_spaces import ActionResidual, EmbeddingResidual, LatentResidual, SteeringSpace

FRAMES = 1500
"""Frames that are drawn from the demonstrations."""
RATIOS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Sizes of a random residual, as RMS over the anchor's RMS."""
SPACES: dict[str, SteeringSpace] = {
    "latent": LatentResidual(),
    "embedding": EmbeddingResidual(),
    "action": ActionResidual(),
}


@dataclass(frozen=True)
class Frames:
    """Frames of the demonstrations.

    Attributes:
        embedding: (N, D).
        noise: Flow noise (N, T, F), one draw per frame for all who act on it.
    """

    embedding: Tensor
    noise: Tensor


@torch.no_grad()
def draw(policy: FlowPolicy, store: EpisodeStore, *, seed: int, count: int = FRAMES) -> Frames:
    """Draw frames without replacement; all of them where there are fewer than ``count``.

    Raises:
        DataError: fewer than three.
    """
    total = len(store.actions)
    if total < 3:
        raise DataError(
            f"{total} frames of demonstrations are too few to compare",
            remedy="ingest more demonstrations",
        )
    generator = seeding.torch_generator(seed, "explain-frames")
    rows = torch.randperm(total, generator=generator)[:count]
    noise = policy.draw_noise(len(rows), generator).to(policy.grid_features.device)
    return Frames(
        embed_frames(policy, store, rows[:, None].expand(-1, policy.spec.policy.obs_steps)), noise
    )


@torch.no_grad()
def conditions(policy: FlowPolicy, frames: Frames, steered: SteeredPolicy | None = None) -> Tensor:
    """Return the generator's condition (N, D).

    It is the decoded latent mean, moved where ``steered`` moves it.
    """
    mean, _ = policy.posterior(frames.embedding)
    if steered is None:
        return policy.decode(mean)
    residual = steered.actor.mean(torch.cat([frames.embedding, mean], -1))
    return policy.decode(move(mean, steered.scale, residual))


@torch.no_grad()
def chunks(policy: FlowPolicy, frames: Frames, condition: Tensor) -> Tensor:
    """Return the executed part of the normalised action sequence (N, C * F)."""
    return policy.generate(condition, frames.noise)[:, policy.executed_slice].flatten(1)


def departure(points: Tensor, known: Tensor) -> float:
    """Return how far ``points`` (N, d) lie from ``known`` (M, d), in units of the known ones.

    It is the median distance to the nearest known point over the same median among the known
    themselves: 1 means as near to known points as those are to each other.  Infinite where all
    known points are one.
    """
    among = torch.cdist(known, known).fill_diagonal_(torch.inf).amin(1).median()
    return float(torch.cdist(points, known).amin(1).median() / among)


@torch.no_grad()
def sweep(policy: FlowPolicy, frames: Frames, *, seed: int) -> list[dict[str, float | str]]:
    """Measure random residuals of growing size in each space.

    Residuals are uniform, with an RMS of ``ratio`` times the anchor's.

    Returns:
        Rows of ``space``, ``ratio``, ``rms`` (of the moved point over the anchor's) and
        ``action_departure``; where the space conditions the generator also ``condition_departure``.
    """
    rows: list[dict[str, float | str]] = []
    for name, space in SPACES.items():
        anchor = space.anchor(policy, frames.embedding, frames.noise)
        rms = anchor.square().mean().sqrt()
        known = normalized_chunk(policy, space, frames.embedding, anchor, frames.noise)
        condition = space.condition(policy, anchor)

        # Every size moves in the same directions, of RMS 1, so that sizes compare.
        generator = seeding.torch_generator(seed, f"explain-residual-{name}")
        uniform = 2 * torch.rand(anchor.shape, generator=generator) - 1
        direction = uniform.to(anchor.device) * 3**0.5

        for ratio in RATIOS:
            point = anchor + ratio * rms * direction
            moved = normalized_chunk(policy, space, frames.embedding, point, frames.noise)
            row: dict[str, float | str] = {
                "space": name,
                "ratio": ratio,
                "rms": float(point.square().mean().sqrt() / rms),
                "action_departure": departure(moved, known),
            }
            moved_condition = space.condition(policy, point)
            if condition is not None and moved_condition is not None:
                row["condition_departure"] = departure(moved_condition, condition)
            rows.append(row)
    return rows


def flatten(points: Tensor, *, seed: int) -> Tensor:
    """Return a map (N, 2) of points (N, d) by UMAP (arXiv 1802.03426).

    Neighbours stay neighbours; distances mean little.
    """
    import umap  # compiles for seconds

    # With a seed umap works on one thread and says so; fewer points than neighbours it would
    # refuse.
    made = umap.UMAP(
        n_neighbors=min(15, len(points) - 1), random_state=seed % 2**31, n_jobs=1, init="pca"
    )
    return torch.from_numpy(made.fit_transform(points.cpu().numpy())).float()
