"""Checks of a foreign HDF5 file: no link is followed, no object decoded, no size believed.

HDF5 follows external links silently, and a file of 3 kB may declare a dataset of 4 TB.  Everything
here is decided from headers, before a byte of data is read.
"""

from __future__ import annotations

import math

import h5py
import numpy as np

MAX_BYTES = 2**30
"""Largest dataset read, 1 GiB: a two-hour episode of 100 float32 numbers at 100 Hz has 0.3 GB."""

MAX_NAME = 100
MAX_TEXT = 2**24
"""Longest attribute of fixed length [bytes]."""

# gzip cannot shrink below about 1:1032 (zlib's documentation); more than that was never written,
# only declared.
MAX_RATIO = 1100
SMALL_BYTES = 2**20

# HDF5's own deflate, shuffle, fletcher32, szip, nbit, scaleoffset, and h5py's lzf.  Other numbers
# load plug-ins.
FILTERS = {1, 2, 3, 4, 5, 6, 32000}


class RefusedError(Exception):
    """A node of the file is refused.

    Args:
        code: Defect code.
        message: What is wrong, without the file's name.
        remedy: What to do.
    """

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


def safe_name(name: str) -> bool:
    """Tell whether a name is printable, short and cannot leave a folder."""
    return (
        0 < len(name) <= MAX_NAME
        and name.isprintable()
        and not set(name) & {"/", "\\"}
        and name not in (".", "..")
    )


def member_names(group: h5py.Group) -> list[str]:
    """Return the names in a group, or raise :class:`RefusedError` D18 for an unsafe one."""
    check_names(group)
    return list(group)


def check_names(group: h5py.Group) -> None:
    """Raise :class:`RefusedError` D18 for an unsafe name in a group."""
    for name in group:
        if not safe_name(name):
            shown = ascii(name[:40])
            raise RefusedError(
                "D18",
                f"the name {shown} in {group.name} is not safe",
                "rename it to at most 100 plain characters",
            )


def member(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return the child ``name``; ``None`` if there is none.

    Raises:
        RefusedError: it is a link to elsewhere (D16).
    """
    # h5py's own look-ups cost several times what reading a small dataset does.
    links = parent.id.links
    key = name.encode()
    if not links.exists(key):
        return None
    kind = links.get_info(key).type
    if kind != h5py.h5l.TYPE_HARD:
        path = f"{parent.name.rstrip('/')}/{name}"
        kind = "an external link" if kind == h5py.h5l.TYPE_EXTERNAL else "a soft link"
        raise RefusedError(
            "D16",
            f"{path} is {kind}",
            "store the data itself, e.g. with h5repack or `h5py` copy(expand_external=True)",
        )

    node = h5py.h5o.open(parent.id, key)
    if isinstance(node, h5py.h5d.DatasetID):
        return h5py.Dataset(node, readonly=True)  # which lets h5py remember its header
    return h5py.Group(node) if isinstance(node, h5py.h5g.GroupID) else parent[name]


def group(parent: h5py.Group, name: str) -> h5py.Group:
    """Return the child group, or raise :class:`RefusedError` D02, D05 or D16."""
    node = member(parent, name)
    path = f"{parent.name.rstrip('/')}/{name}"
    if node is None:
        raise RefusedError(
            "D02",
            f"the group {path} is missing",
            "check that ingest.reader names its format and that it is whole",
        )
    if not isinstance(node, h5py.Group):
        raise RefusedError("D05", f"{path} is not a group", "write it in the schema of its format")
    return node


def check_dataset(node: object, path: str) -> h5py.Dataset:
    """Return the dataset if its header is harmless; read no data.

    Raises:
        RefusedError: D05, D16, D17 or D19.
    """
    if not isinstance(node, h5py.Dataset):
        raise RefusedError(
            "D05", f"{path} is not a dataset", "write it in the schema of its format"
        )

    dtype, shape = node.dtype, node.shape or ()  # h5py asks the file anew each time
    declared = math.prod(shape) * dtype.itemsize
    stored = node.id.get_storage_size()
    if node.id.get_offset() is not None and not dtype.hasobject and declared == stored <= MAX_BYTES:
        return node  # one run of plain numbers in this file, neither cut nor filtered

    plist = node.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise RefusedError(
            "D16", f"{path} keeps its data in another file", "store the data itself in this file"
        )
    if dtype.hasobject:  # texts, references and lists of any length
        raise RefusedError("D19", f"{path} holds objects, not numbers", "store plain numbers")
    used = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if used - FILTERS:
        raise RefusedError(
            "D16",
            f"{path} uses the unknown filter {min(used - FILTERS)}",
            "rewrite it with gzip, e.g. h5repack -f GZIP=4",
        )

    chunk = math.prod(plist.get_chunk() if layout == h5py.h5d.CHUNKED else ()) * dtype.itemsize
    if max(declared, chunk) > MAX_BYTES or (
        declared > SMALL_BYTES and declared > MAX_RATIO * stored
    ):
        raise RefusedError(
            "D17",
            f"{path} declares {declared} bytes in chunks of {chunk} and stores {stored}, "
            f"the limit is {MAX_BYTES}",
            "split long episodes; if the file came from elsewhere, do not trust it",
        )
    return node


def attribute(node: h5py.Group, name: str) -> str | int | float | bool | None:
    """Return a plain attribute; ``None`` if it is missing.

    Raises:
        RefusedError: it is anything but one number or one text (D19).
    """
    if not h5py.h5a.exists(node.id, name.encode()):
        return None
    header = h5py.h5a.open(node.id, name.encode())
    dtype = header.dtype
    text = h5py.check_string_dtype(dtype) is not None
    if header.shape != () or not (text or dtype.kind in "iufbS") or dtype.itemsize > MAX_TEXT:
        raise RefusedError(
            "D19",
            f"attribute {name} of {node.name} is not one number or one text",
            "store a plain value",
        )

    array = np.zeros((), dtype)
    header.read(array)
    value = array.item()
    return value.decode(errors="replace") if isinstance(value, bytes) else value
