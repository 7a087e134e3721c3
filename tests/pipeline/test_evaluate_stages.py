"""The evaluation stages in an empty project folder, with a toy world in place of the simulator."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.stages import stage as stages
from pipelines.stages.evaluate import POLICIES, evaluate
from pipelines.stages.evaluate_base import evaluate_base
from pipelines.stages.transfer import POLICY, transfer
from tests.factories import read_json
from tests.toy_world import ReachWorld, toy_policy
from zprl import config, durable, envs
from zprl.errors import DataError, Interrupted
from zprl.evaluation.intervals import mcnemar
from zprl.evaluation.result import Evaluation
from zprl.models.bundle import save_policy
from zprl.rl.sac import Actor
from zprl.rl.steering_bundle import save_steering
from zprl.rl.steering_spaces import ActionResidual, LatentResidual

EPISODES = 6
SECTIONS = ("run", "task", "evaluate")
NEEDED = {
    "success_rate",
    "ci_low",
    "ci_high",
    "episodes",
    "episode_length",
    "jerk_rms",
    "env_steps",
    "chunk_steps",
    "wall_s",
    "seed",
}


class World(ReachWorld):
    """The toy world, with the end-effector key that the stages measure; counts how often it was made."""

    made = 0

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        type(self).made += 1
        self.spec = dataclasses.replace(self.spec, obs_dims={"position": 1, "robot0_eef_pos": 3})

    def reset(self, seed):
        return self._with_tool(super().reset(seed))

    def step(self, action):
        result = super().step(action)
        return dataclasses.replace(
            result, obs=self._with_tool(result.obs), final_obs=self._with_tool(result.final_obs)
        )

    @staticmethod
    def _with_tool(obs):
        return {**obs, "robot0_eef_pos": obs["position"].repeat(1, 3)}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZPRL_TRACKING", "off")
    monkeypatch.setattr(envs, "make", lambda task, *, num_envs, device: World(num_envs))
    World.made = 0
    params = {
        "run": {"seed": 4},
        "task": {"episode_steps": 24},
        "evaluate": {"episodes": EPISODES, "seed": 11, "video_episodes": 1},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    policy = toy_policy()
    save_policy(stages.BASE, policy, {})
    durable.write_json(stages.METRICS / "pretrain.json", {"wall_s": 12.5})
    for number, (name, space) in enumerate(
        (("finetune_sim", LatentResidual()), ("action_residual", ActionResidual()))
    ):
        dim = 2 if name == "finetune_sim" else 4
        rl = config.Rl(steering={"space": space.name}, networks={"hidden": (8,)})
        actor = Actor(
            policy.spec.policy.embedding_dim + dim,
            dim,
            rl,
            torch.Generator().manual_seed(number),
            "cpu",
        )
        digest = durable.digest(stages.BASE)
        save_steering(
            stages.STEERING / name,
            actor,
            torch.full((dim,), 0.5),
            space=space,
            config=rl,
            base_digest=digest,
            provenance={},
        )
        cost = {"env_steps": 1000 * (number + 1), "chunk_steps": 250, "wall_s": 3.5, "updates": 9}
        durable.write_json(stages.METRICS / POLICIES[name][0], cost)
    return tmp_path


def run_base() -> None:
    stages.execute("evaluate_base", evaluate_base, sections=SECTIONS, inputs=(stages.BASE,))


def run_steered() -> None:
    inputs = (stages.BASE, *(stages.STEERING / name for name in POLICIES))
    stages.execute("evaluate", evaluate, sections=SECTIONS, inputs=inputs)


def test_base_outputs() -> None:
    run_base()
    metrics = read_json(stages.METRICS / "base.json")
    assert metrics.keys() >= NEEDED
    assert (
        metrics["episodes"],
        metrics["env_steps"],
        metrics["chunk_steps"],
        metrics["wall_s"],
        metrics["seed"],
    ) == (
        EPISODES,
        0,
        0,
        12.5,
        4,
    )
    base, direct = (Evaluation.read(stages.EVALUATION / name) for name in ("base", "embedding"))
    assert metrics["success_rate"] == base.summary()["success_rate"]
    assert metrics["embedding_success_rate"] == direct.summary()["success_rate"]
    assert (base.policy, direct.policy, base.seed) == ("base", "embedding", 11)
    assert torch.equal(base.tracks["start/position"], direct.tracks["start/position"]), (
        "the same start states for both"
    )
    assert not torch.equal(
        base.tracks["target"].nan_to_num(), direct.tracks["target"].nan_to_num()
    ), "two policies, not one twice"


def test_steered_outputs() -> None:
    run_base()
    run_steered()
    for number, (name, (_, file)) in enumerate(POLICIES.items()):
        metrics = read_json(stages.METRICS / file)
        assert metrics.keys() >= NEEDED
        assert (
            metrics["env_steps"],
            metrics["chunk_steps"],
            metrics["wall_s"],
            metrics["seed"],
        ) == (1000 * (number + 1), 250, 3.5, 4)
        found = Evaluation.read(stages.EVALUATION / name)
        assert metrics["success_rate"] == found.summary()["success_rate"]
        base = Evaluation.read(stages.EVALUATION / "base")
        assert torch.equal(found.tracks["start/position"], base.tracks["start/position"]), (
            "episodes pair up across stages"
        )


def test_a_kill_after_the_first_policy_costs_only_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_base()
    whole = {path.name: durable.digest(path) for path in stages.EVALUATION.iterdir()}
    metrics = (stages.METRICS / "base.json").read_bytes()
    for folder in (
        *stages.EVALUATION.iterdir(),
        *stages.RUNS.glob("evaluate_base/*/embedding"),
        *stages.RUNS.glob("evaluate_base/*/base"),
    ):
        durable.write_dir(folder, lambda _: None)
        folder.rmdir()

    stop_if_asked = stages.Stage.stop_if_asked

    def killed(stage: stages.Stage) -> None:
        stop_if_asked(stage)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.Stage, "stop_if_asked", killed)
    with pytest.raises(KeyboardInterrupt):
        run_base()
    monkeypatch.setattr(stages.Stage, "stop_if_asked", stop_if_asked)
    World.made = 0
    run_base()
    assert World.made == 1, "the first verdict was kept"
    assert {path.name: durable.digest(path) for path in stages.EVALUATION.iterdir()} == whole
    assert (stages.METRICS / "base.json").read_bytes() == metrics


def test_a_request_to_stop_is_heard_between_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    step = World.step

    def asked(self, action):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM) if int(self.age.max()) == 5 else None
        return step(self, action)

    monkeypatch.setattr(World, "step", asked)
    with pytest.raises(Interrupted):
        run_base()
    assert World.made == 1
    assert not (stages.METRICS / "base.json").exists()


def test_another_base_than_the_steering_was_learned_on_is_refused() -> None:
    save_policy(stages.BASE, toy_policy(), {"changed": True})
    with pytest.raises(DataError, match="another base policy"):
        run_steered()


def run_transfer() -> dict:
    sections = (*SECTIONS, "transfer")
    stages.execute(
        "transfer", transfer, sections=sections, inputs=(stages.BASE, stages.STEERING / POLICY)
    )
    found = read_json(stages.METRICS / "transfer.json")
    assert found == read_json(stages.TRANSFER / "drop.json")
    return found


def test_transfer_judges_on_both_engines_from_the_same_starts(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = []

    def make(task: config.Task, *, num_envs: int, device: str) -> World:
        engines.append(task.physics)
        world = World(num_envs)
        if task.physics == "newton":  # a world in which nothing succeeds
            step = world.step
            world.step = lambda action: dataclasses.replace(
                step(action), success=torch.zeros(num_envs, dtype=torch.bool)
            )
        return world

    monkeypatch.setattr(envs, "make", make)
    params = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump({**params, "transfer": {"episodes": 5}}))
    found = run_transfer()
    assert engines == ["ovphysx", "newton"]
    home, away = (Evaluation.read(stages.TRANSFER / name) for name in engines)
    assert torch.equal(home.tracks["start/position"], away.tracks["start/position"])
    assert (found["episodes"], found["newton"]["success_rate"]) == (5, 0.0)
    assert found["drop"] == found["ovphysx"]["success_rate"] == sum(home.success) / 5
    assert found["p_value"] == mcnemar(home.success, away.success).p_value


@pytest.mark.parametrize(
    "task", [{"name": "metaworld/reach-v3"}, {"name": "isaac/reach", "physics": "isaacsim"}]
)
def test_a_world_of_one_engine_has_nothing_to_compare(task: dict[str, str], project: Path) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").write_text(
        yaml.safe_dump({**params, "task": {**task, "episode_steps": 24}})
    )
    assert run_transfer() == {"policy": "finetune_sim", "engines": []}
    assert World.made == 0
