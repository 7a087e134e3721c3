"""The base of all contents of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError

from zprl.errors import DataError
from zprl.strict_model import FiniteModel

MAX_REASON = 200
"""Characters of an error's place and of its text."""


class Contents(FiniteModel):
    """The contents of a message; an unknown key is refused."""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read the JSON object of a message.

        Raises:
            DataError: it is something else.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))[:MAX_REASON]
            raise DataError(
                f"a malformed message, {place or 'as a whole'}: {first['msg'][:MAX_REASON]}",
                remedy="stop others that write to the session's sockets",
            ) from error

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the message; facts that were not given are left out."""
        return self.model_dump(mode="json", exclude_unset=True)
