"""Whole sessions for tests: a small policy with the lift-cube layout, the simulated Franka, and parts that a test may play itself.

``python -m tests.session_run FOLDER WORK [PART ...]`` runs a session; each named part
(``scripted``, ``actor``, ``learner``) is an idle process, and whoever started this speaks for it on
the bus (:class:`Stage`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.session_messages import UntypedBus
from tests.session_start import RL, memory
from zprl import child_processes, config, durable, seeding
from zprl.config import Real
from zprl.data.normalizer import Normalizer
from zprl.models.bundle import save_policy
from zprl.models.policy import FlowPolicy, PolicySpec
from zprl.recordings.store import SessionHeader, SessionStore
from zprl.rl import learner_checkpoint
from zprl.rl.sac import Sac
from zprl.rl.session_learner import BASE, DEMOS, STEERING
from zprl.rl.steering_bundle import save_steering
from zprl.rl.steering_spaces import LatentResidual
from zprl.session.bus import Message, ReliableQueue
from zprl.session.messages import Beat, ChunkAnswer, LastEmbedding

ROOT = Path(__file__).parents[1]
TASKS = ROOT / "zprl/robot/tasks"
WIDTHS = {"robot0_eef_pos": 3, "robot0_gripper_qpos": 2, "robot0_gripper_command": 1, "object": 10}
CHUNK, LATENT, EMBEDDING = 4, 2, 6
HOME = (0.4633, 0.0, 0.3855)
DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
"""The tool straight down as a 6-D rotation."""
REAL = Real(
    evaluate_episodes=0,
    train_episodes=1000,
    updates_per_chunk=2.0,
    batch_size=16,
    critic_episodes=1,
)
BEAT_S = 0.2


def small_policy() -> FlowPolicy:
    """A random policy that stays within centimetres of the home pose, tool down, hand open; chunks of 4, latent of 2."""
    draw = torch.Generator().manual_seed(0)
    obs = {key: torch.rand(50, width, generator=draw) for key, width in WIDTHS.items()}
    positions = torch.tensor(HOME) + 0.03 * (2 * torch.rand(50, 3, generator=draw) - 1)
    actions = torch.cat([positions, torch.tensor([*DOWN, 1.0]).expand(50, -1)], -1)
    shape = config.Policy(
        horizon=CHUNK,
        chunk_steps=CHUNK,
        embedding_dim=EMBEDDING,
        encoder_hidden=(8,),
        mlp_hidden=(16,),
        time_embedding_dim=8,
        flow_steps=2,
    )
    spec = PolicySpec(
        obs_dims=WIDTHS,
        action_dim=10,
        policy=shape,
        vib=config.VibConfig(latent_dim=LATENT, hidden=(8,)),
    )
    torch.manual_seed(0)
    return FlowPolicy(spec, Normalizer.fit(obs, actions)).freeze()


def make_start(folder: Path) -> Path:
    """A session's ``start`` folder around :func:`small_policy`."""
    save_policy(folder / BASE, small_policy(), {})
    state_dim = EMBEDDING + LATENT
    agent = Sac(state_dim, torch.full((LATENT,), 0.5), RL, seeding.torch_generator(0, "test-agent"))
    digest = durable.digest(folder / BASE)
    save_steering(
        folder / STEERING,
        agent.actor,
        agent.scale,
        space=LatentResidual(),
        config=RL,
        base_digest=digest,
        provenance={},
    )
    learner_checkpoint.save_checkpoint(folder / "learner", agent, memory(20, state_dim, 0))
    for name in (learner_checkpoint.AGENT, learner_checkpoint.REPLAY):
        (folder / "learner" / name).rename(folder / name)
    (folder / "learner").rmdir()
    durable.write_tensors(folder / DEMOS, memory(12, state_dim, 1).data)
    return folder


def make_session(
    folder: Path,
    host: str,
    *,
    seed: int = 0,
    steps: int = 100,
    task: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    **real: Any,
) -> Path:
    """Begin a session of short episodes on a simulated robot of its own; returns ``folder``.

    Args:
        folder: Where to.
        host: Of the simulated robot, 127.x.
        seed: Of the session.
        steps: Of an episode.
        task: Changes of the lift-cube task file.
        limits: Changes of its limits file.
        real: Changes of :data:`REAL`.
    """
    changed = (
        yaml.safe_load((TASKS / "lift_cube.yaml").read_text())
        | {"episode_steps": steps, "chunk_steps": CHUNK}
        | (task or {})
    )
    changed["arms"][""]["config"]["host"] = host
    bounds = yaml.safe_load((TASKS / "lift_cube.limits.yaml").read_text()) | (limits or {})
    header = SessionHeader(
        id=f"small-{seed}",
        task="lift_cube",
        seed=seed,
        rate_hz=changed["rate_hz"],
        chunk_steps=CHUNK,
        config=REAL.model_copy(update=real),
    )
    texts = {
        "task_yaml": yaml.safe_dump(changed, sort_keys=False),
        "limits_yaml": yaml.safe_dump(bounds, sort_keys=False),
    }
    SessionStore.create(
        folder, header, **texts, start=make_start(folder.with_name(f"{folder.name}.start"))
    ).close()
    return folder


class Session:
    """A session in a process of its own.

    Args:
        folder: Made by :func:`make_session`.
        played: Parts that the test plays.
    """

    def __init__(self, folder: Path, played: tuple[str, ...] = ()) -> None:
        self.folder, self.work, self.played = (
            folder,
            folder.with_name(f"{folder.name}.work"),
            played,
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or go on with it."""
        self.work.mkdir(exist_ok=True)
        (self.work / "settings.json").unlink(missing_ok=True)
        with open(self.work / "session.log", "ab") as log:
            self.process = subprocess.Popen(
                child_processes.python(
                    "-u", "-m", "tests.session_run", str(self.folder), str(self.work), *self.played
                ),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=child_processes.environment(PYTHONPATH=str(ROOT)),
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What the session's processes are told, once it is there."""
        end = time.monotonic() + 180
        while not (self.work / "settings.json").exists():
            assert self.process is not None and self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)
        return durable.read_json(self.work / "settings.json")

    def pids(self) -> dict[str, int]:
        """Living processes by name, ``supervisor`` included."""
        if self.process is None or self.process.poll() is not None:
            return {}
        found = {"supervisor": self.process.pid}
        for pid in _children(self.process.pid):
            module = _module(pid)
            if module.startswith("zprl.session."):
                found[module.rpartition(".")[2]] = pid
        return found

    def log(self) -> str:
        """The last lines of all logs."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self.work.glob("*.log"))
        )

    def end(self) -> None:
        """Stop it, politely, then not."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        family = [process.pid, *_children(process.pid)]
        for pid in family:
            _signal(pid, signal.SIGCONT)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            for pid in family:
                _signal(pid, signal.SIGKILL)
            process.wait()


class Stage(Session):
    """A session whose operator, and more if wanted, is the test.

    ``pump`` hears and answers; everything heard is kept in ``heard`` with the time at which it
    came.
    """

    def __init__(self, folder: Path, played: tuple[str, ...] = ("scripted",)) -> None:
        super().__init__(folder, played)
        self.heard: list[tuple[float, Message]] = []
        self.plan: dict[str, Any] = {"state": "", "number": 0}
        self.label: str | None = "failure"
        """What the operator says when asked; ``None``: nothing."""
        self.resets = True
        self.chunk: Callable[[dict[str, Any]], np.ndarray | None] = lambda request: hold()
        """The targets that a played actor answers a request with, or ``None``."""
        self._beat, self._nonce = 0.0, 0
        self._asked = ""

    def start(self) -> None:
        super().start()
        folder = Path(self.settings["sockets"])
        listen = {
            "supervisor": ["plan"],
            "driver": ["state", "event", "beat", "chunk_request"],
            "actor": ["beat", "event"],
            "learner": ["weights", "beat"],
            "recorder": ["committed", "labelled", "event", "lost"],
        }
        self.buses = {
            name: UntypedBus(folder, name, listen if name == "scripted" else {})
            for name in self.played
        }
        self.bus = self.buses["scripted"]
        self.feed = ReliableQueue(folder, "recorder", reader=False)

    def end(self) -> None:
        super().end()
        for bus in self.buses.values():
            bus.close()
        self.feed.close()

    def pump(self, seconds: float = 0.01) -> None:
        """Hear and answer."""
        assert self.process is not None and self.process.poll() is None, self.log()
        if time.monotonic() - self._beat > BEAT_S:
            self._beat = time.monotonic()
            for bus in self.buses.values():
                bus.publish(Beat(version=0))
        for message in self.bus.poll(seconds):
            self.heard.append((time.monotonic(), message))
            if message.topic == "plan":
                self._answer(message.body)
            elif message.topic == "chunk_request" and "actor" in self.buses:
                self._act(message.body)

    def _answer(self, plan: dict[str, Any]) -> None:
        before, self.plan = self.plan, plan
        if plan["state"] != before["state"]:
            self._nonce += 1
        if plan["state"] == "AWAIT_RESET" and self.resets:
            self.say("reset_done", None, nonce=f"reset-{self._nonce}")
        elif plan["state"] == "AWAIT_LABEL" and self.label:
            for number in plan["pending"] or [plan["number"]]:
                self.say(self.label, number, nonce=f"{self.label}-{number}")

    def _act(self, request: dict[str, Any]) -> None:
        limits = self.plan["digests"]["limits"]
        facts = LastEmbedding(
            number=request["number"],
            decision=request["decision"],
            version=0,
            digest="0" * 64,
            limits=limits,
        )
        if request["final"]:
            self.feed.put(
                "actor",
                facts,
                {"final_embedding": np.zeros(EMBEDDING), "final_anchor": np.zeros(LATENT)},
            )
            return
        targets = self.chunk(request)
        if targets is not None:
            vectors = {
                name: np.zeros(LATENT)
                for name in ("anchor", "residual", "point", "mean", "log_std")
            }
            chunk = ChunkAnswer(**dict(facts), step=request["step"], stamp=request["stamp"])
            self.buses["actor"].publish(chunk, {"targets": targets})
            self.feed.put(
                "actor",
                chunk,
                {"targets": targets, "embedding": np.zeros(EMBEDDING), **vectors},
            )

    def say(self, kind: str, episode: int | None = None, *, nonce: str | None = None) -> None:
        """Be the operator."""
        nonce = nonce or f"{kind}-{time.monotonic_ns()}"
        answers = {"seq": self.plan.get("seq"), "at": self.plan.get("at")}
        self.bus.send(
            "input", {"kind": kind, "episode": episode, "nonce": nonce, "source": "test"} | answers
        )

    def clear(self) -> None:
        """Clear a stop as a person does, who has seen it: a clear at the very moment of an e-stop does not count."""
        end = time.monotonic() + 0.7
        self.until(lambda: time.monotonic() > end, what="a moment")
        self.say("clear")

    def until(self, holds: Callable[[], Any], seconds: float = 20.0, what: str = "it") -> float:
        """Pump until something holds; returns how long that took [s]."""
        begin = time.monotonic()
        while not holds():
            assert time.monotonic() - begin < seconds, (
                f"{what} did not happen in {seconds} s; {self.plan}\n{self.log()}"
            )
            self.pump()
        return time.monotonic() - begin

    def until_state(self, *states: str, seconds: float = 30.0) -> float:
        """Pump until the plan says one of these states."""
        return self.until(lambda: self.plan["state"] in states, seconds, " or ".join(states))

    def running(self, steps: int = 5, seconds: float = 180.0, after: int = 0) -> int:
        """Pump until an episode later than number ``after`` has played so many steps; returns its number."""

        def plays() -> bool:
            rows = self.of("state")
            return (
                self.plan["state"] == "RUNNING"
                and self.plan["number"] > after
                and bool(rows)
                and rows[-1]["number"] == self.plan["number"]
                and rows[-1]["step"] >= steps
            )

        self.until(plays, seconds, f"an episode of {steps} steps")
        return int(self.plan["number"])

    def mark(self) -> None:
        """Forget what was heard so far."""
        self.heard.clear()

    def of(self, topic: str, sender: str | None = None, **wanted: Any) -> list[dict[str, Any]]:
        """Bodies of the messages about a topic since :meth:`mark`."""
        return [
            message.body
            for _, message in self.heard
            if message.topic == topic
            and sender in (None, message.sender)
            and all(message.body.get(k) == v for k, v in wanted.items())
        ]


def hold(
    position: tuple[float, float, float] = HOME, *, steps: int = CHUNK, gripper: float = 1.0
) -> np.ndarray:
    """A chunk that stays at one pose, (C, 10)."""
    return np.tile(np.array([*position, *DOWN, gripper], np.float32), (steps, 1))


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _module(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[words.index(b"-m") + 1].decode()
    except (OSError, ValueError, IndexError):
        return ""


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _main(folder: Path, work: Path, played: tuple[str, ...]) -> int:
    from zprl.errors import ZprlError
    from zprl.session import run, supervisor

    class Played(supervisor.Supervisor):
        def _command(self, name: str) -> list[str]:
            return ["tests.session_run", "idle"] if name in played else super()._command(name)

    run.Supervisor = Played
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    try:
        run.run(folder, work, stopping=lambda: bool(asked))
    except ZprlError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "idle":
        from zprl.parent_death import die_with_parent

        die_with_parent()
        signal.pause()
    else:
        sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3:])))
