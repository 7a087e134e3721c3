"""Any process of a session is killed at any moment: nothing that was committed is lost or doubled, and the session comes to its end.

``python tests/faults/test_session_kill.py 50`` kills at fifty random moments and reports.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.session_run import Session, make_session
from zprl import durable, seeding
from zprl.recordings.store import SessionStore
from zprl.recordings.verify import verify
from zprl.rl.session_replay import differing, fold
from zprl.robot.limits import MOST_RECOVERIES

pytestmark = pytest.mark.realtime

VICTIMS = ("driver", "actor", "learner", "recorder", "scripted_operator", "supervisor")
HOST = "127.0.11.3"
MANY = {"count": MOST_RECOVERIES, "window_s": 600.0}
WINDOW_S = 12.0
"""Kills of one process come no faster: a supervisor gives up a process that ends six times within a
minute."""


@dataclass
class Report:
    """What a session that was killed again and again came to."""

    kills: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    episodes: int = 0
    repeated: int = 0
    lines: int = 0
    wrong: list[str] = field(default_factory=list)


class Witness:
    """Remembers what was committed and labelled, and finds what changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.episodes: dict[str, str] = {}
        self.labels = b""

    def look(self) -> list[str]:
        """Take in what is on the disk now; returns what is wrong with it."""
        wrong = []
        now = {
            path.name: durable.read_json(path / "episode.json")["digest"]
            for path in self.folder.glob("episodes/[0-9]*")
            if path.suffix == ""
        }
        for name, digest in self.episodes.items():
            if now.get(name) != digest:
                wrong.append(
                    f"episode {name} was committed and is {'gone' if name not in now else 'changed'}"
                )
        labels = (self.folder / "labels.jsonl").read_bytes()
        whole = labels[: labels.rfind(b"\n") + 1]
        if not whole.startswith(self.labels):
            wrong.append("a line of the journal changed")
        self.episodes, self.labels = now, whole
        return wrong


def live(
    folder: Path, kills: int, *, seed: int, patience: float, longest_wait: float = 4.0
) -> Report:
    """Live a session to its end, killing one of its processes now and then."""
    rng = seeding.numpy_generator(seed, "session-kills")
    session, witness, report = Session(folder), Witness(folder), Report()
    begin = time.monotonic()
    last: dict[str, float] = {}
    order = [
        str(name) for _ in range(-(-kills // len(VICTIMS))) for name in rng.permutation(VICTIMS)
    ]
    try:
        session.start()
        for victim in order[:kills]:
            wait = float(rng.uniform(0.0, longest_wait))
            _settle(session, victim, begin + patience)
            end = max(time.monotonic() + wait, last.get(victim, 0.0) + WINDOW_S)
            while time.monotonic() < end and not _over(session):
                time.sleep(0.01)
            pid = session.pids().get(victim)
            if pid is None:
                if _over(session):
                    break
                continue
            os.kill(pid, signal.SIGKILL)
            last[victim] = time.monotonic()
            report.kills.append(victim)
            if victim == "supervisor":
                session.process.wait()
                session.start()
            report.wrong += witness.look()
        while not _over(session):
            if time.monotonic() - begin > patience:
                report.wrong.append(
                    f"the session did not end within {patience:.0f} s\n{session.log()}"
                )
                break
            time.sleep(0.05)
        if _over(session) and session.process.returncode != 0:
            report.wrong.append(
                f"the session ended with {session.process.returncode}\n{session.log()}"
            )
        report.wrong += witness.look()
    finally:
        session.end()
    report.wall_s = time.monotonic() - begin
    _judge(folder, report)
    return report


def _over(session: Session) -> bool:
    return session.process is None or session.process.poll() is not None


def _settle(session: Session, victim: str, deadline: float) -> None:
    """Wait until the process to be killed is there."""
    while not _over(session) and victim not in session.pids() and time.monotonic() < deadline:
        time.sleep(0.01)


def _judge(folder: Path, report: Report) -> None:
    """What is on the disk at the end."""
    report.wrong += [str(damage) for damage in verify(folder)]
    store = SessionStore.open(folder)
    config, episodes, lines = store.header.config, list(store.episodes()), store.labels.in_order()
    report.episodes, report.lines = len(episodes), len(lines)
    report.repeated = max((e.number for e in episodes), default=0) - len(episodes)
    nonces = [line.nonce for line in lines]
    if len(set(nonces)) != len(nonces) or len(lines) != len({line.episode for line in lines}):
        report.wrong.append("an input became two labels")
    labels = store.labels.current()
    for kind, wanted in (
        ("evaluate_before", config.evaluate_episodes),
        ("train", config.train_episodes),
        ("evaluate_after", config.evaluate_episodes),
    ):
        counted = [
            e
            for e in episodes
            if e.phase == kind and labels.get(e.number) in ("success", "failure")
        ]
        starts = sorted(e.start_number for e in counted)
        if starts != list(range(wanted)):
            report.wrong.append(f"{kind} has the starts {starts}, not {wanted} of them")
    if [n for n in store.numbers() if n not in labels]:
        report.wrong.append("an episode has no label")
    leftovers = [p.name for p in (folder / "episodes").iterdir() if not p.name.isdigit()]
    if leftovers and not store.open_numbers():
        report.wrong.append(f"left behind: {leftovers}")
    _, digests = fold(store)
    if versions := differing(store, digests):
        report.wrong.append(f"the replay arrives at other weights for the versions {versions}")
    if not any(version > 0 for e in episodes for version in e.facts.weights):
        report.wrong.append("no weights but the first ever acted")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("franky", reason="the Franka needs franky-control")
    pytest.importorskip("franky_sim", reason="the simulated Franka needs franky-sim")
    return make_session(
        tmp_path / "session",
        HOST,
        steps=20,
        speed=3.0,
        limits={"recoveries": MANY},
        train_episodes=4,
        evaluate_episodes=1,
    )


def test_every_process_is_killed_once(folder: Path) -> None:
    report = live(folder, len(VICTIMS), seed=0, patience=150, longest_wait=1.5)
    assert not report.wrong, "\n".join(report.wrong)
    assert len(report.kills) >= 4


def main(kills: int) -> int:
    """Kill so many times; a session takes twenty-five of them, or what comes before its end."""
    wrong = done = n = 0
    with tempfile.TemporaryDirectory() as temp:
        while done < kills:
            folder = make_session(
                Path(temp) / f"session{n}",
                HOST,
                seed=n,
                steps=40,
                speed=3.0,
                limits={"recoveries": MANY},
                train_episodes=8,
                evaluate_episodes=3,
            )
            report = live(folder, min(25, kills - done), seed=n, patience=900, longest_wait=4.0)
            counts = {name: report.kills.count(name) for name in VICTIMS}
            print(
                f"session {n}: {len(report.kills)} kills {counts}, {report.wall_s:.0f} s; {report.episodes} episodes committed, "
                f"{report.repeated} begun and repeated, {report.lines} labels; "
                + ("nothing lost or doubled" if not report.wrong else "WRONG:"),
                *report.wrong,
                sep="\n",
                flush=True,
            )
            wrong += bool(report.wrong)
            done, n = done + max(1, len(report.kills)), n + 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
