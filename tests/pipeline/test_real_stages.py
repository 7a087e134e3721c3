"""The stages after a session: the learner replayed, the judgement, the gate; and whether a session fits what the pipeline has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines import robot_session
from pipelines.stages import stage
from pipelines.stages.finetune_real import finetune_real
from tests import session_factories as made
from tests.session_start import make_start
from tests.toy_world import toy_policy
from zprl import config, durable
from zprl.config import Real
from zprl.errors import ConfigError, DataError
from zprl.recordings.phases import PhaseKind
from zprl.recordings.store import EpisodeFacts, SessionHeader, SessionStore
from zprl.rl.session_replay import fold
from zprl.rl.steering_bundle import load_steered

CONFIG = Real(
    evaluate_episodes=4, train_episodes=3, updates_per_chunk=2, batch_size=8, critic_episodes=0
)
D, R = toy_policy().spec.policy.embedding_dim, 2


def session(path: Path) -> Path:
    """Eleven episodes of a toy policy: one of four evaluations before succeeds, three of four after."""
    start = make_start(path.parent / "start")
    header = SessionHeader(
        id="toy", task="lift_cube", seed=5, rate_hz=made.RATE, chunk_steps=made.C, config=CONFIG
    )
    text = (
        (made.TASKS / "lift_cube.yaml")
        .read_text()
        .replace("chunk_steps: 8", f"chunk_steps: {made.C}")
    )
    limits = (made.TASKS / "lift_cube.limits.yaml").read_text()
    with SessionStore.create(
        path, header, task_yaml=text, limits_yaml=limits, start=start
    ) as store:
        plan = [("evaluate_before", i, i == 0) for i in range(4)]
        plan += [("train", i, i != 1) for i in range(3)] + [
            ("evaluate_after", i, i != 3) for i in range(4)
        ]
        for number, (phase, start_number, success) in enumerate(plan, 1):
            writer = store.open_episode(number)
            rows = made.Rows(number)
            draw = np.random.default_rng(number)
            for step in range(rows.steps):
                if step % made.C == 0:
                    vectors = {
                        "embedding": draw.standard_normal(D),
                        **{n: draw.standard_normal(R) for n in ("anchor", "residual", "point")},
                    }
                    writer.add_chunk(
                        **{
                            **rows.chunk(step // made.C),
                            **vectors,
                            "mean": vectors["anchor"],
                            "log_std": vectors["anchor"],
                        }
                    )
                writer.add_frame(**rows.frame(step))
            writer.finish(**rows.observation(rows.steps))
            writer.finish_state(
                final_embedding=draw.standard_normal(D), final_anchor=draw.standard_normal(R)
            )
            weights = {}
            if phase != "evaluate_before":  # what acted: the learner with all labels so far
                _, digests = fold(SessionStore.open(path))
                weights = {max(digests): digests[max(digests)]}
            kind = PhaseKind(phase)
            facts = EpisodeFacts(
                phase=kind,
                start_number=start_number,
                seed=5,
                explore=phase == "train",
                stop_reason="",
                weights=weights,
            )
            writer.commit(facts)
            store.label(
                number, "success" if success else "failure", source="test", nonce=str(number)
            )
    return path


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return session(tmp_path_factory.mktemp("lived") / "session")


@pytest.fixture
def here(lived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import shutil

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZPRL_TRACKING", "off")
    shutil.copytree(lived, tmp_path / "session")
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"run": {"seed": 5}, "finetune_real": CONFIG.model_dump(mode="json")})
    )
    return tmp_path


def run() -> dict:
    stage.execute("finetune_real", finetune_real, sections=(), inputs=(stage.SESSION,))
    return json.loads((stage.METRICS / "real.json").read_text())


def test_the_replay_arrives_at_what_acted(here: Path) -> None:
    metrics = run()
    assert metrics["same_as_on_robot"]
    assert (metrics["episodes"], metrics["success_rate"], metrics["base_success_rate"]) == (
        4,
        0.75,
        0.25,
    )
    assert (metrics["session_episodes"], metrics["training_success_rate"], metrics["seed"]) == (
        3,
        2 / 3,
        5,
    )
    assert metrics["clip_rate"] == pytest.approx(0.1)  # one step of ten in every made-up episode
    assert metrics["robot_time_s"] == pytest.approx(3 * 10 / made.RATE, abs=0.051)
    assert metrics["ci_low"] < 0.75 < metrics["ci_high"]
    steered = load_steered(stage.STEERING / "real", stage.SESSION / "start" / "base")
    learner, _ = fold(SessionStore.open(stage.SESSION))
    assert steered.actor.net.flat.tolist() == learner.agent.actor.net.flat.tolist()


def test_the_same_bytes_again(here: Path) -> None:
    run()
    before = {
        path: durable.digest(path)
        for path in (stage.STEERING / "real", stage.EVALUATION / "real_evaluate_after", stage.PLOTS)
    }
    import shutil

    shutil.rmtree("runs")
    run()
    assert {path: durable.digest(path) for path in before} == before


def test_other_weights_than_acted_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(p for p in sorted((here / "session/episodes").iterdir()) if p.name == "000009")
    from zprl.recordings import checksummed_json

    document = checksummed_json.read(path / "episode.json")
    document["weights"] = dict.fromkeys(document["weights"], "0" * 64)
    document.pop(checksummed_json.DIGEST)
    durable.write_json(path / "episode.json", checksummed_json.write(document))
    assert not run()["same_as_on_robot"]
    assert "other weights than acted on the robot" in capsys.readouterr().out


def test_a_changed_byte_stops_the_stage(here: Path) -> None:
    path = here / "session/episodes/000005/chunks.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="000005"):
        run()
    assert not (stage.METRICS / "real.json").exists()


def test_whether_a_session_fits(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = here / "session/start"
    found = {"base": start / "base", "steering": start / "steering", "learner": start}
    monkeypatch.setattr(robot_session, "sources", lambda params: found)
    params = config.load()
    assert robot_session.standing(params) is robot_session.Standing.DONE
    more = params.model_copy(
        update={"finetune_real": CONFIG.model_copy(update={"train_episodes": 9})}
    )
    assert robot_session.standing(more) is robot_session.Standing.OTHER
    with SessionStore.open(stage.SESSION, write=True) as store:
        store.label(5, "discard", source="test", nonce="later")
    assert robot_session.standing(params) is robot_session.Standing.UNFINISHED
    (start.parent / "start2").mkdir()
    found["base"] = start / "steering"
    assert robot_session.standing(params) is robot_session.Standing.OTHER
    robot_session.set_aside()
    assert robot_session.standing(params) is robot_session.Standing.ABSENT
    assert [path.name[:3] for path in (here / "runs/sessions").iterdir()] == ["toy"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"algorithm": "ppo"}, "algorithm ppo cannot go on"),
        ({"algorithm": "noise_aliasing", "steering": {"space": "noise"}}, "noise_aliasing cannot"),
        ({"steering": {"best_of": 4}}, "choose among residuals"),
    ],
)
def test_a_method_that_cannot_go_on_in_a_session_is_refused_before_it(
    here: Path, settings: dict, sentence: str
) -> None:
    params = config.parse({"finetune_sim": settings})
    with pytest.raises(ConfigError, match=sentence):
        robot_session.live(params, stopping=[False])


def test_a_space_without_simulation_result_is_refused(here: Path) -> None:
    params = config.load().model_copy(
        update={"finetune_real": CONFIG.model_copy(update={"space": "noise"})}
    )
    with pytest.raises(ConfigError, match="'noise' has no simulation result"):
        robot_session.sources(params)
