"""``zprl demos``: exit codes, JSON, and sentences that a stranger's file cannot forge."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.factories import ENV_ARGS, make_episode, write_demo_file
from zprl import cli
from zprl.data.writers.robomimic import RobomimicWriter


def zprl(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["zprl", "demos", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, *episodes) -> None:
    with RobomimicWriter(path, ENV_ARGS) as writer:
        for episode in episodes:
            writer.write(episode)


def with_nan(seed: int):
    episode = make_episode(seed)
    episode.actions[5, 0] = np.nan
    return episode


@pytest.mark.parametrize(
    "command", ["check", "inspect", "plot", "play", "add", "convert", "record"]
)
def test_help_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(cli.app, ["demos", command, "--help"])
    assert shown.exit_code == 0
    assert re.search(rf"Example:\s+zprl\s+demos\s+{command}", shown.output)


def test_good_recordings(monkeypatch, capsys) -> None:
    write_demo_file(Path("some/a.hdf5"), 4)
    assert zprl("check", "some", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert re.search(r"good episodes +4\b", shown)
    assert re.search(r"with errors \(kept out\) +0\b", shown)


def test_errors_have_a_line_and_code_3(monkeypatch, capsys) -> None:
    write("a.hdf5", make_episode(0), with_nan(1))
    assert zprl("check", "a.hdf5", monkeypatch=monkeypatch) == 3
    out, err = capsys.readouterr()
    assert (
        "error   D04 a.hdf5, episode a/demo_1, frame 5: actions has 1 values that are not finite; cut or re-record the demo\n"
        in out
    )
    assert "1 errors in a.hdf5" in err


def test_json_is_whole_and_alone_on_stdout(monkeypatch, capsys) -> None:
    write("a.hdf5", make_episode(0), with_nan(1))
    assert zprl("check", "a.hdf5", "--json", monkeypatch=monkeypatch) == 3
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"format", "sources", "good", "bad", "findings", "severities", "list"}
    assert (said["format"], said["good"], said["bad"], said["severities"]["error"]) == (1, 1, 1, 1)
    first = said["list"][0]
    assert set(first) == {"code", "severity", "file", "message", "remedy", "episode", "frame"}
    assert (first["code"], first["episode"], first["frame"]) == ("D04", "a/demo_1", 5)


def test_strict_counts_warnings(monkeypatch, capsys) -> None:
    flipped = make_episode(0)
    flipped.obs["robot0_eef_quat"][20:] *= -1  # the same rotation, written otherwise
    write("a.hdf5", flipped)
    assert zprl("check", "a.hdf5", monkeypatch=monkeypatch) == 0
    assert "warning D08" in capsys.readouterr().out
    assert zprl("check", "a.hdf5", "--strict", monkeypatch=monkeypatch) == 3


def test_the_project_s_shortest_episode_counts(monkeypatch, capsys) -> None:
    write("a.hdf5", make_episode(0, length=20))
    Path("params.yaml").write_text("policy: {horizon: 32, chunk_steps: 32}\n")
    assert zprl("check", "a.hdf5", monkeypatch=monkeypatch) == 3
    assert "D12" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [["check"], ["inspect"], ["plot"], ["play", "0"], ["convert", "b", "--to", "lerobot"]],
)
def test_nothing_there_is_bad_data(command: list[str], monkeypatch, capsys) -> None:
    name, *others = command
    assert zprl(name, "nowhere", *others, monkeypatch=monkeypatch) == 3
    assert "does not exist" in capsys.readouterr().err
    Path("empty").mkdir()
    assert zprl(name, "empty", *others, monkeypatch=monkeypatch) == 3
    assert "there are no recordings" in capsys.readouterr().err


def test_inspect(monkeypatch, capsys) -> None:
    write(
        "a.hdf5", *(make_episode(seed) for seed in range(3)), replace(make_episode(0), name="again")
    )
    assert zprl("inspect", "a.hdf5", "--json", monkeypatch=monkeypatch) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["episodes"], said["frames"], said["complete"]) == (3, 120, True)
    assert said["keys"]["actions"]["width"] == 10
    assert [finding["episode"] for finding in said["duplicates"]] == ["a/demo_3"]
    assert zprl("inspect", "a.hdf5", "--sample", "2", "--card", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "2 good, 0 with errors" in shown
    assert "sampled: 1 source(s) have more episodes" in shown
    text = Path("DATASET.md").read_text()
    assert "| `a.hdf5` | robomimic | 2+ | 80 |" in text


def test_plot_and_play(monkeypatch, capsys) -> None:
    write_demo_file(Path("a.hdf5"), 2, length=20)
    assert zprl("plot", "a.hdf5", "demo_1", "-o", "p.png", monkeypatch=monkeypatch) == 0
    assert "a/demo_1" in capsys.readouterr().out
    assert Image.open("p.png").format == "PNG"
    assert zprl("play", "a.hdf5", "1", "-o", "s.png", monkeypatch=monkeypatch) == 0
    assert "12 of 21 frames of a/demo_1" in capsys.readouterr().out
    assert zprl("play", "a.hdf5", "demo_7", monkeypatch=monkeypatch) == 3
    assert "no episode 'demo_7'" in capsys.readouterr().err
    assert zprl("plot", "a.hdf5", "-o", "p.pdf", monkeypatch=monkeypatch) == 2


def test_play_shows_the_images_without_being_told_their_names(monkeypatch, capsys) -> None:
    episode = make_episode(0, length=20)
    wrist = np.zeros((20, 240, 320, 3), np.uint8)
    wrist[..., 1] = 250
    write("a.hdf5", replace(episode, obs={**episode.obs, "wrist": wrist}))
    assert zprl("play", "a.hdf5", "0", "-o", "s.png", monkeypatch=monkeypatch) == 0
    strip = Image.open("s.png")
    assert strip.size == (4 * 320, 3 * 240)
    assert strip.getpixel((5, 5)) == (0, 250, 0)


def test_what_a_file_says_is_not_obeyed(monkeypatch, capsys) -> None:
    episode = make_episode(0)
    write("[red]a.hdf5", replace(episode, obs={**episode.obs, "[bold]k": episode.obs["object"]}))
    assert zprl("inspect", ".", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "[red]a.hdf5" in shown
    assert "[bold]k" in shown


def test_convert_refuses_other_formats(monkeypatch, capsys) -> None:
    write_demo_file(Path("a.hdf5"), 1)
    assert zprl("convert", "a.hdf5", "b", "--to", "zarr", monkeypatch=monkeypatch) == 2
    assert zprl("convert", "a.hdf5", "b.hdf5", "--to", "robomimic", monkeypatch=monkeypatch) == 0
    assert "b.hdf5: 1 episodes, 40 frames" in capsys.readouterr().out


def test_add_outside_a_project(monkeypatch, capsys) -> None:
    write_demo_file(Path("a.hdf5"), 1)
    assert zprl("add", "a.hdf5", monkeypatch=monkeypatch) == 2
    assert "not a DVC project" in capsys.readouterr().err
    assert not Path("data").exists()
