"""Every stage of the real pipeline, on real physics at smoke size: killed, run again, and compared with the uninterrupted run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.factories import write_demo_file
from zprl import child_processes, durable

ROOT = Path(__file__).parents[2]
STAGES = {
    "ingest": (["pipelines.stages.ingest"], ["episodes"]),
    "pretrain": (["pipelines.stages.pretrain"], ["base"]),
    "evaluate_base": (
        ["pipelines.stages.evaluate_base"],
        ["evaluation/embedding", "evaluation/base"],
    ),
    "finetune_sim": (["pipelines.stages.finetune_sim", "finetune_sim"], ["steering/finetune_sim"]),
    "finetune_action_residual": (
        ["pipelines.stages.finetune_sim", "action_residual"],
        ["steering/action_residual"],
    ),
    "evaluate": (
        ["pipelines.stages.evaluate"],
        ["evaluation/finetune_sim", "evaluation/action_residual"],
    ),
    "report": (["pipelines.stages.report"], ["report"]),
}
STANDING = ("ingest", "finetune_sim")
"""Killed every time; the others work with the same parts."""
PARAMS = """
run: {seed: 3}
task: {episode_steps: 24}
policy: {embedding_dim: 8, encoder_hidden: [16], mlp_hidden: [16], time_embedding_dim: 8, flow_steps: 2}
vib: {hidden: [16]}
pretrain: {steps: 30, batch_size: 16, warmup_steps: 2, checkpoint_every: 10, log_every: 10, validation_fraction: 0.2}
evaluate: {episodes: 4, video_episodes: 1}
finetune_sim:
  budget: {num_envs: 4, segments: 2, chunk_steps_per_segment: 5}
  exploration: {warmup_chunks: 8}
  demonstrations: {fraction: 0.25, residual: fitted}
  networks: {hidden: [16]}
  updates: {batch_size: 16}
"""


def run(folder: Path, strike: int, command: list[str]) -> int:
    done = subprocess.run(
        child_processes.python("-m", "tests.faults.strike_module", str(strike), *command),
        cwd=folder,
        env=child_processes.environment(
            PYTHONPATH=str(ROOT), ZPRL_TRACKING="off", OMP_NUM_THREADS="1", MPLBACKEND="Agg"
        ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, -9), done.stderr[-3000:]
    return done.returncode


class Reference:
    """A project run stage by stage without interruption, as far as it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.counts = folder, {}
        (folder / "data").mkdir()
        write_demo_file(folder / "data" / "demos.hdf5", 6)
        (folder / "params.yaml").write_text(PARAMS)

    def up_to(self, name: str) -> int:
        """Run what is still to run for ``name`` to be there.

        Returns:
            How many durable operations the stage made.
        """
        for each, (command, _) in STAGES.items():
            if each not in self.counts:
                assert run(self.folder, 0, command) == 0
                self.counts[each] = int((self.folder / "COUNT").read_text())
            if each == name:
                return self.counts[name]
        raise KeyError(name)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("whole"))


@pytest.mark.isaac
@pytest.mark.timeout(1200)  # the first one runs the stages before it, too
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in STANDING else pytest.mark.exhaustive)
        for name in STAGES
    ],
)
def test_killed_stage_arrives_at_the_same_bytes(
    name: str, reference: Reference, tmp_path: Path
) -> None:
    command, outputs = STAGES[name]
    count = reference.up_to(name)
    folder = tmp_path / "killed"
    shutil.copytree(reference.folder, folder, ignore=shutil.ignore_patterns("runs"))
    for output in outputs:
        shutil.rmtree(folder / "artifacts" / output)
    # Once in the middle, once more right before the end: the second attempt starts from what the
    # first one left.
    assert run(folder, max(2, count * 2 // 3), command) == -9
    assert run(folder, 0, command) == 0
    for output in outputs:
        assert durable.digest(folder / "artifacts" / output) == durable.digest(
            reference.folder / "artifacts" / output
        ), output
