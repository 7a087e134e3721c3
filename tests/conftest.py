"""What all tests share: the device, property tests that are the same every time, and a second chance for tests of real time.

A machine that others share stalls now and then: that fails no property, and a test of real time
only if it comes twice.
"""

from __future__ import annotations

import logging

import pytest
from hypothesis import settings

from zprl import logs

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)  # `make test-all`: new examples each time
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where tests marked gpu put tensors and simulators",
    )


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    """What ``--device`` names; one for the whole run, because PhysX stays where a process first started it."""
    found: str = pytestconfig.getoption("--device")
    if found == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.exit("--device cuda, and torch sees no GPU", returncode=4)
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give every test our loggers as they are before an entry point configures them."""
    for logger in map(logging.getLogger, logs.PACKAGES):
        logger.handlers[:] = []
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("realtime"):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=5))
