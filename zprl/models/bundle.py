"""Bundles: folders of safetensors and JSON that are safe to open from a stranger.

::

    bundle.json        format_version, kind, spec, provenance
    <kind>.safetensors weights and normaliser buffers
    SHA256SUMS         `sha256sum -c` checks it; so does every load

No class name, path or code is ever taken from a file; sizes are checked before anything is read or
allocated; the same policy and provenance give the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from zprl import durable
from zprl.data.normalizer import Normalizer
from zprl.errors import DataError, ZprlError
from zprl.models.policy import FlowPolicy, PolicySpec

FORMAT_VERSION = 1
DOCUMENT, SUMS = "bundle.json", "SHA256SUMS"
MAX_TEXT_BYTES = 4 * 2**20
MAX_TENSOR_BYTES = 4 * 2**30
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.-]*)")
_NORMALIZER = "normalizer."


def write_bundle(
    path: Path | str, kind: str, document: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a bundle folder, all or nothing.

    Args:
        path: The folder; replaced if it exists.
        kind: ``policy`` or ``steering``; names the tensor file.
        document: JSON value; ``format_version`` and ``kind`` are added.
        tensors: Named tensors; refused unless finite.
    """
    if broken := _not_finite(tensors):
        raise DataError(
            f"refusing to write {path}: {broken} is not finite",
            remedy="train again with a lower learning rate",
        )

    def fill(folder: Path) -> None:
        durable.write_json(
            folder / DOCUMENT, {**document, "format_version": FORMAT_VERSION, "kind": kind}
        )
        durable.write_tensors(folder / f"{kind}.safetensors", tensors)
        names = sorted((DOCUMENT, f"{kind}.safetensors"))
        durable.write_text(
            folder / SUMS, "".join(f"{durable.digest(folder / name)}  {name}\n" for name in names)
        )

    durable.write_dir(path, fill)


def read_bundle(path: Path | str, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Check a bundle folder and return its document and tensors.

    Raises:
        DataError: missing, changed, oversized, of another kind or of a newer format.
    """
    path = Path(path)
    sums = _read_sums(path)
    weights = f"{kind}.safetensors"

    # The document first: it is small, and says whether the tensors are worth reading.
    _verify(path, DOCUMENT, sums, MAX_TEXT_BYTES)
    document = durable.read_json(path / DOCUMENT, limit=MAX_TEXT_BYTES)
    _check_document(path, document, kind)

    _verify(path, weights, sums, MAX_TENSOR_BYTES)
    tensors = durable.read_tensors(path / weights)
    if broken := _not_finite(tensors):
        raise DataError(
            f"{path / weights}: {broken} is not finite",
            remedy="restore the bundle or make it again",
        )
    return document, tensors


def _check_document(path: Path, document: Any, kind: str) -> None:
    """Refuse a document of another shape, format or kind."""
    if not isinstance(document, dict):
        raise DataError(
            f"{path / DOCUMENT} is not a JSON object", remedy="restore the bundle or make it again"
        )

    version = document.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise DataError(
            f"{path / DOCUMENT} has no valid format_version",
            remedy="restore the bundle or make it again",
        )
    if version > FORMAT_VERSION:
        raise DataError(
            f"{path} has bundle format {version}, this zprl reads up to {FORMAT_VERSION}",
            remedy="upgrade zprl to open it",
        )

    if document.get("kind") != kind:
        raise DataError(
            f"{path} is a {document.get('kind')!r} bundle, not a {kind!r} one",
            remedy=f"give the folder of a {kind} bundle",
        )


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with an infinite value or NaN."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None


def save_policy(path: Path | str, policy: FlowPolicy, provenance: Mapping[str, Any]) -> None:
    """Write a policy bundle.

    Args:
        path: The folder; replaced if it exists.
        policy: The policy, with the weights to ship.
        provenance: JSON facts that do not change from run to run (digests, versions, statistics):
            they enter the digest.
    """
    spec = {**policy.spec.model_dump(mode="json"), "obs_dims": _pairs(policy.spec.obs_dims)}
    document = {
        "spec": spec,
        "normalizer": {"obs_dims": _pairs(policy.normalizer.obs_dims)},
        "provenance": dict(provenance),
    }
    write_bundle(path, "policy", document, policy.state_dict())


def load_policy(path: Path | str, device: str = "cpu", *, noise_scale: float = 1.0) -> FlowPolicy:
    """Read a policy bundle: checked, frozen, in evaluation mode, on ``device``.

    Args:
        path: The bundle.
        device: Where its tensors go.
        noise_scale: See :class:`zprl.models.policy.FlowPolicy`.

    Raises:
        DataError: when anything about the bundle is not as :func:`save_policy` writes it.
    """
    document, tensors = read_bundle(path, "policy")
    try:
        spec = PolicySpec.model_validate(
            {**document["spec"], "obs_dims": _mapping(document["spec"]["obs_dims"])}
        )
        normalizer = _normalizer(_mapping(document["normalizer"]["obs_dims"]), tensors)

        # Shapes first, on the meta device, where a spec that asks for too much allocates nothing.
        with torch.device("meta"):
            expected = {k: t.shape for k, t in FlowPolicy(spec, normalizer).state_dict().items()}
        shapes = {k: t.shape for k, t in tensors.items()}
        if expected != shapes:
            odd = min(
                k for k in expected.keys() | shapes.keys() if expected.get(k) != shapes.get(k)
            )
            raise DataError(
                f"{path}: {odd} has shape {_show(shapes.get(odd))}, "
                f"its spec asks for {_show(expected.get(odd))}"
            )

        policy = FlowPolicy(spec, normalizer)
        policy.load_state_dict(tensors)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{path}: spec.{'.'.join(map(str, first['loc']))}: {first['msg']}",
            remedy="make the bundle again",
        ) from error
    except DataError:
        raise
    except (ZprlError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise DataError(
            f"{path}: spec and weights do not make a policy: {error}",
            remedy="make the bundle again",
        ) from error

    policy.noise_scale = noise_scale
    return policy.to(device).freeze()


def _pairs(dims: Mapping[str, int]) -> list[list[Any]]:
    """Return a list, because the order counts and sorted JSON keys would lose it."""
    return [[key, dim] for key, dim in dims.items()]


def _mapping(pairs: list[list[Any]]) -> dict[str, int]:
    return {str(key): int(dim) for key, dim in pairs}


def _normalizer(obs_dims: dict[str, int], tensors: Mapping[str, Tensor]) -> Normalizer:
    state = {
        name.removeprefix(_NORMALIZER): t
        for name, t in tensors.items()
        if name.startswith(_NORMALIZER)
    }
    width, index = len(state["obs_offset"]), state["action_index"]
    # Before anything of that size is allocated.
    if min(obs_dims.values()) < 1 or sum(obs_dims.values()) != width:
        raise ValueError(f"normaliser of width {width} for observations {obs_dims}")

    actions = len(state["action_constant"])
    inside = index.dtype == torch.long and index.min() >= 0 and index.max() < actions
    if not inside or (index.diff() <= 0).any():
        raise ValueError(
            f"action_index {index.tolist()} does not rise within the action's {actions} dimensions"
        )
    return Normalizer.from_state(state, obs_dims)


def _show(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def _read_sums(path: Path) -> dict[str, str]:
    if not (path / SUMS).is_file():
        raise DataError(
            f"{path} is not a bundle: it has no {SUMS}",
            remedy="run the stage that makes it (dvc repro)",
        )
    _limit(path / SUMS, MAX_TEXT_BYTES)

    sums = {}
    for line in (path / SUMS).read_text(errors="replace").splitlines():
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise DataError(
                f"{path / SUMS} has a line that is not '<sha256>  <file name>': "
                f"{json.dumps(line[:80])}"
            )
        sums[match[2]] = match[1]
    return sums


def _limit(file: Path, size: int) -> None:
    if file.stat().st_size > size:
        raise DataError(
            f"{file} is larger than {size} bytes",
            remedy="this is not a bundle that zprl wrote; get it from its maker again",
        )


def _verify(path: Path, name: str, sums: Mapping[str, str], size: int) -> None:
    """Check that a file is listed, exists, is small enough and has the listed digest."""
    file = path / name
    if name not in sums:
        raise DataError(
            f"{path / SUMS} does not list {name}",
            remedy="restore the bundle (dvc checkout) or make it again",
        )
    if not file.is_file():
        raise DataError(
            f"{file} does not exist", remedy="restore the bundle (dvc checkout) or make it again"
        )
    _limit(file, size)
    if durable.digest(file) != sums[name]:
        raise DataError(
            f"{file} was changed after it was written (SHA256SUMS)",
            remedy="restore the bundle (dvc checkout) or make it again",
        )
