"""What is installed is named by version and digest, and by no host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PINS = sorted((ROOT / "infra/pins").glob("*.txt"))
PIN = re.compile(
    r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;]+)(?: ; .+?)?((?: --hash=sha256:[0-9a-f]{64})+)"
)


def pins(path: Path) -> dict[str, str]:
    """Version by name; every line must have a digest."""
    lines = re.sub(r" \\\n +", " ", path.read_text()).splitlines()
    matches = {line: PIN.fullmatch(line) for line in lines}
    assert [line for line, match in matches.items() if match is None] == []
    return {match[1]: match[2] for match in matches.values() if match}


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.stem)
def test_every_pin_has_a_digest(path: Path) -> None:
    assert pins(path)


@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_the_servers_of_a_team_have_the_versions_of_the_clients(name: str) -> None:
    clients, servers = (pins(ROOT / f"infra/pins/{each}.txt") for each in ("isaac", name))
    assert {
        key: version for key, version in servers.items() if clients.get(key, version) != version
    } == {}
    assert name in servers


@pytest.mark.parametrize("path", ["Makefile", "infra/compose.yaml"])
def test_every_install_checks_digests(path: str) -> None:
    installs = [
        line
        for line in (ROOT / path).read_text().splitlines()
        if re.search(r"\bpip install\b|\$\(UV\) pip install", line)
    ]
    installs = [line for line in installs if not line.lstrip().startswith("#")]
    assert len(installs) >= 3
    for line in installs:
        # This checkout itself needs no packages, and what builds it has digests.
        assert "--require-hashes" in line or "--no-deps $(BUILD) -e ." in line, line
