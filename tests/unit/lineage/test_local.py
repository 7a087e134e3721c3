"""Records of what lies in the project: bundles, compared bytes, bounded sizes, data.dvc."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from zprl import durable
from zprl.errors import DataError
from zprl.lineage import local
from zprl.lineage.records import HERE

MD5 = "0123456789abcdef0123456789abcdef.dir"
DATA_DVC = f"outs:\n- md5: {MD5}\n  path: data\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def bundle(path: Path | str, **document: Any) -> Path:
    durable.write_json(Path(path) / local.DOCUMENT, document)
    return Path(path)


def test_a_folder_is_a_bundle_or_holds_some() -> None:
    base, steering = bundle("policy/base"), bundle("policy/steering")
    Path("policy/notes").mkdir()
    assert local.bundles(base) == [base]
    assert local.bundles(Path("policy")) == [base, steering]
    assert local.bundles(Path("policy/notes")) == local.bundles(Path("lost")) == []


def test_a_base_policy_names_its_stage_its_inputs_and_its_settings() -> None:
    path = bundle(
        "artifacts/base",
        kind="policy",
        provenance={
            "stage": "pretrain",
            "inputs": {"artifacts/episodes": "e" * 64},
            "seed": 3,
            "pretrain": {"steps": 20, "betas": {"first": 0.9}},
            "latent_stats": {"anchor_rms": 1.5},
        },
    )
    run = local.of_bundle(path)
    assert (run.id, run.stage, run.status) == ("artifacts/base", "pretrain", HERE)
    assert run.inputs == {"artifacts/episodes": "e" * 64}
    assert run.outputs == {"artifacts/base": durable.digest(path)}
    assert run.params == {"seed": "3", "pretrain.steps": "20", "pretrain.betas.first": "0.9"}


@pytest.mark.parametrize(
    ("provenance", "stage"), [({}, "finetune"), ({"session": "s1"}, "finetune_real")]
)
def test_a_steering_bundle_was_made_from_its_base(provenance: dict[str, str], stage: str) -> None:
    path = bundle("s", kind="steering", base_digest="b" * 64, provenance=provenance)
    run = local.of_bundle(path)
    assert (run.stage, run.inputs) == (stage, {"artifacts/base": "b" * 64})


def test_a_bundle_that_is_no_object_is_refused_and_passed_over_among_others() -> None:
    durable.write_json(Path("artifacts/base") / local.DOCUMENT, ["not", "an", "object"])
    good = bundle("artifacts/steering/finetune_sim", kind="steering")
    with pytest.raises(DataError, match="does not describe a bundle"):
        local.of_bundle(Path("artifacts/base"))
    assert [run.id for run in local.runs()] == [good.as_posix()]
    with pytest.raises(DataError, match="does not describe a bundle"):
        local.runs([Path("artifacts/base")])


def test_a_bundle_named_twice_is_one_record() -> None:
    path = bundle("artifacts/base", kind="policy")
    assert [run.id for run in local.runs([path])] == ["artifacts/base"]


def test_bytes_are_compared_inside_the_project_alone(tmp_path: Path) -> None:
    Path("here.txt").write_text("one")
    (tmp_path / "outside.txt").write_text("one")
    Path("link.txt").symlink_to(tmp_path / "outside.txt")
    digest = durable.digest(Path("here.txt"))
    state = local.Bytes().state
    assert state("here.txt", digest) == "same bytes"
    assert state("here.txt", "0" * 64) == "other bytes"
    assert state("lost.txt", digest) == "not here"
    for path in (str(tmp_path / "outside.txt"), "../outside.txt", "link.txt", "", "a\0b"):
        assert state(path, digest) == "not looked at", path


def test_a_path_is_read_once_and_known_digests_are_not_read() -> None:
    Path("here.txt").write_text("one")
    compared = local.Bytes({"elsewhere": "d"})
    digest = durable.digest(Path("here.txt"))
    assert compared.state("here.txt", digest) == "same bytes"
    Path("here.txt").write_text("two")
    assert compared.state("here.txt", digest) == "same bytes"
    assert compared.state("elsewhere", "d") == "same bytes"


def test_no_more_than_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of 100 bytes cost 100 and the opening each; one and a half of them are allowed."""
    for name in ("a", "b"):
        Path(name).write_bytes(bytes(100))
    monkeypatch.setattr(local, "MAX_READ", 3 * (100 + local.FILE_COST) // 2)
    compared = local.Bytes()
    assert compared.state("a", "x") == "other bytes"
    assert compared.state("b", "x") == "not looked at"


def test_a_folder_costs_its_files_and_their_opening() -> None:
    Path("folder/inner").mkdir(parents=True)
    Path("folder/one").write_bytes(bytes(10))
    Path("folder/inner/two").write_bytes(bytes(5))
    # The two folders are opened as well.
    assert local.cost(Path("folder"), 2**30) == 15 + 4 * local.FILE_COST
    with pytest.raises(DataError, match="too large"):
        local.cost(Path("folder"), 15 + 3 * local.FILE_COST)


def test_the_hash_of_the_demonstrations_is_data_dvc_s(project: Path) -> None:
    assert local.data_md5("") is None
    (project / "data.dvc").write_text(DATA_DVC)
    assert local.data_md5("") == MD5
    (project / "data.dvc").write_text("outs: []\n")
    assert local.data_md5("") is None


def test_the_hash_at_a_commit_is_that_of_its_data_dvc(project: Path) -> None:
    def git(*arguments: str) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", *names, *arguments], capture_output=True, text=True, check=True, cwd=project
        )
        return done.stdout.strip()

    git("init", "-q")
    (project / "data.dvc").write_text(DATA_DVC)
    git("add", "data.dvc")
    git("commit", "-q", "-m", "Add demonstrations")
    commit = git("rev-parse", "HEAD")
    (project / "data.dvc").write_text(DATA_DVC.replace("0", "f"))
    assert local.data_md5(commit) == local.data_md5(f"{commit}-dirty") == MD5
    assert local.data_md5("0" * 40) is None
    # What is no commit's name never reaches git, and has no demonstrations here.
    assert local.data_md5("--help") is None
