"""Lines of a process: which are shown, where, and what of them."""

from __future__ import annotations

import logging

import pytest

from zprl import logs
from zprl.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(logs.LEVEL_VARIABLE, raising=False)


def test_a_step_names_itself_and_a_line_is_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log = logs.StageLogger("pretrain", logging.getLogger("pipelines.stages.stage"))
    log.info("step 5/8: loss 0.25")
    log.info("%d %% of %s", 50, "it")
    assert capsys.readouterr().out.splitlines() == [
        "[pretrain] step 5/8: loss 0.25",
        "[pretrain] 50 % of it",
    ]


def test_a_module_that_is_run_logs_like_one_that_is_imported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure()
    logs.StageLogger("robot_session", logging.getLogger("__main__")).info("session: absent")
    assert capsys.readouterr().out == "[robot_session] session: absent\n"


def test_warnings_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log = logging.getLogger("zprl.tracking")
    log.info("fine")
    log.warning("not so fine")
    log.debug("not shown")
    assert capsys.readouterr() == ("fine\n", "not so fine\n")


def test_a_line_is_one_line_without_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure()
    logging.getLogger("zprl").info("a\n\x1b[31mb")
    assert capsys.readouterr().out == "a  [31mb\n"


def test_configuring_twice_prints_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logs.configure()
    logging.getLogger("zprl.rl").info("once")
    assert capsys.readouterr().out == "once\n"


@pytest.mark.parametrize(
    ("level", "out", "err"),
    [
        ("warning", "", "w\n"),
        ("ERROR", "", ""),
        ("debug", "DEBUG zprl.rl: d\nINFO zprl.rl: i\n", "WARNING zprl.rl: w\n"),
        ("", "i\n", "w\n"),
    ],
)
def test_the_level_comes_from_the_environment(
    level: str,
    out: str,
    err: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(logs.LEVEL_VARIABLE, level)
    logs.configure()
    log = logging.getLogger("zprl.rl")
    log.debug("d")
    log.info("i")
    log.warning("w")
    assert capsys.readouterr() == (out, err)


def test_an_unknown_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.LEVEL_VARIABLE, "loud")
    with pytest.raises(ConfigError, match="'loud'"):
        logs.configure()


def test_other_libraries_keep_their_loggers() -> None:
    before = logging.getLogger("prefect").handlers[:], logging.getLogger().handlers[:]
    logs.configure()
    assert (logging.getLogger("prefect").handlers, logging.getLogger().handlers) == before
