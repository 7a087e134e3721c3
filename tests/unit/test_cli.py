"""Exit codes and sentences of the command line, in fresh processes where start-up matters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zprl import cli, errors


def zprl(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["zprl", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


HEAVY = {
    "dvc",
    "isaaclab",
    "lightning",
    "matplotlib",
    "mlflow",
    "numpy",
    "prefect",
    "pydantic",
    "scipy",
    "torch",
    "yaml",
}


# typer itself imports pydantic for the help of a command with arguments.
@pytest.mark.parametrize(
    ("command", "heavy"),
    [([], HEAVY), (["bench"], HEAVY - {"pydantic"})],
    ids=["zprl", "zprl bench"],
)
def test_help_imports_nothing_heavy(command: list[str], heavy: set[str]) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom zprl.cli import app\n"
        f"assert CliRunner().invoke(app, {[*command, '--help']}).exit_code == 0\n"
        f"heavy = {heavy} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_list_of_suites_draws_nothing() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom zprl.cli import app\n"
        "assert CliRunner().invoke(app, ['bench', '--list']).exit_code == 0\n"
        "heavy = {'matplotlib', 'scipy', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.DataError("x"), 3),
        (errors.EnvironmentProblem("x"), 4),
        (errors.Interrupted("x"), 5),
        (errors.GateRefused("x"), 6),
        (RuntimeError("x"), 1),
    ],
)
def test_every_error_has_its_exit_code_and_no_traceback(error, code, monkeypatch, capsys) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "_verbose", False)
    assert zprl(monkeypatch=monkeypatch) == code
    text = capsys.readouterr().err
    assert "x" in text
    assert "Traceback" not in text


def test_verbose_shows_the_traceback(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert zprl("-v", "config", "check", monkeypatch=monkeypatch) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr(cli, "_verbose", False)


def test_unknown_command_is_a_usage_error(monkeypatch) -> None:
    assert zprl("fly", monkeypatch=monkeypatch) == 2


def test_version(monkeypatch, capsys) -> None:
    assert zprl("--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.startswith("zprl 0.")


def test_tasks_are_listed(monkeypatch, capsys) -> None:
    assert zprl("env", "list", monkeypatch=monkeypatch) == 0
    assert "isaac/lift-cube" in capsys.readouterr().out


@pytest.mark.parametrize(("accept", "code"), [(True, 0), (False, 6)])
def test_promote_check_tells_the_decision(
    accept, code, monkeypatch, capsys, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("artifacts").mkdir()
    Path("artifacts/promotion.json").write_text(
        json.dumps({"accept": accept, "reasons": ["because"]})
    )
    assert zprl("promote", "--check", monkeypatch=monkeypatch) == code
    assert "because" in capsys.readouterr().out


def test_config_check_finds_a_typo(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("run:\n  sede: 1\n")
    assert zprl("config", "check", monkeypatch=monkeypatch) == 2
    assert "did you mean 'seed'" in capsys.readouterr().err


def test_run_outside_a_project_says_so(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert zprl("run", monkeypatch=monkeypatch) == 2
    assert "not a DVC project" in capsys.readouterr().err
