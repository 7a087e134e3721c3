"""Layouts of benchmarks' flat observations: every number has one place, keys by hand."""

from __future__ import annotations

import numpy as np
import pytest

from zprl.data.benchmark_layouts import ADROIT_JOINTS, adroit, layout


@pytest.mark.parametrize("task", sorted(ADROIT_JOINTS))
def test_every_number_of_the_vector_has_one_place(task: str) -> None:
    places = np.concatenate(list(adroit(task, 46).values()))
    assert sorted(places.tolist()) == list(range(46))


def test_the_palm_stands_behind_the_joints_and_one_number_of_the_object() -> None:
    places = adroit("door", 39)
    assert places["robot0_joint_pos"].tolist() == list(range(27))
    assert places["robot0_eef_pos"].tolist() == [29, 30, 31]
    assert places["object"].tolist() == [27, 28, *range(32, 39)]


def test_a_task_that_shows_no_palm_has_no_such_key() -> None:
    places = adroit("pen", 45)
    assert list(places) == ["robot0_joint_pos", "object"]
    assert places["object"].tolist() == list(range(24, 45))


@pytest.mark.parametrize(
    "environment", ["AdroitHandDoor-v1", "AdroitHandDoorSparse-v1", "AdroitHandDoor-v12"]
)
def test_an_environment_is_known_by_its_id(environment: str) -> None:
    places = layout(environment, 39)
    assert places is not None
    assert list(places) == ["robot0_joint_pos", "robot0_eef_pos", "object"]


@pytest.mark.parametrize(
    "environment", ["", "AdroitHandDoor", "MyAdroitHandDoor-v1", "AdroitHandDoor-v1 ", "Reach-v1"]
)
def test_other_environments_are_not_known(environment: str) -> None:
    assert layout(environment, 39) is None
