"""Subsets, corrected labels, cuts and joins of recorded episodes, as a recipe in ``params.yaml``.

Recordings are never edited.  Names are matched against those that readers give; an episode that its
reader could not read does not reach the recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from zprl.config import Recipe
from zprl.data.episode import Episode
from zprl.data.episode_checks import Change
from zprl.data.findings import Finding
from zprl.data.sources import Source

Item = Episode | Finding


class Apply(Change):
    """Applies a recipe; findings at the end say what it changed and which names fit nothing.

    Example::

        read_all(sources, limits=limits, changes=[Apply(Recipe(leave_out=("monday/demo_3",)))])
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._group = {name: group for group in recipe.merge for name in group}
        self._held: dict[str, Episode] = {}
        self._merged: set[str] = set()
        patterns: dict[str, Iterable[str]] = {
            "only": recipe.only or (),
            "leave_out": recipe.leave_out,
            "success": recipe.success,
            "quality": recipe.quality,
            "cut": recipe.cut,
            "merge": self._group,
        }
        # An ordered set: findings name what is left in it at the end.
        self._unused = dict.fromkeys(
            (field, name) for field, names in patterns.items() for name in names
        )
        self._counts: Counter[str] = Counter()

    def __call__(self, source: Source, episode: Episode) -> Iterator[Item]:
        """Yield the episode as it is used, if it is."""
        name, recipe = episode.name, self.recipe
        chosen = recipe.only is None or bool(self._matching("only", recipe.only, name))
        if not chosen or self._matching("leave_out", recipe.leave_out, name):
            self._counts["left out"] += 1
            return

        episode = self._relabelled(episode)
        if recipe.keep_quality is not None and episode.quality not in recipe.keep_quality:
            self._counts["left out by grade"] += 1
            return

        # Of several patterns that fit, the last one counts.
        for pattern in self._matching("cut", recipe.cut, name)[-1:]:
            start, stop = recipe.cut[pattern]
            yield from _cut_findings(source, episode, start, stop)
            if start >= episode.length:
                return
            self._counts["cut"] += 1
            episode = cut(episode, start, stop)

        if name in self._group:
            self._unused.pop(("merge", name), None)
            self._held[name] = episode
            yield from self._joined(source, self._group[name])
        else:
            yield episode

    def end_of_source(self, source: Source) -> Iterator[Item]:
        """Yield episodes that waited in vain for others of their source: they stay apart."""
        for name, episode in self._held.items():
            absent = ", ".join(other for other in self._group[name] if other not in self._held)
            text = (
                f"the recipe joins it with {absent}, "
                "which this source does not have or which is left out"
            )
            remedy = "correct ingest.recipe.merge; only episodes of one source join"
            yield Finding("D23", "warning", source.path.as_posix(), text, remedy, name)
            yield episode
        self._held.clear()

    def findings(self) -> Iterator[Finding]:
        """Yield names in the recipe that fit nothing (D23), and how much it changed (D24)."""
        for field, name in self._unused:
            text = f"ingest.recipe.{field} names {name!r}, which no episode that was read is called"
            remedy = (
                "correct the name; the data report's summary and `zprl demos` show what there is"
            )
            yield Finding("D23", "warning", "", text, remedy)
        if self._counts:
            text = ", ".join(f"{what} {count}" for what, count in sorted(self._counts.items()))
            yield Finding(
                "D24",
                "note",
                "",
                f"episodes that the recipe changed: {text}",
                "the recordings themselves stay as they are",
            )

    def _relabelled(self, episode: Episode) -> Episode:
        """Return the episode with the recipe's labels of success and quality."""
        recipe = self.recipe
        for pattern in self._matching("success", recipe.success, episode.name):
            self._counts["label of success"] += 1
            episode = relabelled(episode, success=recipe.success[pattern])
        for pattern in self._matching("quality", recipe.quality, episode.name):
            self._counts["grade"] += 1
            episode = replace(episode, quality=recipe.quality[pattern])
        return episode

    def _matching(self, field: str, patterns: Iterable[str], name: str) -> list[str]:
        """Return the patterns that fit, in the recipe's order, and note that they were used."""
        fitting = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        for pattern in fitting:
            self._unused.pop((field, pattern), None)
        return fitting

    def _joined(self, source: Source, group: Sequence[str]) -> Iterator[Item]:
        """Yield a group as one episode as soon as all of it is there."""
        if not all(name in self._held for name in group):
            return

        parts = [self._held.pop(name) for name in group]
        try:
            whole = join(parts)
        except ValueError as error:
            text = f"the recipe joins {', '.join(group)}, which do not fit: {error}"
            remedy = "correct ingest.recipe.merge"
            yield Finding("D05", "error", source.path.as_posix(), text, remedy, group[0])
            return
        self._counts["joined"] += len(parts)
        yield whole


def _cut_findings(source: Source, episode: Episode, start: int, stop: int) -> Iterator[Finding]:
    """Yield what is wrong with a cut [start, stop) of an episode (D12, D23)."""
    file, name, remedy = source.path.as_posix(), episode.name, "correct ingest.recipe.cut"
    if stop > episode.length:
        text = f"the recipe's cut [{start}, {stop}) goes beyond its {episode.length} frames"
        yield Finding("D23", "warning", file, text, remedy, name)
    if start >= episode.length:
        text = f"the recipe's cut [{start}, {stop}) leaves none of its {episode.length} frames"
        yield Finding("D12", "error", file, text, remedy, name)


def relabelled(episode: Episode, *, success: bool) -> Episode:
    """Return the same motion with another label.

    The end is in the last frame, and so is a sparse reward of 1 for a success.
    """
    last = _last(episode.length)
    return replace(
        episode, success=success, dones=last, rewards=(last & success).astype(np.float32)
    )


def cut(episode: Episode, start: int, stop: int) -> Episode:
    """Return frames [start, stop) as an episode of their own with the same label.

    A success whose reward of 1 lay in a frame that was cut off has it in its last frame: what is
    cut off at the end of a success is rest.
    """
    part = slice(start, stop)
    rewards = episode.rewards[part].copy()
    if episode.success and (episode.rewards >= 1).any() and not (rewards >= 1).any():
        rewards[-1] = 1.0
    obs = {key: value[part] for key, value in episode.obs.items()}
    return replace(
        episode, obs=obs, actions=episode.actions[part], rewards=rewards, dones=_last(len(rewards))
    )


def join(parts: Sequence[Episode]) -> Episode:
    """Return one episode of all frames, called ``<first>+<second>``.

    Success is that of the last part, and the end is the last frame.

    Raises:
        ValueError: the parts have other observations, widths or rates.
    """
    first, *others = parts
    for other in others:
        shapes = [
            {
                key: (value.dtype, value.shape[1:])
                for key, value in (*e.obs.items(), ("actions", e.actions))
            }
            for e in (first, other)
        ]
        if shapes[0] != shapes[1] or list(first.obs) != list(other.obs):
            raise ValueError("their observations or actions differ")
        if first.rate_hz != other.rate_hz:
            raise ValueError(f"{first.rate_hz} Hz and {other.rate_hz} Hz")
    grades = {part.quality for part in parts}
    return Episode(
        name="+".join([first.name, *(part.name.rpartition("/")[2] for part in others)]),
        obs={key: np.concatenate([part.obs[key] for part in parts]) for key in first.obs},
        actions=np.concatenate([part.actions for part in parts]),
        rewards=np.concatenate([part.rewards for part in parts]),
        dones=_last(sum(part.length for part in parts)),
        success=parts[-1].success,
        quality=grades.pop() if len(grades) == 1 else "unknown",
        rate_hz=first.rate_hz,
    )


def _last(length: int) -> np.ndarray:
    last = np.zeros(length, bool)
    last[-1:] = True
    return last
