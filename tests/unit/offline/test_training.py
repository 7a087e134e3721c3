"""Offline training: stop anywhere and continue to the same bits; the bottleneck never touches the base."""

import contextlib
import os
import signal

import pytest
import torch

from tests.factories import OBS_KEYS, make_store
from tests.small_policy import small_config
from zprl.config import Pretrain, VibConfig
from zprl.data.windows import ChunkWindows
from zprl.errors import ConfigError, Interrupted
from zprl.models.policy import FlowPolicy, PolicySpec
from zprl.offline.datamodule import split_episodes
from zprl.offline.losses import Draws
from zprl.offline.state import TrainState, learning_rate
from zprl.offline.training import Hooks, train
from zprl.run_dir import RunDir

STEPS, BOUNDARY = 9, 4
CONFIG = Pretrain(steps=STEPS, batch_size=8, warmup_steps=2, checkpoint_every=BOUNDARY, log_every=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "episodes", 3, length=20)


def windows(store, episodes):
    return ChunkWindows(store, OBS_KEYS, obs_steps=1, horizon=8, episodes=episodes)


def fresh(store, *, seed=0, vib=True, config=CONFIG, **changes):
    spec = PolicySpec(
        obs_dims=store.obs_dims,
        action_dim=store.action_dim,
        policy=small_config(**changes),
        vib=VibConfig(enabled=vib, latent_dim=2, hidden=(8,)),
    )
    return TrainState(FlowPolicy(spec, store.normalizer, seed=seed), config, seed=seed)


def run(state, store, root, *, stop_at=None, log=lambda *_: None, said=None, held_out=(2,)):
    """Train; with ``stop_at``, ask for a stop after that many steps."""

    def saved():
        if stop_at is not None and state.step >= stop_at:
            raise Interrupted("stopped")

    say = (lambda _: None) if said is None else said.append
    hooks = Hooks(stopping=lambda: state.step == stop_at, saved=saved, log=log, say=say)
    with RunDir(root, "pretrain", {}) as run_dir:
        train(state, windows(store, [0, 1]), windows(store, held_out), run_dir=run_dir, hooks=hooks)
    return state


def fingerprint(state):
    parts = {f"ema.{k}": v for k, v in state.averaged.named_parameters()}
    parts.update({f"policy.{k}": v for k, v in state.policy.state_dict().items()})
    for name, p in state.policy.named_parameters():
        parts.update({f"adam.{name}.{k}": v for k, v in state.optimizer.state[p].items()})
    return {k: v.detach().clone() for k, v in parts.items()}


def differing(a, b):
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


@pytest.fixture(scope="module")
def reference(store, tmp_path_factory):
    state = run(fresh(store), store, tmp_path_factory.mktemp("runs"))
    return fingerprint(state), state.curves.csv()


@pytest.mark.parametrize("stop_at", [1, BOUNDARY - 1, BOUNDARY, BOUNDARY + 1, STEPS - 1, STEPS])
def test_stopped_and_continued_equals_uninterrupted(store, reference, tmp_path, stop_at):
    with pytest.raises(Interrupted):
        run(fresh(store), store, tmp_path, stop_at=stop_at)
    said = []
    state = run(fresh(store, seed=0), store, tmp_path, said=said)
    assert f"continuing at step {stop_at} of {STEPS}" in said[0]
    assert differing(fingerprint(state), reference[0]) == set()
    assert state.curves.csv() == reference[1]


def test_crash_between_resume_points_loses_only_those_steps(store, reference, tmp_path):
    def crash(step, _):
        if step == 6:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(fresh(store), store, tmp_path, log=crash)
    said = []
    state = run(fresh(store), store, tmp_path, said=said)
    assert f"continuing at step {BOUNDARY} " in said[0]
    assert differing(fingerprint(state), reference[0]) == set()
    assert state.curves.csv() == reference[1]


def test_another_seed_gives_other_weights(store, reference, tmp_path):
    other = fingerprint(run(fresh(store, seed=1), store, tmp_path))
    trained = {k for k in other if k.endswith("weight")}
    assert trained
    assert trained <= differing(other, reference[0])


def test_a_shared_generator_would_be_noticed(store, tmp_path, monkeypatch):
    # Guards the tests above: were noise drawn from a generator that is carried along, resuming
    # would change the weights.
    def from_global(cls, policy, rows, seed, step, *, device="cpu"):
        return cls(
            torch.randn(rows, 8, policy.num_features), torch.rand(rows), torch.randn(rows, 2)
        )

    def run_all(root, stop_at=None):
        torch.manual_seed(0)
        if stop_at is not None:
            with pytest.raises(Interrupted):
                run(fresh(store), store, root, stop_at=stop_at)
        torch.manual_seed(0)
        return fingerprint(run(fresh(store), store, root))

    monkeypatch.setattr(Draws, "at", classmethod(from_global))
    assert differing(run_all(tmp_path / "a"), run_all(tmp_path / "b")) == set()
    assert differing(run_all(tmp_path / "c", stop_at=BOUNDARY), run_all(tmp_path / "d")) != set()


@pytest.mark.parametrize("net", ["mlp", "unet"])
def test_base_is_bit_identical_with_and_without_bottleneck(store, tmp_path, net):
    with_vib = fingerprint(run(fresh(store, velocity_net=net), store, tmp_path / "a"))
    without = fingerprint(run(fresh(store, velocity_net=net, vib=False), store, tmp_path / "b"))
    assert {k for k in with_vib if k not in without} == {k for k in with_vib if ".vib." in k}
    assert any("ema.velocity_net" in k for k in without)
    assert any("ema.encoder" in k for k in without)
    assert differing({k: with_vib[k] for k in without}, without) == set()


def test_training_ships_the_average_and_lowers_the_loss(store, tmp_path):
    config = CONFIG.model_copy(
        update={
            "steps": 150,
            "log_every": 50,
            "checkpoint_every": 150,
            "learning_rate": 3e-3,
            "batch_size": 32,
        }
    )
    # "Held out" are here the training episodes: two others say nothing about a third, but the
    # average must fit its own.
    state = run(
        fresh(store, config=config, embedding_dim=16, mlp_hidden=(64, 64)),
        store,
        tmp_path,
        held_out=(0, 1),
    )
    shipped, average = state.policy.state_dict(), state.averaged.state_dict()
    assert all(torch.equal(value, average[name]) for name, value in shipped.items())
    first, last = state.curves.rows[0], state.curves.rows[-1]
    assert last["base_loss"] < 0.8 * first["base_loss"]
    assert last["val_base_loss"] < first["val_base_loss"]
    assert list(first) == [
        "step",
        "loss",
        "base_loss",
        "vib_loss",
        "kl",
        "reconstruction",
        "val_base_loss",
        "val_vib_loss",
    ]


def test_rows_are_means_over_their_interval(store, tmp_path):
    rows = {}
    config = CONFIG.model_copy(update={"log_every": 1})
    run(
        fresh(store, config=config),
        store,
        tmp_path / "a",
        log=lambda step, row: rows.update({step: row}),
    )
    state = run(fresh(store), store, tmp_path / "b")
    assert [row["step"] for row in state.curves.rows] == [3, 6, 9]
    assert state.curves.rows[1]["base_loss"] == pytest.approx(
        sum(rows[s]["base_loss"] for s in (4, 5, 6)) / 3, rel=1e-9
    )
    assert state.curves.rows[1]["val_base_loss"] == rows[6]["val_base_loss"]


def test_sigterm_stops_at_the_next_step_and_saves(store, reference, tmp_path):
    asked = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    state = fresh(store)

    def saved():
        if asked:
            raise Interrupted("stopped")

    def log(step, _):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with RunDir(tmp_path, "pretrain", {}) as run_dir, pytest.raises(Interrupted):
            train(
                state,
                windows(store, [0, 1]),
                windows(store, [2]),
                run_dir=run_dir,
                hooks=Hooks(stopping=lambda: bool(asked), saved=saved, log=log, say=lambda _: None),
            )
        assert asked == [signal.SIGTERM]
        assert run_dir.latest().step == 6
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert differing(fingerprint(run(fresh(store), store, tmp_path)), reference[0]) == set()


def test_sigterm_after_the_last_look_at_a_step_saves_that_step(store, reference, tmp_path, capfd):
    """Lightning ends training itself where the signal comes too late for the callbacks."""
    asked, step = [], 5
    previous = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    state = fresh(store)

    def stopping():
        before = bool(asked)
        if state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return before

    def saved():
        if asked:
            raise Interrupted("stopped")

    hooks = Hooks(stopping=stopping, saved=saved, log=lambda *_: None, say=lambda _: None)
    try:
        with RunDir(tmp_path, "pretrain", {}) as run_dir, pytest.raises(Interrupted):
            train(state, windows(store, [0, 1]), windows(store, [2]), run_dir=run_dir, hooks=hooks)
        assert asked == [signal.SIGTERM]
        assert run_dir.latest().step == step
        assert capfd.readouterr() == ("", "")
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert differing(fingerprint(run(fresh(store), store, tmp_path)), reference[0]) == set()


def test_the_optimiser_runs_at_the_schedules_rates(store, tmp_path):
    rates = []
    for stop_at in (5, None):
        state = fresh(store)
        state.optimizer.register_step_pre_hook(
            lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
        )
        with contextlib.nullcontext() if stop_at is None else pytest.raises(Interrupted):
            run(state, store, tmp_path, stop_at=stop_at)
    assert rates == [learning_rate(number, CONFIG) for number in range(STEPS)]


def test_non_finite_loss_stops_with_the_step_and_keeps_the_last_good_state(
    store, tmp_path, monkeypatch
):
    good = ChunkWindows.batch

    def poisoned(self, seed, step, size):
        batch = good(self, seed, step, size)
        return {**batch, "actions": batch["actions"] * float("nan")} if step == 5 else batch

    monkeypatch.setattr(ChunkWindows, "batch", poisoned)
    with pytest.raises(ConfigError, match="step 5") as caught:
        run(fresh(store), store, tmp_path)
    assert "learning_rate" in caught.value.remedy
    generation = RunDir(tmp_path, "pretrain", {}).latest()
    assert generation.step == BOUNDARY
    assert all(torch.isfinite(t).all() for t in generation.tensors["model"].values())


def test_lightning_leaves_no_files_and_no_chatter(store, tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    state = run(fresh(store), store, tmp_path / "runs")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    assert state.step == STEPS
    out, err = capfd.readouterr()
    assert out == err == ""
    assert [str(w.message) for w in recwarn] == []


def test_finished_training_is_not_repeated(store, reference, tmp_path):
    run(fresh(store), store, tmp_path)

    def never(*_):
        raise AssertionError

    state = run(fresh(store), store, tmp_path, log=never)
    assert differing(fingerprint(state), reference[0]) == set()
    assert state.curves.csv() == reference[1]


def test_learning_rate_warms_up_and_falls_to_nothing():
    config = Pretrain(steps=110, warmup_steps=10, learning_rate=1.0)
    assert [learning_rate(s, config) for s in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate(60, config) == pytest.approx(0.5)
    assert learning_rate(109, config) < 1e-3
    assert learning_rate(0, Pretrain(steps=1, warmup_steps=0, learning_rate=1.0)) == 1.0


def test_episodes_are_split_once_and_for_all():
    training, held = split_episodes(40, 0.05, seed=0)
    assert len(held) == 2
    assert sorted(training + held) == list(range(40))
    assert (training, held) == split_episodes(40, 0.05, seed=0)
    assert (training, held) != split_episodes(40, 0.05, seed=1)
    assert split_episodes(40, 0.0, seed=0) == (list(range(40)), [])
    assert len(split_episodes(2, 0.9, seed=0)[0]) == 1
    assert split_episodes(1, 0.5, seed=0) == ([0], [])
