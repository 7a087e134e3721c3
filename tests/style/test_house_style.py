"""House style: what a reader can rely on in every file of the package."""

from __future__ import annotations

import pytest

from tests.style.code_figures import ROOT, Module, modules, repeated_classes

MODULES = list(modules(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.path))
def test_a_file_keeps_the_house_style(module: Module) -> None:
    """Length of lines, functions and files, visible steps, docstrings, words of the glossary."""
    places = [f"{module.path}:{line}: {sentence}" for line, sentence in sorted(module.broken)]
    assert not places, "\n".join(places)


def test_no_two_public_classes_share_a_name() -> None:
    assert not repeated_classes(MODULES)
