"""The phases of a session, its committed episodes, and what the next episode needs."""

from __future__ import annotations

from typing import Literal

from zprl.errors import ConfigError
from zprl.recordings.phases import PhaseKind
from zprl.session.events import CommittedEpisode, Label, Phase, Progress, StoreLabel

Mode = Literal["async", "sync"]


class Schedule:
    """The phases of a session and their progress.

    A phase is complete when so many of its episodes are labelled success or failure; a discarded
    one is repeated from the same start.  Phases never go back: an episode discarded after the next
    phase has begun is not repeated.

    Args:
        phases: Phases, in order.
        progress: What is committed.
        mode: See :class:`zprl.session.state_machine.Machine`.

    Attributes:
        episodes: Number of each committed episode to the episode.
        last_number: The highest number ever given to an episode.
        training_labels: The last stored label, counted from 1, that is about a training episode.
        in_flight: Labels that the recorder has not confirmed, by nonce.
        version: The newest version of the weights.
        final: The version that ``evaluate_after`` judges, once known.

    Raises:
        ConfigError: an impossible plan.
    """

    def __init__(self, phases: tuple[Phase, ...], progress: Progress, mode: Mode) -> None:
        kinds = [phase.kind for phase in phases]
        in_order = kinds == [kind for kind in PhaseKind if kind in kinds]
        if not phases or not in_order or any(phase.episodes < 0 for phase in phases):
            raise ConfigError(
                "a plan has each kind of phase at most once, in the order before, train, after",
                remedy="correct the plan",
            )
        self.phases, self.mode = phases, mode
        self.episodes = {episode.number: episode for episode in progress.episodes}
        self.last_number = max([progress.last_number, *self.episodes])
        self.training_labels = progress.training_labels
        self.in_flight: dict[str, StoreLabel] = {}
        self.version = 0
        self.final = progress.final

    @property
    def pending(self) -> list[int]:
        """Return the committed episodes that wait for a label, oldest first."""
        return sorted(n for n, episode in self.episodes.items() if episode.label is None)

    @property
    def next_phase(self) -> Phase | None:
        """Return the phase of the next episode; ``None`` when the plan is done."""
        kinds = {episode.kind for episode in self.episodes.values()}
        begun = [i for i, phase in enumerate(self.phases) if phase.kind in kinds]
        for phase in self.phases[max(begun, default=0) :]:
            if self._labelled(phase) < phase.episodes:
                return phase
        return None

    def full(self, phase: Phase) -> bool:
        """Return whether a phase has all its episodes, if those without label count."""
        waiting = sum(
            episode.kind is phase.kind and episode.label is None
            for episode in self.episodes.values()
        )
        return self._labelled(phase) + waiting >= phase.episodes

    def _labelled(self, phase: Phase) -> int:
        return sum(
            episode.kind is phase.kind and episode.label in (Label.SUCCESS, Label.FAILURE)
            for episode in self.episodes.values()
        )

    def taken_starts(self, kind: PhaseKind) -> set[int]:
        """Return the start positions of a kind of phase from which an episode counts."""
        return {
            episode.start_number
            for episode in self.episodes.values()
            if episode.kind is kind and episode.label is not Label.DISCARD
        }

    def wanted(self, phase: Phase | None) -> int | None:
        """Return the version of a phase's weights, as :class:`zprl.session.messages.Plan` says."""
        if phase is None or phase.kind is PhaseKind.EVALUATE_BEFORE:
            return None
        if phase.kind is PhaseKind.TRAIN and self.mode == "async":
            return None
        if phase.kind is PhaseKind.EVALUATE_AFTER and self.final is not None:
            return self.final
        return self.training_labels

    def behind(self, phase: Phase | None) -> bool:
        """Return whether the learner has not caught up with the labels that a phase needs."""
        wanted = self.wanted(phase)
        return wanted is not None and (bool(self.in_flight) or self.version < wanted)

    def label(self, line: StoreLabel) -> None:
        """Label a committed episode; the recorder has yet to confirm it."""
        known = self.episodes[line.episode]
        self.episodes[line.episode] = CommittedEpisode(
            known.number, known.kind, known.start_number, line.label
        )
        self.in_flight[line.nonce] = line

    def labelled(self, nonce: str, seq: int) -> None:
        """Take in that a label is stored as line ``seq``, counted from 1."""
        line = self.in_flight.pop(nonce, None)
        if line is not None and self.episodes[line.episode].kind is PhaseKind.TRAIN:
            self.training_labels = max(self.training_labels, seq)
