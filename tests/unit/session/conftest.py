"""Settings of a small session on disk, for the parts of its processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.session_run import REAL, make_session
from zprl.recordings import conditions
from zprl.session import bus
from zprl.session.process import Settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = make_session(tmp_path_factory.mktemp("small") / "session", "127.0.31.21")
    work, sockets = folder.with_name("work"), bus.make_folder()
    work.mkdir()
    yield Settings(
        session=folder,
        sockets=sockets,
        work=work,
        config=REAL,
        seed=0,
        digests=conditions.load(folder).digests,
        rings=sockets.name,
        robot_sim=sockets,
    )
    for left in sockets.iterdir():
        left.unlink()
    sockets.rmdir()
