"""Small files that stand for much work or memory: every reader of YAML and JSON refuses them within a second and 100 MB."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.security.measured import ROOT, Ended, measured

SECONDS, BYTES = 1.0, 100 * 2**20
EXPECTED = {"ConfigError", "DataError", "RefusedError"}
TEN = ",".join(["x"] * 10)
LAUGHS = f"a0: &a0 [{TEN}]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
YAML = {
    "laughs": LAUGHS,
    "laughs-as-a-value": LAUGHS
    + "report: {title: *a9}\nname: *a9\ntitle: *a9\nobservations: *a9\n",
    "merged": "m0: &m0 {"
    + ",".join(f"k{i}: 1" for i in range(1000))
    + "}\n"
    + "".join(f"m{i}: {{<<: *m0}}\n" for i in range(1, 5000)),
    "of-itself": "run: &a {seed: *a}\n",
    "nested": "run: " + "[" * 50_000,
    "nested-blocks": "- " * 50_000 + "x",
    "nested-braces": "{a: " * 40_000 + "1" + "}" * 40_000,
    "long-integer": f"run: {{seed: {'9' * 5000}}}\n",
    "hexadecimal": f"run: {{seed: 0x{'f' * 150_000}}}\n",
    "sexagesimal": f"run: {{seed: {'59:' * 60_000}1}}\n",
    "sexagesimal-fraction": f"run: {{seed: {'59:' * 60_000}1.5}}\n",
    "no-date": "run: {seed: 2026-99-99}\n",
    "tag": "run: !!python/object/apply:os.system [id]\n",
    "timestamp": "run: !!timestamp never\n",
    "binary": "run: !!binary '===='\n",
    "unknown-keys": "".join(f"k{i}: 1\n" for i in range(600)),
    "unknown-names": "run: {" + ", ".join(f"k{i}: 1" for i in range(600)) + "}\n",
    "many": "run: [" + "[]," * 60_000 + "]\n",
    "long": "run: '" + "x" * 150_000_000 + "'\n",
    "comment": "# x\n" * 24_000 + "run: 1\n",
    "list": "- 1\n",
    "nothing": "",
    "twice": "run: {seed: 1}\nrun: {seed: 2}\n",
    "escape": 'run: "\\e]0;x\\a"\n',
    "null-byte": "run: \0\n",
}
JSON = {
    "nested": "[" * 1_000_000,
    "nested-objects": '{"a":' * 500_000,
    "long-integer": '{"format_version": ' + "9" * 5000 + "}",
    "many-lists": "[" + "[]," * 1_300_000 + "[]]",
    "many-objects": "[" + "{}," * 1_300_000 + "{}]",
    "many-keys": "{" + ",".join(f'"{i:x}":0' for i in range(350_000)) + "}",
    "a-hundred-megabytes": "[" + "[]," * 33_000_000 + "[]]",
    "wide-letters": '["' + "x" * 3_500_000 + '\\ud83e\\udd16"]',
    "lone-surrogate": '{"format_version": "\\ud800"}',
    "infinite": '{"format_version": 1e999}',
    "list": "[]",
    "text": '"x"',
    "nothing": "",
}


def _loader(
    place: str, *more: Any, of: Callable[[Path], Any] = lambda path: path
) -> Callable[[], Callable[[Path], Any]]:
    """Import a function, ``module:name``, and what it needs; then give it a path."""

    def prepare() -> Callable[[Path], Any]:
        module, name = place.split(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return lambda path: found(*more, of(path))

    return prepare


OF_YAML = {
    "params": _loader("zprl.config:load"),
    "config-use": _loader("zprl.presets:use", "smoke"),
    "limits": _loader("zprl.robot.limits:Limits.load"),
    "task": _loader("zprl.robot.task:RealTask.load"),
    "suite": _loader("zprl.bench.suite:load", of=str),
    "terms": _loader("zprl.envs.isaac.isaaclab_terms:IsaacLabTerms.load", "Some-Task", of=str),
    "dvc.lock": _loader("pipelines.dvc_graph:lock_hashes"),
    "data.dvc": _loader("pipelines.summary:data_digest"),
}
OF_JSON = {
    "file": _loader("zprl.durable:read_json"),
    "session": _loader("zprl.recordings.checksummed_json:read"),
    "labels": _loader("zprl.recordings.labels:LabelFile"),
    "runs": _loader("zprl.bench.results:read_runs"),
    "origins": _loader("zprl.data.episode_sources:EpisodeSources.read"),
    "message": _loader("zprl.session.bus:decode", of=lambda path: [b"state", path.read_bytes()]),
    "pose": _loader("zprl.robot_sim.control:decode", of=lambda path: path.read_bytes()),
}
OF_FOLDERS = {
    "store": ("index.json", _loader("zprl.data.store:EpisodeStore.open")),
    "evaluation": ("evaluation.json", _loader("zprl.evaluation.result:Evaluation.read")),
    "policy": ("bundle.json", _loader("zprl.models.bundle:load_policy")),
    "lineage": ("bundle.json", _loader("zprl.lineage.local:of_bundle")),
    "lerobot": ("meta/info.json", _loader("zprl.data.readers.lerobot_meta:read_info")),
    "lerobot-episodes": (
        "meta/episodes.jsonl",
        _loader("zprl.data.readers.lerobot_lists:list_episodes", of=str),
    ),
}
READERS = {f"yaml-{name}": reader for name, reader in OF_YAML.items()} | {
    f"json-{name}": reader for name, reader in OF_JSON.items()
}
READERS |= {name: reader for name, (_, reader) in OF_FOLDERS.items()}
READERS["lerobot-episodes"] = lambda: (lambda of: lambda path: of(str(path), []))(
    importlib.import_module("zprl.data.readers.lerobot_lists").list_episodes
)
READERS["tensors"] = _loader("zprl.durable:read_tensors")
READERS["digest"] = _loader("zprl.durable:digest")
READERS["steering"] = lambda: (
    lambda path: importlib.import_module("zprl.rl.steering_bundle").load_steered(
        path, path.parent.parent / "base"
    )
)
INFO = {
    "codebase_version": "v2.1",
    "fps": 20,
    "features": {},
    "chunks_size": 1000,
    "data_path": "{episode_index}.parquet",
}


def judge(found: dict[str, Ended], *, may_pass: set[str] = frozenset()) -> None:
    """Every file was refused in a sentence, or is one of those that are harmless, within the limits."""
    odd = {
        name: end
        for name, end in found.items()
        if end.kind not in EXPECTED and not (end.kind == "" and name in may_pass)
    }
    slow = {name: end for name, end in found.items() if end.seconds > SECONDS or end.grown > BYTES}
    assert not odd
    assert not slow


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all bombs, each written once."""
    folder = tmp_path_factory.mktemp("bombs")
    for suffix, some in (("yaml", YAML), ("json", JSON)):
        for name, text in some.items():
            (folder / f"{name}.{suffix}").write_text(text)
    return folder


@pytest.mark.parametrize("reader", OF_YAML)
def test_yaml(bombs: Path, tmp_path: Path, reader: str) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for file in bombs.glob("*.yaml"):
        (files / file.name).hardlink_to(file)
    found = measured("test_bombs", f"yaml-{reader}", files)
    assert found.keys() == YAML.keys()
    plain = {
        "comment",
        "nothing",
        "escape",
        "list",
        "unknown-keys",
        "unknown-names",
    }  # what is no bomb, a reader may take
    judge(
        found,
        may_pass=plain
        if reader in ("dvc.lock", "data.dvc")
        else {"nothing"}
        if reader == "params"
        else set(),
    )
    assert "given twice" in found["twice"].said
    assert ", line 2 " in found["twice"].said


@pytest.mark.parametrize("reader", OF_JSON)
def test_json(bombs: Path, tmp_path: Path, reader: str) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for file in bombs.glob("*.json"):
        if reader == "labels":
            (files / file.name).write_bytes(file.read_bytes() + b"\n")
        else:
            (files / file.name).hardlink_to(file)
    if reader == "message":  # the longest that a socket takes
        (files / "a-hundred-megabytes.json").unlink()
        (files / "sixty-megabytes.json").write_text("[" + "[]," * 20_000_000 + "[]]")
    found = measured("test_bombs", f"json-{reader}", files)
    judge(
        found,
        may_pass={
            "infinite",
            "list",
            "lone-surrogate",
            "many-keys",
            "nothing",
            "text",
            "wide-letters",
        },
    )


@pytest.mark.parametrize("reader", OF_FOLDERS)
def test_json_in_folders(bombs: Path, tmp_path: Path, reader: str) -> None:
    for file in bombs.glob("*.json"):
        folder, (place, _) = tmp_path / "files" / file.stem, OF_FOLDERS[reader]
        (folder / place).parent.mkdir(parents=True)
        if reader.startswith("lerobot"):
            (folder / "meta" / "info.json").write_text(json.dumps(INFO))
        (folder / place).unlink(missing_ok=True)
        (folder / place).hardlink_to(file)
        sums = hashlib.sha256((folder / place).read_bytes()).hexdigest()
        if place == "bundle.json":
            (folder / "SHA256SUMS").write_text(f"{sums}  bundle.json\n")
        if reader == "evaluation":
            (folder / "tracks.safetensors").write_bytes(_tensors(2))
    judge(
        measured("test_bombs", reader, tmp_path / "files"),
        may_pass={"infinite", "lone-surrogate", "many-keys"} if reader == "lineage" else set(),
    )


def _tensors(size: int, header: bytes = b"{}") -> bytes:
    return size.to_bytes(8, "little") + header


def test_headers_of_tensors(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    one = '"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    many = ("{" + ",".join(one % i for i in range(1_500_000)) + "}").encode()
    (files / "many.safetensors").write_bytes(_tensors(len(many), many))
    (files / "nested.safetensors").write_bytes(_tensors(90_000_000, b"[" * 90_000_000))
    (files / "endless.safetensors").write_bytes(_tensors(2**63))
    (files / "short.safetensors").write_bytes(b"\x01")
    judge(measured("test_bombs", "tensors", files))


def test_a_digest_takes_no_more_memory_for_a_larger_file(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    with (files / "sparse").open("wb") as file:
        file.truncate(400 * 2**20)
    found = measured("test_bombs", "digest", files)["sparse"]
    assert (found.kind, found.grown < BYTES) == ("", True)


def _seal(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def _changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "bundle.json").read_text())
    change(document)
    (folder / "bundle.json").write_text(json.dumps(document))
    _seal(folder)


SPECS: dict[str, Callable[[dict[str, Any]], object]] = {
    "layers": lambda spec: spec["policy"].update(encoder_hidden=[1] * 300_000),
    "more-layers": lambda spec: spec["policy"].update(mlp_hidden=[1] * 300_000),
    "bottleneck": lambda spec: spec["vib"].update(hidden=[1] * 300_000),
    "wide": lambda spec: spec["policy"].update(encoder_hidden=[2**31] * 8),
    "negative": lambda spec: spec["policy"].update(encoder_hidden=[-1]),
    "channels": lambda spec: spec["policy"].update(
        velocity_net="unet", unet_channels=[8] * 100_000
    ),
    "kernel": lambda spec: spec["policy"].update(velocity_net="unet", unet_kernel=2**40 + 1),
    "keys": lambda spec: spec.update(obs_dims=[[f"k{i}", 1] for i in range(100_000)]),
    "action": lambda spec: spec.update(action_dim=2**60),
    "times": lambda spec: spec["policy"].update(time_embedding_dim=2**40),
    "horizon": lambda spec: spec["policy"].update(horizon=2**40),
    "images": lambda spec: spec.update(
        images=[{"key": f"k{i}", "size": [8, 8], "crop": [8, 8]} for i in range(20_000)]
    ),
}


def test_a_bundle_that_asks_for_too_much_is_refused_before_it_is_built(tmp_path: Path) -> None:
    from tests.small_policy import small_policy
    from zprl.models.bundle import save_policy

    save_policy(tmp_path / "base", small_policy(), {})
    for name, change in SPECS.items():
        shutil.copytree(tmp_path / "base", tmp_path / "files" / name)
        _changed(
            tmp_path / "files" / name, lambda document, change=change: change(document["spec"])
        )
    judge(measured("test_bombs", "policy", tmp_path / "files"))


def test_a_residual_of_one_number_does_not_become_a_network_of_gigabytes(tmp_path: Path) -> None:
    import torch

    from tests.small_policy import small_policy
    from zprl import durable
    from zprl.config import Rl
    from zprl.models.bundle import save_policy, write_bundle

    base = tmp_path / "base"
    save_policy(base, small_policy(), {})
    config = Rl(networks={"hidden": (20_000, 20_000)}).model_dump(mode="json")
    document = {
        "space": "latent",
        "state_dim": 8,
        "config": config,
        "base_digest": durable.digest(base),
        "provenance": {},
    }
    for name, tensors in {
        "one": torch.ones(1),
        "none": torch.ones(0),
        "square": torch.ones(2, 2),
    }.items():
        write_bundle(
            tmp_path / "files" / name,
            "steering",
            document,
            {"actor": tensors, "scale": torch.ones(2)},
        )
    judge(measured("test_bombs", "steering", tmp_path / "files"))


def test_a_journal_of_many_labels_is_read_in_the_time_of_its_length(tmp_path: Path) -> None:
    from zprl.recordings.labels import LabelEntry, _encode

    check, lines = "", []
    for seq in range(1, 20_001):
        label = LabelEntry(
            seq=seq,
            episode=1,
            label="success",
            source="console",
            nonce=str(seq),
            supersedes=seq - 1 or None,
        )
        text, check = _encode(label, check)
        lines.append(text)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "labels.jsonl").write_bytes(b"".join(lines))
    found = measured("test_bombs", "json-labels", tmp_path / "files")["labels"]
    assert found.kind == ""
    assert found.seconds < 5


PARSERS = {
    "json.load",
    "json.loads",
    "yaml.safe_load",
    "yaml.load_all",
    "yaml.safe_load_all",
    "tomllib.load",
    "tomllib.loads",
}
LOADERS = {
    "zprl/durable.py",
    "zprl/strict_yaml.py",
    "zprl/envs/isaacgym/worker/wire.py",
}  # the last runs in a Python of its own
OTHERS = ("validate_json", "model_validate_json")


def test_there_is_no_other_way_to_parse() -> None:
    found = []
    for path in sorted([*(ROOT / "zprl").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if (called in PARSERS or called.split(".")[-1] in OTHERS) and name not in LOADERS:
                found.append(f"{name}: {called}")
    assert not found
