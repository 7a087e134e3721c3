"""Task and limits of a session: whatever is edited whenever, nothing is loosened."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import session_factories as made
from zprl.errors import ConfigError, DataError, ZprlError
from zprl.recordings import conditions
from zprl.recordings.store import SessionStore
from zprl.recordings.verify import verify
from zprl.robot.limits import Limits, _loosened
from zprl.robot.task import RealTask


def make_session(folder: Path) -> Path:
    path = folder / "session"
    return made.write_session(path, labels=("failure", "success", "success"))


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return make_session(tmp_path)


def test_the_digests_are_of_what_was_loaded(session: Path) -> None:
    under = conditions.load(session)
    assert under.digests["limits"] == under.limits.digest()
    assert under.history == (under.limits.digest(),)
    under.check(under.digests)
    for wrong in ({}, under.digests | {"task": "0" * 64}, under.digests | {"limits": "0" * 64}):
        with pytest.raises(DataError, match="not those of the running session"):
            under.check(wrong)


@pytest.mark.parametrize("name", ["limits.yaml", "task.yaml"])
def test_an_edited_file_is_refused(session: Path, name: str) -> None:
    path = session / name
    path.write_text(path.read_text() + "\n# nothing but a comment\n")
    with pytest.raises(DataError, match="not the one the session began with"):
        conditions.load(session)


def test_tightening_is_kept_and_named(session: Path) -> None:
    before = conditions.load(session)
    change = conditions.change_of(before.limits, ["translation.speed=0.1", "recoveries.count=1"])
    assert change == {"arms": {"": {"translation": {"speed": 0.1}}}, "recoveries": {"count": 1}}
    after = conditions.tighten(session, change)
    assert after.limits.arms[""].translation.speed == 0.1
    assert after.history == (before.limits.digest(), after.limits.digest())
    assert conditions.load(session).digests == after.digests != before.digests
    assert verify(session) == []


@pytest.mark.parametrize(
    "words",
    [
        "translation.speed=9.9",
        "force=null",
        "workspace.high=[9,9,9]",
        "nonsense=1",
        "force",
        "force=[",
        "heartbeat_s={}",
        "=",
    ],
)
def test_what_would_loosen_or_is_no_limit_is_refused(session: Path, words: str) -> None:
    before = conditions.load(session)
    with pytest.raises(ConfigError):
        conditions.tighten(session, conditions.change_of(before.limits, [words]))
    assert conditions.load(session).digests == before.digests


def test_two_arms_need_a_name() -> None:
    limits = Limits.load(RealTask.load("insert_bills").limits_path)
    with pytest.raises(ConfigError, match="which arm"):
        conditions.change_of(limits, ["force=5"])
    assert conditions.change_of(limits, ["force=5"], "left.") == {"arms": {"left.": {"force": 5}}}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1]",
        "[[]]",
        '[{"arms": {"": {"force": 1e9}}}]',
        '[{"format_version": 2}]',
        "[" * 100_000,
        "",
        "null",
        "[{}",
        '"x"',
    ],
    ids=range(10),
)
def test_an_edited_list_of_changes_never_loosens(session: Path, text: str) -> None:
    before = conditions.load(session)
    (session / conditions.TIGHTENED).write_text(text)
    try:
        after = conditions.load(session)
    except ZprlError:
        return
    assert not list(_loosened(before.limits, after.limits))


def test_changes_that_have_gone_are_no_tightening(session: Path) -> None:
    conditions.tighten(session, {"heartbeat_s": {"policy": 5.0}})
    before = conditions.load(session)
    conditions.tighten(session, {"arms": {"": {"force": 5.0}}})
    before.check_tighter(conditions.load(session))
    (session / conditions.TIGHTENED).write_text('[{"arms": {"": {"force": 5.0}}}]')
    with pytest.raises(DataError, match="would be loosened"):
        before.check_tighter(conditions.load(session))


def test_a_home_outside_the_workspace_is_refused_before_it_counts(session: Path) -> None:
    with pytest.raises(ConfigError, match="home position"):
        conditions.tighten(session, {"arms": {"": {"workspace": {"high": [0.3, 0.2, 0.5]}}}})
    assert not (session / conditions.TIGHTENED).exists()


def test_two_who_tighten_at_once_lose_nothing(session: Path) -> None:
    bounds = [20.0 - n / 10 for n in range(40)]

    def lower(force: float) -> None:
        with contextlib.suppress(ConfigError):  # a lower one was first
            conditions.tighten(session, {"arms": {"": {"force": force}}})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lower, bounds))
    assert conditions.load(session).limits.arms[""].force == min(bounds)


def test_a_name_given_twice_is_no_crash(session: Path) -> None:
    limits = conditions.load(session).limits
    with pytest.raises(ConfigError, match="given twice"):
        conditions.change_of(limits, ["translation=1", "translation.speed=0.2"])


def test_an_episode_under_limits_that_nobody_put_in_force_is_damage(session: Path) -> None:
    conditions.tighten(session, {"arms": {"": {"force": 5.0}}})
    digest = conditions.load(session).digests["limits"]
    with SessionStore.open(session, write=True) as store:
        writer = store.open_episode(4, limits_digest=digest)
        made.Rows(4).write(writer)
        writer.commit(made.facts("evaluate_after"))
    assert verify(session) == []
    (session / conditions.TIGHTENED).unlink()
    assert "other limits" in str(verify(session)[0])


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.integers(),
    st.lists(st.floats(-2, 2), max_size=3),
)
NAMES = st.sampled_from(
    [
        "force",
        "torque",
        "max_step",
        "tracking_clip",
        "measured_speed",
        "translation",
        "workspace",
        "keep_out",
        "debounce_ticks",
    ]
)


LIMITS = Limits.load(RealTask.load("lift_cube").limits_path)


@settings(max_examples=300, deadline=None)
@given(
    made=st.lists(
        st.dictionaries(
            NAMES, st.one_of(VALUES, st.dictionaries(st.sampled_from(["speed", "high"]), VALUES))
        )
    )
)
def test_no_list_of_changes_loosens_anything(made: list) -> None:
    try:
        after = conditions.applied(LIMITS, [{"arms": {"": change}} for change in made])[-1]
    except ConfigError:
        return
    assert not list(_loosened(LIMITS, after))
