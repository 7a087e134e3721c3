"""The expert's failings, one at a time and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zprl.envs.mujoco.noisy_expert import Grade, NoisyExpert, NoisyExpertSettings

N = 400
OBS = {"anything": torch.zeros(N, 1)}
STEADY = {"tremor": 0.0, "drift": 0.0, "pause": 0.0}


def _expert(advise=None, **failings) -> NoisyExpert:
    grade = Grade(share=1, **{**STEADY, **failings})
    none = Grade(share=0, **STEADY)
    settings = NoisyExpertSettings(better=none, okay=grade, worse=none)
    return NoisyExpert(
        advise or (lambda aim: np.full((N, 4), 0.5)), N, 7, settings, still=np.zeros(3)
    )


def test_without_failings_the_advice_is_the_action() -> None:
    action = _expert().act(OBS)
    assert torch.equal(action, torch.full((N, 4), 0.5))


def test_the_hand_is_off_by_the_lean_and_by_each_episode_s_own_aim() -> None:
    seen: list[np.ndarray] = []

    def advise(aim: np.ndarray) -> np.ndarray:
        seen.append(aim)
        return np.zeros((N, 4))

    leaning = _expert(advise, lean=(0.0, 0.01, 0.02))
    leaning.act(OBS)
    assert np.array_equal(seen[-1], np.tile([0.0, 0.01, 0.02], (N, 1)))

    aiming = _expert(advise, lean=(0.0, 0.0, 0.02), aim=0.006)
    aiming.act(OBS)
    aiming.act(OBS)
    assert np.array_equal(seen[-1], seen[-2])  # for the whole episode
    # mean and deviation of 400 draws: within five standard errors
    assert np.allclose(seen[-1].mean(0), [0, 0, 0.02], atol=5 * 0.006 / np.sqrt(N))
    assert np.allclose(seen[-1].std(0), 0.006, atol=5 * 0.006 / np.sqrt(2 * N))


def test_tremor_is_new_in_each_step_and_drift_stays() -> None:
    def advise(aim: np.ndarray) -> np.ndarray:
        return np.zeros((N, 4))

    def follow(**failings) -> tuple[np.ndarray, float]:
        expert = _expert(advise, **failings)
        actions = np.stack([expert.act(OBS).numpy() for _ in range(60)])[30:]
        first, second = actions[:-1, :, :3].ravel(), actions[1:, :, :3].ravel()
        return actions, float(np.corrcoef(first, second)[0, 1])

    actions, stays = follow(tremor=0.1)
    assert actions.std() == pytest.approx(0.1, rel=0.03)
    assert abs(stays) < 0.03
    actions, stays = follow(drift=0.1)
    assert np.all(actions[..., 3] == 0)  # the gripper does not drift
    assert actions[..., :3].std() == pytest.approx(0.1, rel=0.1)
    assert stays == pytest.approx(0.9, abs=0.03)  # DRIFT_STAY


def test_a_pause_stops_the_motion_but_not_the_gripper() -> None:
    expert = _expert(pause=0.2)
    actions = np.stack([expert.act(OBS).numpy() for _ in range(100)])
    still = np.all(actions[..., :3] == 0, -1)
    assert np.all(actions[..., 3] == 0.5)
    # 5.5 of 5.5 + 1 / 0.2 - 1 steps on average, once pauses have begun to overlap with nothing
    assert still[20:].mean() == pytest.approx(5.5 / (5.5 + 4), abs=0.05)
