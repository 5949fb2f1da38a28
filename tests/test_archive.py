import hashlib
import json
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep import archive

CONTENT = {
    "arrays": (np.arange(6.0).reshape(2, 3), np.zeros((0, 4)), np.array(True), np.array(["a", "bc"])),
    "jax": [jnp.ones(3, jnp.bfloat16), jnp.arange(5, dtype=jnp.int8), random.PRNGKey(3)],
    "keys": {"one": random.key(1), "several": random.split(random.key(2, impl="rbg"), 3)},
    "plain": {"dict": 1, "array": None, "tuple": (), "x": [True, "ä", float("inf"), 2**70, {}]},
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    archive.write(path, "thing", 3, CONTENT)
    return path


def signed(text: bytes, arrays: bytes = b"") -> bytes:
    """A file with the right checksum around a content that no writer made."""
    checked = archive._LENGTHS.pack(len(text), len(arrays)) + text + arrays
    return archive._MAGIC + hashlib.sha256(checked).digest() + checked


def with_array(*entry, tree=None) -> bytes:
    tree = {"x": {"array": 0}} if tree is None else tree
    return signed(json.dumps({"kind": "thing", "version": 3, "tree": tree, "arrays": [entry]}).encode(), bytes(16))


def test_what_is_written_is_read(path):
    read = archive.read(path, "thing", 3)
    assert jax.tree.structure(read) == jax.tree.structure(CONTENT)
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(CONTENT), strict=True):
        if isinstance(b, jax.Array | np.ndarray):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
        else:
            assert type(a) is type(b)
        assert np.all(a == b)


@pytest.mark.parametrize(
    "value", [object(), np.array([None]), {1: 2}, {1, 2}, np.zeros(2, "f4,i4")], ids=lambda value: type(value).__name__
)
def test_what_cannot_be_kept_is_named_and_the_file_stays(path, value):
    with pytest.raises(TypeError, match=r"cannot hold other\[1\]"):
        archive.write(path, "thing", 3, {"other": [0, value]})
    assert archive.read(path, "thing", 3)["plain"] == CONTENT["plain"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(path, monkeypatch):
    def full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        archive.write(path, "thing", 3, {})
    assert archive.read(path, "thing", 3)["plain"] == CONTENT["plain"]
    assert os.listdir(path.parent) == [path.name]


def test_a_link_is_followed(path):
    link = path.with_name("link")
    link.symlink_to(path)
    archive.write(link, "thing", 3, {"x": 1})
    assert link.is_symlink()
    assert archive.read(path, "thing", 3) == {"x": 1}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "is empty"),
        (b"some text", "does not begin"),
        (pickle.dumps(print), "does not begin"),
        (archive._MAGIC, "cut short"),
        (signed(b"{}")[:-1], "cut short"),
        (signed(b"{}") + b"x", "cut short"),
        (signed(b"{}")[:-1] + b"x", "checksum"),
        (signed(b"{}"), "kind"),
        (signed(b"["), "Expecting value"),
        (signed(b"[" * 100_000), "recursion"),
        (with_array("<f8", [10**12], 0), "buffer is smaller"),
        (with_array("<f8", [10**12, 10**12], 0), "too large|too big"),
        (with_array("<f8", [2], 8), "buffer is smaller"),
        (with_array("<f8", [-1], 0), "shape"),
        (with_array("O", [1], 0), "OBJECT"),
        (with_array("no type", [1], 0), "no type"),
        (with_array("<f8", [2], 0, tree={"x": {"array": 1}}), "index out of range"),
        (with_array("<f8", [2], 0, tree={"x": {"code": 0}}), "'code'"),
        (with_array("<f8", [2], 0, tree={"x": {}}), "unpack"),
    ],
)
def test_what_is_not_such_a_file_is_told(path, content, cause):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=cause) as raised:
        archive.read(path, "thing", 3)
    assert str(path) in str(raised.value)


def test_another_kind_an_older_and_a_newer_version_and_a_folder_are_told(path):
    with pytest.raises(ValueError, match="as a numpyro-onestep map: it holds a thing"):
        archive.read(path, "map", 3)
    with pytest.raises(ValueError, match=r"reads format 2; read it with a newer version"):
        archive.read(path, "thing", 2)
    with pytest.raises(ValueError, match=r"reads format 4; read it with the older version"):
        archive.read(path, "thing", 4)
    with pytest.raises(ValueError, match="no regular file"):
        archive.read(path.parent, "thing", 3)
    with pytest.raises(FileNotFoundError):
        archive.read(path.parent / "none", "thing", 3)
