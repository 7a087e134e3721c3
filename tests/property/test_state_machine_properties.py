"""What the state machine promises, whatever happens in whatever order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machine_run import MachineRun, of, phases
from zprl.robot.base import StopLevel
from zprl.robot.limits import Recoveries
from zprl.session.events import (
    CommitEpisode,
    Committed,
    CommittedEpisode,
    Died,
    Discard,
    EStop,
    Fault,
    GoHome,
    Homed,
    Input,
    InputEvent,
    Label,
    Labelled,
    Lost,
    PhaseKind,
    Progress,
    Ready,
    Recover,
    Recovered,
    Restarted,
    StartEpisode,
    State,
    Stop,
    Stopped,
    StoreLabel,
    Tick,
    TimeUp,
    VersionAvailable,
)
from zprl.session.state_machine import NON_CRITICAL, Machine

PLAN = phases(1, 3, 2)
MOVES = (GoHome, StartEpisode)
episodes = st.one_of(st.just("current"), st.just("current"), st.integers(0, 9))
processes = st.sampled_from(["driver", "actor", "recorder", "learner", "console"])
disturbances = st.one_of(
    st.just(("answer", 0)),  # the world does what was asked of it
    st.just(("answer", 0)),
    st.tuples(
        st.just("input"), st.tuples(st.sampled_from(list(Input)), episodes, st.integers(0, 40))
    ),
    st.tuples(
        st.just("label"),
        st.tuples(
            st.sampled_from([Input.SUCCESS, Input.FAILURE]),
            st.just("current"),
            st.integers(41, 10**6),
        ),
    ),
    st.tuples(
        st.just("episode"), st.tuples(st.sampled_from([TimeUp, Stopped, Committed, Lost]), episodes)
    ),
    st.tuples(
        st.just("event"),
        st.sampled_from(
            [
                Ready(),
                Homed(),
                EStop("pedal"),
                Recovered(True),
                Recovered(False),
                VersionAvailable(99),
            ]
        ),
    ),
    st.tuples(
        st.just("event"),
        st.builds(Fault, st.sampled_from(list(StopLevel)), st.just("reflex"), st.booleans()),
    ),
    st.tuples(
        st.just("event"), st.builds(Labelled, st.integers(0, 9), st.just("n1"), st.integers(0, 9))
    ),
    st.tuples(
        st.just("event"), st.one_of(st.builds(Died, processes), st.builds(Restarted, processes))
    ),
    st.tuples(st.just("event"), st.builds(Tick, st.floats(0, 1e6))),
)
steps = st.tuples(st.integers(0, 9), disturbances).map(
    lambda pair: ("tend", 0) if pair[0] < 7 else pair[1]
)  # mostly all goes well


class World(MachineRun):
    """Answers a machine's actions and checks every promise at every event."""

    def __init__(self, machine):
        super().__init__(machine)
        self.asked = [Ready()]
        self.started, self.committed, self.discarded = [], [], []
        self.stored = {}
        self.labelled = []

    def handle(self, event):
        before = self.machine.state
        known, number = dict(self.machine.episodes), self.machine.seq
        actions = super().handle(event)
        assert self.machine.seq - number in (0, 1)
        assert (
            self.machine.seq > number or self.machine.state is before
        )  # a press for another state is known as such
        estop = isinstance(event, EStop) or (
            isinstance(event, InputEvent) and event.kind is Input.ESTOP
        )
        clear = isinstance(event, InputEvent) and event.kind is Input.CLEAR
        if isinstance(event, InputEvent) and event.kind is Input.PAUSE:
            assert not self.machine.refused  # whatever the state
            assert not of((*MOVES, Recover), actions)
        if estop:
            assert before is State.ESTOP or actions[0] == Stop(StopLevel.HARD)
            assert self.machine.state is State.ESTOP
        if before is State.ESTOP and not clear:
            assert self.machine.state is State.ESTOP
            assert not of((*MOVES, Recover), actions)
        if self.machine.state in (State.FAULT, State.ESTOP, State.PAUSED):
            assert not of(MOVES, actions)
        if self.machine.state in (State.RUNNING, State.HOMING):
            assert self.machine.estopped is None
            assert self.machine.fault is None
            assert not self.machine.dead - NON_CRITICAL
        assert set(known) <= set(self.machine.episodes)  # what is committed is never forgotten
        assert all(
            known[n].label is None or self.machine.episodes[n].label is not None for n in known
        )
        for action in actions:
            self.note(action, event)
        return actions

    def note(self, action, event):
        if isinstance(action, StartEpisode):
            assert isinstance(
                event, InputEvent
            )  # an arm moves because of a press of now, never of one of long ago
            assert event.kind is Input.RESET_DONE
            assert not self.machine.paused
            assert action.number > max(self.started, default=0)
            self.started.append(action.number)
            self.asked.append(Stopped(action.number))
        elif isinstance(action, CommitEpisode):
            assert action.number not in self.committed + self.discarded
            self.committed.append(action.number)
            self.asked.append(Committed(action.number))
            if action.label:
                self.line(action.label, event)
        elif isinstance(action, Discard):
            assert action.number in self.started
            assert action.number not in self.discarded
            assert action.number not in self.machine.episodes
            self.discarded.append(action.number)
            self.asked = [
                a
                for a in self.asked
                if not (isinstance(a, tuple) and a[1].episode == action.number)
            ]  # no episode, no line
        elif isinstance(action, StoreLabel):
            self.line(action, event)
        elif isinstance(action, GoHome):
            self.asked.append(Homed())
        elif isinstance(action, Recover):
            self.asked.append(Recovered(True))

    def line(self, label, event):
        """A label is stored once; again only because the recorder came back, and then unchanged."""
        if label.nonce in self.stored:
            assert event == Restarted("recorder")
            assert self.stored[label.nonce] == label
        self.stored[label.nonce] = label
        self.asked.append(("label", label))

    def answer(self):
        """What was asked first is done; the scene is put in order and the learner catches up."""
        if self.asked:
            event = self.asked.pop(0)
            if isinstance(event, tuple):
                label = event[1]
                if label.nonce not in self.labelled:
                    self.labelled.append(label.nonce)
                event = Labelled(label.episode, label.nonce, self.labelled.index(label.nonce) + 1)
            self.handle(event)
        elif self.machine.state is State.AWAIT_RESET:
            self.handle(VersionAvailable(len(self.labelled)))
            self.press(Input.RESET_DONE, self.machine.number)

    def tend(self):
        """Whatever brings the session forward."""
        machine = self.machine
        for process in sorted(machine.dead):
            self.handle(Restarted(process))
        if (
            machine.open
            and machine.open.committing
            and Committed(machine.open.number) not in self.asked
        ):
            self.asked.append(Committed(machine.open.number))
        if machine.state in (State.FAULT, State.ESTOP):
            self.handle(Ready())
            self.press(Input.CLEAR)
            self.handle(Recovered(True))
        elif machine.state is State.PAUSED:
            self.press(Input.RESUME)
        elif machine.state is State.IDLE:
            self.handle(Ready())
        elif machine.state is State.HOMING:
            self.handle(Homed())
        elif machine.state in (State.RUNNING, State.INTERVENTION, State.STOPPING):
            self.handle(Stopped(machine.number))
        elif machine.state is State.AWAIT_LABEL:
            self.press(Input.FAILURE, machine.open.number if machine.open else machine.pending[0])
        else:
            self.answer()

    def step(self, kind, what):
        if kind == "answer":
            self.answer()
        elif kind == "tend":
            self.tend()
        elif kind in ("input", "label"):
            word, episode, nonce = what
            self.handle(
                InputEvent(
                    word,
                    f"n{nonce}",
                    "test",
                    self.machine.number if episode == "current" else episode,
                )
            )
        elif kind == "episode":
            event, episode = what
            self.handle(event(self.machine.number if episode == "current" else episode))
        else:
            self.handle(what)


@settings(max_examples=200, deadline=None)
@given(
    happenings=st.lists(steps, min_size=20, max_size=120),
    mode=st.sampled_from(["async", "sync"]),
    interrupted=st.sampled_from(["discard", "label"]),
    count=st.integers(0, 3),
)
def test_the_promises_hold(happenings, mode, interrupted, count):
    world = World(
        Machine(
            PLAN,
            mode=mode,
            interrupted=interrupted,
            recoveries=Recoveries(count=count, window_s=100.0),
        )
    )
    for kind, what in happenings:
        world.step(kind, what)
    for phase in PLAN:  # starts: each slot of a phase is counted at most once
        kept = [k.start_number for k in world.machine.episodes.values() if k.kind is phase.kind]
        assert all(0 <= n <= max(phase.episodes, len(kept)) for n in kept)


@settings(max_examples=100, deadline=None)
@given(
    happenings=st.lists(steps, min_size=10, max_size=60),
    mode=st.sampled_from(["async", "sync"]),
    cut=st.integers(0, 60),
)
def test_whatever_happened_a_patient_operator_finishes_the_plan(happenings, mode, cut):
    """Also across a restart of the supervisor, which knows only what is on disk."""
    world = World(Machine(PLAN, mode=mode))
    for kind, what in happenings[:cut]:
        world.step(kind, what)
    old = world.machine
    stored = {
        label.episode: label for nonce, label in world.stored.items() if nonce in world.labelled
    }
    on_disk = tuple(
        CommittedEpisode(
            k.number, k.kind, k.start_number, stored[k.number].label if k.number in stored else None
        )
        for k in old.episodes.values()
    )
    training = [
        i + 1
        for i, n in enumerate(world.labelled)
        if old.episodes[world.stored[n].episode].kind is PhaseKind.TRAIN
    ]
    progress = Progress(
        on_disk,
        old.last_number,
        max(training, default=0),
        frozenset(world.labelled),
        old.final,
        old.estopped is not None,
    )
    new = World(Machine(PLAN, progress, mode=mode))
    new.presses = world.presses  # an operator's nonces are never used again
    new.started, new.labelled, new.stored = (
        world.started,
        world.labelled,
        {n: world.stored[n] for n in world.labelled},
    )
    new.committed, new.discarded = [k.number for k in on_disk], []
    for kind, what in happenings[cut:]:
        new.step(kind, what)
    _finish(new)
    for phase in PLAN:
        good = [
            k
            for k in new.machine.episodes.values()
            if k.kind is phase.kind and k.label in (Label.SUCCESS, Label.FAILURE)
        ]
        later = [
            k
            for k in new.machine.episodes.values()
            if k.kind is not phase.kind
            and list(PhaseKind).index(k.kind) > list(PhaseKind).index(phase.kind)
        ]
        assert (
            len(good) >= phase.episodes or later
        )  # an episode discarded after the next phase began is not repeated
    assert not new.machine.pending


def _finish(world):
    """Everybody does what is asked of them, patiently."""
    for _ in range(400):
        if world.machine.state is State.DONE:
            return
        world.tend()
    machine = world.machine
    raise AssertionError(
        f"stuck in {machine.state}: {machine.fault}, pending {machine.pending}, dead {machine.dead}"
    )
