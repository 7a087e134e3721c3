"""A session lived by a small recorder, in forked children that are struck at their n-th durable operation.

``python -m tests.faults.toy_session FOLDER PLAN`` where the plan is JSON: a list of scenarios, each
a list of faults ``[kind, n]``, one per attempt; a last attempt without a fault follows.  Kinds:
``kill`` before the n-th durable operation, ``kill-halfway`` in the middle of the n-th append,
``enospc`` and ``eio`` instead of the n-th operation, ``count``.  What an attempt was told to be
done it notes in ``ACK``, as an operator would remember it.  Prints JSON: per scenario exit codes,
what was lost or doubled, and the session's digest.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from tests import session_factories as made
from tests.session_factories import Rows
from zprl import durable, errors
from zprl.recordings import append_file
from zprl.recordings.store import SessionStore
from zprl.recordings.verify import verify

SESSION, START, ACK, COUNT = Path("session"), Path("start"), Path("ACK"), Path("COUNT")
EPISODES, STEPS = 3, 5
LABELS = {1: "success", 2: "failure", 3: "success"}


def live() -> None:
    """Record what is not recorded yet: a recorder that is started again and again."""
    store = (
        SessionStore.open(SESSION, write=True)
        if SESSION.exists()
        else made.create(SESSION, start=START, train=EPISODES)
    )
    with store:
        for number in range(1, EPISODES + 1):
            if number not in store:
                assert number == store.next_number() or number in store.open_numbers()
                acknowledge(f"commit {number} {record(store, number)}")
            line = store.label(number, LABELS[number], source="test", nonce=f"nonce-{number}")
            acknowledge(f"label {line.seq} {line.episode} {line.label}")


def record(store: SessionStore, number: int) -> str:
    """Begin an episode, or go on with it where its rows end; commit it."""
    rows = Rows(number, steps=STEPS)
    if number in store.open_numbers():
        writer = store.resume_episode(number)
        if not writer.complete:  # a robot does not wait: what a killed recorder missed is gone
            writer.discard()
            writer = store.open_episode(number)
            rows.write(writer)
    else:
        writer = store.open_episode(number)
        rows.write(writer)
    return writer.commit(made.facts())


def acknowledge(text: str) -> None:
    """One write call: there or not there."""
    fd = os.open(ACK, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def strike(kind: str, n: int) -> None:
    """Make the n-th durable operation, or the n-th append, of this process fail."""
    count = 0

    def operation(name: str, path: Path) -> None:
        nonlocal count
        count += 1
        if kind == "count":
            COUNT.write_text(str(count))
        elif count == n and kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif count == n:
            number = errno.ENOSPC if kind == "enospc" else errno.EIO
            raise OSError(number, os.strerror(number), str(path))

    def write(fd: int, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == n:
            os.write(fd, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(fd, data)

    if kind == "kill-halfway":
        append_file._write = write
    else:
        durable.operation = operation


def attempt(fault: list | None) -> int:
    """Live in a forked child; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if fault:
                strike(*fault)
            live()
            code = 0
        except errors.ZprlError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lost() -> list[str]:
    """What was acknowledged and is not there, or not as it was acknowledged, or there twice."""
    said = set(ACK.read_text().splitlines()) if ACK.exists() else set()
    if not SESSION.exists():
        return sorted(said)
    store = SessionStore.open(SESSION)
    there = [f"commit {e.number} {e.digest}" for e in store.episodes()]
    there += [f"label {line.seq} {line.episode} {line.label}" for line in store.labels.in_order()]
    nonces = [line.nonce for line in store.labels.in_order()]
    damage = [str(d) for d in verify(SESSION) if "part of a line" not in d.message]
    return sorted(said - set(there)) + [n for n in nonces if nonces.count(n) > 1] + damage


def scenario(folder: Path, faults: list) -> dict:
    """Run the attempts, looking at the disk after each."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    made.make_toy_start(START)
    codes, missing = [], []
    for fault in [*faults, None]:
        codes.append(attempt(fault))
        missing += lost()
    return {
        "codes": codes,
        "lost": missing,
        "digest": durable.digest(SESSION),
        "labels": SessionStore.open(SESSION).labels.current(),
        "partial": [str(p) for p in SESSION.rglob("*.partial")]
        + [str(p) for p in Path().glob("*.partial")],
        "count": int(COUNT.read_text()) if COUNT.exists() else None,
    }


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    os.fsync = (
        lambda fd: None
    )  # a killed process loses nothing that the kernel has: waiting for the disk would prove nothing here
    root, plan = Path(sys.argv[1]).resolve(), json.loads(sys.argv[2])
    (root / "warm-up").mkdir(parents=True, exist_ok=True)
    os.chdir(root / "warm-up")
    made.make_toy_start(START)
    live()  # what is imported here is imported once, not in every fork
    results = [scenario(root / "scenario", faults) for faults in plan]
    print("RESULT " + json.dumps(results))
