"""Defects of demonstrations, in a form that people, JSON and tests can read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

CODES: dict[str, str] = {
    "D01": "not a readable file of the expected kind",
    "D02": "group, dataset or attribute missing",
    "D03": "lengths differ",
    "D04": "NaN or infinity",
    "D05": "wrong type or shape",
    "D06": "action outside declared bounds",
    "D07": "actions are not what is declared",
    "D08": "not a rotation",
    "D09": "timestamps do not fit the rate",
    "D10": "frozen robot",
    "D11": "jump between frames",
    "D12": "too short",
    "D13": "duplicate",
    "D14": "constant dimension",
    "D15": "different simulator versions",
    "D16": "link, external storage or unknown filter",
    "D17": "declared size beyond the limit",
    "D18": "unsafe or ambiguous name",
    "D19": "objects instead of numbers",
    "D20": "unsupported format version",
    "D21": "no success",
    "D22": "observation key missing",
    "D23": "recipe names nothing",
    "D24": "changed by the recipe",
    "D30": "left out by its own label",
}
"""Defect codes and their short titles.  Codes are stable: scripts may rely on them."""


@dataclass(frozen=True)
class Finding:
    """One defect.

    Attributes:
        code: One of :data:`CODES`.
        severity: ``error`` keeps the episode out (or, without an episode, fails the stage),
            ``warning`` asks for a look, ``note`` is for information.
        file: The file as it was named to the reader; empty for findings on the whole set.
        message: One sentence with the numbers.
        remedy: One sentence.
        episode: ``<file stem>/<demo_i>``, or ``None`` when the whole file or set is meant.
        frame: First frame concerned.
    """

    code: str
    severity: Literal["error", "warning", "note"]
    file: str
    message: str
    remedy: str
    episode: str | None = None
    frame: int | None = None

    @property
    def where(self) -> str:
        """File, episode and frame in one phrase."""
        parts = [
            self.file,
            self.episode and f"episode {self.episode}",
            None if self.frame is None else f"frame {self.frame}",
        ]
        return ", ".join(part for part in parts if part) or "all episodes"

    def __str__(self) -> str:
        return f"{self.code} {self.where}: {self.message}; {self.remedy}"

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object of all fields."""
        return asdict(self)
