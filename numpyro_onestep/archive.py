"""A tree of arrays in one file: written whole or not at all, checked when it is read, never code.

The file is a fixed head (magic, SHA-256 of all that follows, two lengths) and what `encoding` makes of the tree.
"""

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any
from uuid import uuid4

from numpyro_onestep.encoding import decode, encode

__all__ = ["read", "write"]

_MAGIC = b"numpyro-onestep\n"
_LENGTHS = struct.Struct("<QQ")  # of the JSON, and of the arrays
_CHECKED = len(_MAGIC) + hashlib.sha256().digest_size  # here begins what the checksum is of
_HEAD = _CHECKED + _LENGTHS.size


def write(path: str | Path, kind: str, version: int, content: dict[str, Any]) -> None:
    """Write `content` to a file, which until then and on any failure stays what it was.

    Args:
        path: the file; a symbolic link is followed.
        kind: what it holds in a word or two, for `read` to check and to say.
        version: of the content's layout, for `read` to check.
        content: lists, tuples and dicts (strings as keys) of arrays, random keys, numbers, strings and None. Arrays
            come back as NumPy arrays, random keys as what they are.

    Raises:
        TypeError: if there is anything else in `content`; it says where.
        OSError: if the file cannot be written.
    """
    text, arrays = encode({"kind": kind, "version": version}, content)
    checked = [_LENGTHS.pack(len(text), sum(map(len, arrays))), text, *arrays]
    digest = hashlib.sha256()
    for part in checked:
        digest.update(part)
    _replace(Path(path).resolve(), [_MAGIC, digest.digest(), *checked])


def read(path: str | Path, kind: str, version: int) -> dict[str, Any]:
    """Read what `write` wrote to a file.

    Raises:
        ValueError: if it is damaged, or of another kind or version; it names the file and the cause.
        OSError: if there is no such file, or it cannot be read.
    """
    whole = _checked(Path(path), kind)
    end = _HEAD + _LENGTHS.unpack_from(whole, _CHECKED)[0]
    try:
        found = json.loads(whole[_HEAD:end])
        holds, written = found["kind"], found["version"]
        if holds != kind:
            raise ValueError(f"it holds a {holds}")
        if written != version:
            raise ValueError(
                f"it is of format {written}, and this version of numpyro-onestep reads format {version}; read it with "
                f"{'a newer' if written > version else 'the older'} version, or make it anew"
            )
        return decode(found, whole, end)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a numpyro-onestep {kind}: {error}.") from error


def _checked(path: Path, kind: str) -> bytes:
    """All bytes of a file that are those that were written."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a numpyro-onestep {kind}: it is no regular file.")
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if not head.startswith(_MAGIC):
            found = "does not begin as one of this version" if head else "is empty"
            raise ValueError(f"{path} is not a numpyro-onestep {kind}: it {found}.")
        size = os.fstat(file.fileno()).st_size
        expected = _HEAD + sum(_LENGTHS.unpack_from(head, _CHECKED)) if len(head) == _HEAD else _HEAD
        if size != expected:
            raise ValueError(f"{path} is damaged: it has {size} bytes instead of {expected}. Was it cut short?")
        file.seek(0)
        whole = file.read()
    if hashlib.sha256(memoryview(whole)[_CHECKED:]).digest() != whole[len(_MAGIC) : _CHECKED]:
        raise ValueError(f"{path} is damaged: its content is not what was written (the checksum differs).")
    return whole


def _replace(path: Path, parts: list[bytes]) -> None:
    """Put a file in place at once, on disk before it has its name."""
    temporary = path.with_name(f".{uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
