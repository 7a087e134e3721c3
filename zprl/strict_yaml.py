"""YAML that anybody may have written, as plain values and in bounded time and memory.

Every reader of YAML comes here; a file that another library reads is checked here first.

Refused are explicit tags, keys given twice or that YAML reads as a number, a truth value, a date or
nothing, and documents that are longer, deeper or of more parts than any of ours.  Anchors and
aliases, a few lines of which can stand for gigabytes, are refused too unless a caller wants them;
then what they stand for is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from zprl import durable
from zprl.errors import ConfigError, DataError

MAX_BYTES = 200_000
"""Longest document unless a caller says otherwise: ours have at most 30 kB."""
BYTES_PER_PART = 80
"""A document may have one key, value or list, aliases written out, for so many bytes of its limit:
each costs half a kilobyte."""
MAX_DEPTH = 20
MAX_DIGITS = 40
"""Of a whole number: longer ones take quadratic time, and Python does not even print them."""
SHOWN = 60
"""Letters of a key, tag or alias that a message shows."""
MAX_REASON = 200
"""Letters of a parser's message that are shown."""
MERGE = "<<"
TEXT = "tag:yaml.org,2002:str"
RESOLVER = yaml.resolver.Resolver()
REMEDY = "write plain lists and mappings, each key once; check the indentation and the quotes"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Constructs plain values alone."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Refuse a number so long that calculating with it is an attack."""
        if len(node.value) > MAX_DIGITS:
            raise _refusal(f"a whole number of more than {MAX_DIGITS} digits", node)
        number: int = super().construct_yaml_int(node)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse(
    text: str | bytes,
    source: str,
    *,
    limit: int = MAX_BYTES,
    aliases: bool = False,
    remedy: str = REMEDY,
) -> Any:
    """Parse one document.

    Args:
        text: The document, UTF-8.
        source: How the message names it.
        limit: Longest text, in bytes.
        aliases: Whether anchors, aliases and merge keys are read.
        remedy: Of the error.

    Raises:
        ConfigError: it is none, or more than the module allows; the line is named.
    """
    if durable.byte_length(text) > limit:
        raise ConfigError(f"{source} is longer than {limit} bytes", remedy=remedy)

    try:
        text = text if isinstance(text, str) else text.decode()
        judge = _Judge(aliases, limit // BYTES_PER_PART)
        for event in yaml.parse(text, Loader=_Loader):  # of which none is kept
            judge.take(event)

        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(
            f"{source}{line} is not valid YAML: {reason[:MAX_REASON]}", remedy=remedy
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{source} is not valid YAML: {reason[:MAX_REASON]}", remedy=remedy
        ) from error


def load(
    path: Path | str, *, limit: int = MAX_BYTES, aliases: bool = False, remedy: str = REMEDY
) -> Any:
    """Read a file as :func:`parse` does.

    Raises:
        FileNotFoundError: it is not there.
        ConfigError: it is not such a document, or cannot be read.
    """
    try:
        data = durable.read_bytes(path, limit)
    except DataError as error:
        raise ConfigError(error.message, remedy=remedy) from error
    return parse(data, str(path), limit=limit, aliases=aliases, remedy=remedy)


@dataclass
class _Open:
    """A list or mapping whose end is to come.

    Attributes:
        anchor: Its name, if it has one.
        before: Parts that came before it.
        keys: Those of a mapping; ``None`` for a list.
        at_key: Whether the next part is a key.
        height: Levels inside it so far.
    """

    anchor: str | None
    before: int
    keys: set[str] | None
    at_key: bool = True
    height: int = 0


@dataclass
class _Judge:
    """Judge of a document by its events, before anything is built of it."""

    aliases: bool
    most: int
    parts: int = 0
    open: list[_Open] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Parts and levels of what has an anchor."""

    def take(self, event: yaml.Event) -> None:
        """Count an event, or refuse the document."""
        if isinstance(event, yaml.CollectionEndEvent):
            self._close(event)
        elif isinstance(event, yaml.NodeEvent):
            self._allowed(event)
            self._place(event)

            parts = self._alias(event) if isinstance(event, yaml.AliasEvent) else 1
            if isinstance(event, yaml.CollectionStartEvent):
                keys: set[str] | None = None
                if isinstance(event, yaml.MappingStartEvent):
                    keys = set()
                self.open.append(_Open(event.anchor, self.parts, keys))
                self._inside(0, event)
            elif isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
                self.sizes[event.anchor] = (1, 0)

            self.parts += parts
            if self.parts > self.most:
                raise _refusal(f"more than {self.most} keys, values and lists", event)

    def _close(self, event: yaml.CollectionEndEvent) -> None:
        """Note the size of a list or mapping that ends."""
        done = self.open.pop()
        if done.anchor is not None:
            self.sizes[done.anchor] = (self.parts - done.before, done.height + 1)
        self._inside(done.height + 1, event)

    def _alias(self, event: yaml.AliasEvent) -> int:
        """Return how many parts an alias stands for."""
        if event.anchor not in self.sizes:
            raise _refusal(
                f"the alias {event.anchor[:SHOWN]} stands for nothing, or for what it is part of",
                event,
            )
        parts, height = self.sizes[event.anchor]
        self._inside(height, event)
        return parts

    def _allowed(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None and not self.aliases:
            raise _refusal("anchors and aliases are not read here", event)
        if (tag := getattr(event, "tag", None)) is not None:
            raise _refusal(f"the tag {tag[:SHOWN]} is not read", event)

    def _place(self, event: yaml.NodeEvent) -> None:
        """Refuse a key given twice, of which the last would win silently."""
        where = self.open[-1] if self.open else None
        if where is None or where.keys is None:
            return
        if where.at_key:
            key = self._key(event)
            if key in where.keys:
                raise _refusal(f"the key '{key[:SHOWN]}' is given twice", event)
            where.keys.add(key)
        where.at_key = not where.at_key

    def _key(self, event: yaml.NodeEvent) -> str:
        """Return a key's text, or refuse one that is no plain text."""
        if not isinstance(event, yaml.ScalarEvent):
            raise _refusal("a key is not plain text", event)
        key: str = event.value
        if key == MERGE:
            if not self.aliases:
                raise _refusal("merge keys are not read here", event)
        elif RESOLVER.resolve(yaml.ScalarNode, key, event.implicit) != TEXT:
            raise _refusal(
                f"the key {key[:SHOWN]} is read as another value than text: quote it", event
            )
        return key

    def _inside(self, levels: int, event: yaml.Event) -> None:
        """Note that the innermost open collection holds so many levels."""
        if len(self.open) + levels > MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        if self.open:
            self.open[-1].height = max(self.open[-1].height, levels)


def _refusal(problem: str, where: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, where.start_mark)


# PyYAML has no types.
class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(value: Any) -> str:
    """Return plain values as a document that :func:`parse` reads.

    A value that stands in it twice is written twice.
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text
