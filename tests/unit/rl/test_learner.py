"""The learner on a world of one dimension: reach a goal that the base policy misses."""

import dataclasses

import pytest
import torch

from tests.toy_world import ReachWorld, toy_policy
from zprl import plugins, seeding
from zprl.config import PolicyGradient, Rl
from zprl.envs.chunk import ChunkEnv
from zprl.errors import ConfigError
from zprl.models.image_encoder import ImageSpec, embedding_dim
from zprl.models.policy import FlowPolicy
from zprl.rl import demo_transitions, residual_scale, steering_bundle
from zprl.rl.learner import Learner, SizeSums
from zprl.rl.replay import Replay, join
from zprl.rl.steered_policy import SteeredPolicy
from zprl.rl.steering import SteeringDecision
from zprl.rl.steering_spaces import LatentResidual

SIZE = {"num_envs": 8, "segments": 4, "chunk_steps_per_segment": 6}
CONFIG = Rl(
    budget=SIZE,
    exploration={"warmup_chunks": 16},
    updates={"batch_size": 32, "per_chunk": 0.5},
    networks={"hidden": (16, 16)},
    steering={"scale": 0.5},
)


def make_env(config: Rl = CONFIG) -> ChunkEnv:
    return ChunkEnv(ReachWorld(config.budget.num_envs), 4, 1, config.returns.step_discount)


def make_learner(name: str = "latent", config: Rl = CONFIG, seed: int = 0) -> Learner:
    policy = toy_policy()
    space = plugins.load("spaces", name)()
    generator = torch.Generator().manual_seed(0)
    anchor = space.anchor(
        policy,
        policy.embed(make_env(config).reset(0)),
        policy.draw_noise(config.budget.num_envs, generator),
    )
    return Learner(
        policy, space, scale=torch.full((anchor.shape[1],), 0.5), config=config, seed=seed
    )


def fingerprint(learner: Learner) -> dict[str, torch.Tensor]:
    return {
        f"{group}.{name}": t.clone()
        for group, values in learner.state()[1].items()
        for name, t in values.items()
    }


@pytest.mark.parametrize("name", ["latent", "action", "noise", "embedding"])
def test_every_space_learns_without_touching_the_policy(name):
    learner = make_learner(name)
    before = {k: v.clone() for k, v in learner.policy.state_dict().items()}
    learner.run_segment(make_env)
    assert learner.updates == (6 * 8 - 16) // 2
    assert learner.decisions == 48
    assert learner.env_steps == 192
    assert len(learner.replay) == 48
    assert all(torch.equal(v, before[k]) for k, v in learner.policy.state_dict().items())


@pytest.mark.parametrize("name", ["latent", "action", "embedding"])
def test_zero_residual_is_the_base_policy_bit_for_bit(name):
    learner = make_learner(name)
    learner.agent.actor.net.flat.zero_()
    obs = make_env().reset(3)
    noise = learner.policy.draw_noise(8, torch.Generator().manual_seed(1))
    steered = SteeredPolicy(
        learner.policy, learner.space, learner.agent.actor, learner.agent.scale
    ).act(obs, noise)
    base = learner.policy.act(obs, noise, bottleneck=name != "embedding")
    assert torch.equal(steered, base)


class ImageWorld(ReachWorld):
    """A toy world that is also photographed: noise that its position decides."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.spec = dataclasses.replace(self.spec, image_sizes={"front": (20, 20)})

    def _with_images(self, obs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        grain = torch.arange(20 * 20 * 3).view(20, 20, 3)
        return obs | {
            "front": (grain * (7 + (1000 * obs["position"]).long().abs())[..., None, None])
            .remainder(251)
            .to(torch.uint8)
        }

    def reset(self, seed: int) -> dict[str, torch.Tensor]:
        return self._with_images(super().reset(seed))

    def step(self, action: torch.Tensor, *, render: bool = True):
        result = super().step(action)
        ended = bool((result.terminated | result.truncated).any())
        seen = {"obs": self._with_images(result.obs)} if render else {}
        last = {"final_obs": self._with_images(result.final_obs)} if render or ended else {}
        return dataclasses.replace(result, **seen, **last)


def image_policy() -> FlowPolicy:
    states = toy_policy()
    image = ImageSpec(
        key="front", size=(20, 20), crop=(16, 16), features=5, channels=(16,), spatial_blocks=1
    )
    shape = states.spec.policy.model_copy(
        update={"embedding_dim": embedding_dim(states.spec.obs_dims, (image,), 1)}
    )
    return FlowPolicy(
        states.spec.model_copy(update={"policy": shape, "images": (image,)}), states.normalizer
    ).freeze()


def test_images_are_cropped_at_random_while_collecting_and_embedded_once():
    policy = image_policy()
    config = CONFIG.changed(exploration={"warmup_chunks": 1000, "sample_latent": False})
    learner = Learner(policy, LatentResidual(), scale=torch.full((2,), 0.5), config=config, seed=3)
    seen: list[dict[str, torch.Tensor]] = []

    class Kept(ImageWorld):
        def reset(self, seed):
            seen.append(super().reset(seed))
            return seen[0]

    learner.run_segment(
        lambda: ChunkEnv(Kept(config.budget.num_envs), 4, 1, config.returns.step_discount)
    )
    first = {key: value[:, None] for key, value in seen[0].items()}
    state = learner.replay.data["inputs"][
        : config.budget.num_envs, : policy.spec.policy.embedding_dim
    ]
    assert torch.equal(state, policy.embed(first, seeding.torch_generator(3, "crop", 0)))
    assert not torch.allclose(state, policy.embed(first), atol=1e-4), "evaluation sees the middle"
    again = Learner(policy, LatentResidual(), scale=torch.full((2,), 0.5), config=config, seed=3)
    again.run_segment(
        lambda: ChunkEnv(ImageWorld(config.budget.num_envs), 4, 1, config.returns.step_discount)
    )
    assert all(
        torch.equal(value, fingerprint(again)[key]) for key, value in fingerprint(learner).items()
    )


def test_warm_up_executes_the_base_policy():
    learner = make_learner(config=CONFIG.changed(exploration={"warmup_chunks": 1000}))
    learner.run_segment(make_env)
    inputs = learner.replay.data["inputs"][:48]
    z, dims = learner.agent.width, learner.agent.dim
    assert torch.equal(inputs[:, z - dims : z], inputs[:, z:])
    assert learner.updates == 0


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resume_equals_uninterrupted(stop):
    whole = make_learner()
    for _ in range(4):
        whole.run_segment(make_env)
    half = make_learner()
    for _ in range(stop):
        half.run_segment(make_env)
    facts, tensors = half.state()
    other = make_learner()
    other.restore(facts, {g: {k: v.clone() for k, v in ts.items()} for g, ts in tensors.items()})
    while other.segment < 4:
        other.run_segment(make_env)
    expected = fingerprint(whole)
    assert all(torch.equal(v, expected[k]) for k, v in fingerprint(other).items())
    assert other.curve == whole.curve


def test_other_seed_differs():
    one, two = make_learner(), make_learner(seed=1)
    one.run_segment(make_env)
    two.run_segment(make_env)
    assert not torch.equal(one.agent.critics.flat, two.agent.critics.flat)


def test_time_outs_end_the_value_unless_told_otherwise():
    ends, goes_on = (
        make_learner(config=CONFIG.changed(returns={"bootstrap_truncated": flag}))
        for flag in (False, True)
    )
    for learner in (ends, goes_on):
        learner.run_segment(lambda: ChunkEnv(ReachWorld(8, episode_steps=8, goal=99.0), 4, 1))
    # Episodes of 8 steps are two chunks: the second one times out, in every environment.
    discount = ends.replay.data["discount"][:48].view(6, 8)
    torch.testing.assert_close(discount[0], torch.full((8,), 0.99**4))
    assert not discount[1].any()
    torch.testing.assert_close(goes_on.replay.data["discount"][:48], torch.full((48,), 0.99**4))


def reached(act, policy) -> float:
    """Mean distance covered by 64 points in 16 steps."""
    with ChunkEnv(ReachWorld(64, goal=99.0), 4) as env:
        obs = env.reset(7)
        for n in range(4):
            obs = env.step(act(obs, policy.draw_noise(64, torch.Generator().manual_seed(n)))).obs
    return float(obs["position"].mean())


def test_it_learns_to_reach():
    config = CONFIG.changed(
        budget={"segments": 1, "chunk_steps_per_segment": 150, "num_envs": 16},
        updates={"per_chunk": 1.0},
        learning_rates={"actor": 3e-3, "critics": 3e-3},
        actor={"log_std_min": -4.0, "log_std_max": 1.0},
    )
    learner = make_learner("action", config)
    before = reached(learner.policy.act, learner.policy)
    learner.run_segment(lambda: make_env(config))
    steered = SteeredPolicy(learner.policy, learner.space, learner.agent.actor, learner.agent.scale)
    assert reached(steered.act, learner.policy) > before + 0.2


def test_bundle_round_trip_and_wrong_base(tmp_path):
    from zprl import durable
    from zprl.errors import DataError
    from zprl.models.bundle import save_policy

    learner = make_learner()
    learner.run_segment(make_env)
    save_policy(tmp_path / "base", learner.policy, {})
    digest = durable.digest(tmp_path / "base")
    options = {"space": learner.space, "config": CONFIG, "provenance": {}}
    steering_bundle.save_steering(
        tmp_path / "s", learner.agent.actor, learner.agent.scale, base_digest=digest, **options
    )
    loaded = steering_bundle.load_steered(tmp_path / "s", tmp_path / "base")
    obs, noise = make_env().reset(1), learner.policy.draw_noise(8, torch.Generator().manual_seed(1))
    expected = SteeredPolicy(
        learner.policy, learner.space, learner.agent.actor, learner.agent.scale
    ).act(obs, noise)
    assert torch.equal(loaded.act(obs, noise), expected)
    steering_bundle.save_steering(
        tmp_path / "t", learner.agent.actor, learner.agent.scale, base_digest="0" * 64, **options
    )
    with pytest.raises(DataError, match="another base policy"):
        steering_bundle.load_steered(tmp_path / "t", tmp_path / "base")


def test_a_residual_is_asked_for_by_its_space(tmp_path):
    from zprl import durable
    from zprl.errors import ConfigError
    from zprl.models.bundle import save_policy

    learner = make_learner("action")
    save_policy(tmp_path / "base", learner.policy, {})
    base_digest = durable.digest(tmp_path / "base")
    learner.save_bundle(tmp_path / "s", base_digest=base_digest, provenance={})
    paths = tmp_path / "s", tmp_path / "base"
    assert steering_bundle.load_residual(*paths, "action").space.name == "action"
    with pytest.raises(ConfigError, match="no residual on the latent"):
        steering_bundle.load_residual(*paths, "latent")

    steering_bundle.save_generator(
        tmp_path / "s",
        learner.policy,
        config=PolicyGradient(algorithm="ppo"),
        base_digest=base_digest,
        provenance={},
    )
    with pytest.raises(ConfigError, match="no residual on the action"):
        steering_bundle.load_residual(*paths, "action")


def test_sizes_are_means_over_vector_steps():
    """Anchors of RMS 3 and 5, residuals of RMS 1 and 2 with a scale of 0.5."""
    sizes, scale = SizeSums(), torch.full((2,), 0.5)
    for anchor, residual in ((3.0, 1.0), (5.0, 2.0)):
        rows = torch.full((4, 2), anchor), torch.full((4, 2), residual)
        sizes.add(SteeringDecision(rows[0], *rows, rows[0], rows[0]), scale)
    assert sizes.row() == {"anchor_rms": 4.0, "residual_rms": 0.75, "residual_ratio": 0.1875}


def test_sizes_have_no_ratio_where_the_anchor_is_zero():
    sizes, zeros, ones = SizeSums(), torch.zeros(4, 2), torch.ones(4, 2)
    sizes.add(SteeringDecision(zeros, zeros, ones, ones, ones), torch.ones(2))
    assert sizes.row() == {"anchor_rms": 0.0, "residual_rms": 1.0, "residual_ratio": 0.0}


def test_a_steered_policy_keeps_the_noise_it_learnt_with(tmp_path):
    from zprl import durable
    from zprl.models.bundle import save_policy

    learner = make_learner()
    save_policy(tmp_path / "base", learner.policy, {})
    config, digest = (
        CONFIG.changed(steering={"noise_scale": 0.5}),
        durable.digest(tmp_path / "base"),
    )
    options = {
        "space": learner.space,
        "config": config,
        "base_digest": digest,
        "provenance": {},
    }
    steering_bundle.save_steering(
        tmp_path / "s", learner.agent.actor, learner.agent.scale, **options
    )
    loaded = steering_bundle.load_steered(tmp_path / "s", tmp_path / "base")
    obs, noise = make_env().reset(1), learner.policy.draw_noise(8, torch.Generator().manual_seed(1))
    plain = SteeredPolicy(learner.policy, learner.space, learner.agent.actor, learner.agent.scale)
    assert torch.equal(loaded.act(obs, noise), plain.act(obs, 0.5 * noise))
    assert not torch.equal(loaded.act(obs, noise), plain.act(obs, noise))


def test_replay_ring_overwrites_the_oldest():
    ring = Replay(3, 2, 1)
    for n in range(5):
        row = torch.full((1, 2), float(n))
        ring.add(state=row, point=row[:, :1], reward=row[:, 0], discount=row[:, 0], next_state=row)
    assert sorted(ring.data["reward"].tolist()) == [2.0, 3.0, 4.0]
    both = join(ring.sample(4, torch.Generator()), ring.sample(2, torch.Generator()))
    assert both.inputs.shape == (6, 3)


def test_residual_scale_follows_the_ratio_rule():
    spread = residual_scale.Spread(
        anchor_rms=torch.tensor([1.0, 2.0]), posterior_std=torch.tensor([0.1, 0.3])
    )
    for units in ("absolute", "anchor_rms", "posterior_std"):
        proposed = residual_scale.propose(Rl(steering={"units": units, "ratio": 0.1}), spread)
        rms = (proposed / 3**0.5).square().mean().sqrt()  # RMS of scale * U(-1, 1)
        torch.testing.assert_close(rms, 0.1 * torch.tensor(2.5).sqrt())
    fixed = residual_scale.propose(Rl(steering={"units": "posterior_std", "scale": 2.0}), spread)
    torch.testing.assert_close(fixed, torch.tensor([0.2, 0.6]))
    noise = residual_scale.propose(
        Rl(), residual_scale.Spread(anchor_rms=torch.zeros(2), posterior_std=None)
    )
    torch.testing.assert_close(noise, torch.full((2,), 1.5))


@pytest.mark.parametrize("units", ["anchor_rms", "posterior_std"])
def test_units_that_a_space_does_not_have_are_refused(units):
    """Flow noise has a zero anchor and no posterior: the residual would have no effect."""
    spread = residual_scale.Spread(anchor_rms=torch.zeros(2), posterior_std=None)
    with pytest.raises(ConfigError, match=f"no residual scale in units of {units}"):
        residual_scale.propose(Rl(steering={"space": "noise", "units": units}), spread)


def test_demo_transitions_by_hand(tmp_path):
    from tests.factories import make_store

    store = make_store(
        tmp_path / "store", 4, length=10
    )  # lengths 10, 11, 12, 13; the last one fails
    policy = toy_policy(store)
    rows = demo_transitions.transitions(
        policy, LatentResidual(), store, scale=torch.ones(2), step_discount=0.9, seed=0
    )
    assert len(rows) == 3 + 3 + 3 + 4
    reward, discount = rows.data["reward"], rows.data["discount"]
    torch.testing.assert_close(
        reward[:3], torch.tensor([0.0, 0.0, 0.9**1])
    )  # starts 0, 4, 8; ends in frame 9
    torch.testing.assert_close(discount[:3], torch.tensor([0.9**4, 0.9**4, 0.0]))
    assert not reward[9:].any()
    assert dataclasses.is_dataclass(rows.sample(3, torch.Generator()))


class Doubled(LatentResidual):
    """Makes every executed action twice the point, whatever the noise."""

    def sequence(self, policy, embedding, point, noise):
        return (2 * point)[:, None, :1].expand_as(noise)


def test_a_demos_residual_is_sought_through_the_generator():
    # Wanted is 2 (anchor + scale residual): residual = (wanted / 2 - anchor) / scale, within the
    # bounds.  The second number moves nothing.
    policy, rows = toy_policy(), 3
    anchor = torch.tensor([[0.5, 1.0], [-0.5, 1.0], [0.0, 1.0]])
    wanted = torch.tensor([1.2, -1.4, 9.0])[:, None].expand(rows, 4)
    found = demo_transitions.fit(
        policy,
        Doubled(),
        torch.zeros(rows, 6),
        anchor,
        wanted,
        scale=torch.tensor([0.5, 0.5]),
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(
        found, torch.tensor([[0.2, 0.0], [-0.4, 0.0], [1.0, 0.0]]), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("name", ["latent", "noise", "embedding"])
def test_fitted_demos_come_nearer_to_what_was_shown(tmp_path, name):
    from tests.factories import make_store

    store = make_store(tmp_path / "store", 4, length=10)
    policy, space = toy_policy(store), plugins.load("spaces", name)()
    width = {"latent": 2, "noise": 4 * policy.num_features, "embedding": 6}[name]
    how = {"scale": torch.full((width,), 4.0), "step_discount": 0.9, "seed": 0}
    zero, fitted, again = (
        demo_transitions.transitions(policy, space, store, fitted=each, **how).data
        for each in (False, True, True)
    )
    assert all(torch.equal(fitted[key], again[key]) for key in fitted)
    assert all(torch.equal(zero[key], fitted[key]) for key in ("reward", "discount")), (
        "a demo's outcome is its own"
    )
    error = []
    first = [
        sum(store.lengths[:n].tolist()) for n in range(4)
    ]  # the frames that the first chunks of the episodes begin with
    shown = policy.normalizer.normalize_actions(
        torch.stack([store.actions[row : row + 4] for row in first])
    )
    rows = [0, 3, 6, 9]  # lengths 10, 11, 12, 13: three, three, three and four chunks
    for data in (zero, fitted):
        state, point = data["inputs"][rows].split((6 + width, width), -1)
        assert ((point - state[:, 6:]).abs() <= 4.0 + 1e-5).all()
        draws = torch.randn(
            256, 4, 4, policy.num_features, generator=torch.Generator().manual_seed(1)
        )
        made = torch.stack([space.sequence(policy, state[:, :6], point, draw) for draw in draws])
        error.append((made - shown).square().mean())
    assert error[1] < error[0]
    assert all(value.grad is None for value in policy.parameters())
