"""These tests need an environment of their own (``make test-mujoco``); elsewhere none of them is collected."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("metaworld") else ["test_*.py"]
