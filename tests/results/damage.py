"""Damages a saved run in more than 200 ways. `python tests/results/damage.py` prints what comes of each kind.

Every damaged file must end in a ValueError that names the file, soon and without much memory.
"""

import hashlib
import io
import json
import os
import pickle
import random
import struct
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from numpyro_onestep import OneStep, OneStepSampler, archive

MAX_SECONDS, MAX_BYTES = 60, 2**26  # for a file of some kilobytes
KIND, FORMAT = "checkpoint", 12
HEAD = archive._HEAD


class Code:
    """What a pickle might run."""

    def __reduce__(self):
        return exec, ("import os; os.environ['CODE_WAS_RUN'] = '1'",)


def damages(whole: bytes, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names of kinds of damage, and files with them."""
    rng = random.Random(seed)
    size = len(whole)
    yield "empty", b""
    for end in (1, 15, 16, HEAD - 1, HEAD, HEAD + 1, size - 1, *rng.sample(range(size), 33)):
        yield "cut short", whole[:end]
    for place in (0, 20, 50, 56, HEAD, *rng.sample(range(size), 55)):
        yield "one bit", _flipped(whole, [8 * place + rng.randrange(8)])
    for num in range(2, 32):
        yield "many bits", _flipped(whole, rng.sample(range(8 * size), num))
    for _ in range(10):
        a, b = sorted(rng.sample(range(0, size - 64, 64), 2))
        yield "pieces swapped", whole[:a] + whole[b : b + 64] + whole[a + 64 : b] + whole[a : a + 64] + whole[b + 64 :]
        yield "a piece of zeros", whole[:a] + bytes(b - a) + whole[b:]
        yield "more at its end", whole + rng.randbytes(a + 1)
    for text, arrays in ((10**12, 10**12), (2**64 - 1, 2**64 - 1), (0, size - HEAD), (size - HEAD, 0)):
        head = whole[: HEAD - 16] + struct.pack("<QQ", text, arrays)
        yield "other lengths", head + whole[HEAD:]
        yield "other lengths, right checksum", _signed(head + whole[HEAD:])
    yield from _other_files(rng)
    yield from _other_contents(whole)


def _flipped(whole: bytes, bits: list[int]) -> bytes:
    changed = bytearray(whole)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _signed(whole: bytes) -> bytes:
    start = len(archive._MAGIC)
    return whole[:start] + hashlib.sha256(whole[archive._CHECKED :]).digest() + whole[archive._CHECKED :]


def _other_files(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Files of other kinds."""
    yield "a text", "a text, with ä and ö\n".encode() * 50
    yield "noise", rng.randbytes(5000)
    yield "a pickle", pickle.dumps(Code())
    bits = zlib.compress(bytes(100))
    yield "a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBBI", 8, 8, 8, 2, 0, 0, 0, 0) + bits
    folder = io.BytesIO()
    np.savez(folder, x=np.zeros(3))
    yield "arrays of NumPy", folder.getvalue()
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", bytes(10**8))
    yield "a zip bomb", bomb.getvalue()
    yield (
        "an array of NumPy that claims much",
        b"\x93NUMPY\x01\0v\0"
        + str({"descr": "<f8", "fortran_order": False, "shape": (10**12,)}).ljust(117).encode()
        + b"\n",
    )
    yield "an earlier format", b"\x8d\xa6format\x08\xa9num_steps\x01"


def _other_contents(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Files with a right checksum that no version of this package wrote, or another one."""
    end = HEAD + archive._LENGTHS.unpack_from(whole, archive._CHECKED)[0]

    def changed(change: Callable[[dict], object]) -> bytes:
        content = json.loads(whole[HEAD:end])
        change(content)
        text = json.dumps(content).encode()
        lengths = archive._LENGTHS.pack(len(text), len(whole) - end)
        return _signed(whole[: archive._CHECKED] + lengths + text + whole[end:])

    content = json.loads(whole[HEAD:end])
    for version in (0, FORMAT - 1, FORMAT + 1, 10**9, None, "12"):
        yield "another version", changed(lambda c, version=version: c.update(version=version))
    yield "another kind", changed(lambda c: c.update(kind="training state"))
    for name in content:
        yield "a part missing", changed(lambda c, name=name: c.pop(name))
    for name in content["tree"]:
        yield "a member missing", changed(lambda c, name=name: c["tree"].pop(name))
        yield "a member too many", changed(lambda c, name=name: c["tree"].update({name + "2": 0}))
    for name in ("networks", "base", "evidence", "scores", "counts"):
        yield "a member empty", changed(lambda c, name=name: c["tree"].update({name: {"dict": {}}}))
    for i in range(0, len(content["arrays"]), 3):
        yield "an array that claims much", changed(lambda c, i=i: c["arrays"][i].__setitem__(1, [10**12]))
        yield "an array of objects", changed(lambda c, i=i: c["arrays"][i].__setitem__(0, "|O"))
        yield "an array elsewhere", changed(lambda c, i=i: c["arrays"][i].__setitem__(2, 10**12))


def outcome(damaged: bytes, path: Path, load: Callable[[Path], object]) -> tuple[str, float, int]:
    """What comes of loading such a file in words, "told" if all is well; the time, and the memory at its peak."""
    path.write_bytes(damaged)
    tracemalloc.start()
    began = time.monotonic()
    try:
        load(path)
        result = "loaded"
    except ValueError as error:
        result = "told" if str(path) in str(error) else f"the file is not named: {error}"
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    took, peak = time.monotonic() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if took > MAX_SECONDS or peak > MAX_BYTES:
        result += f", but {took:.0f} s and {peak / 1e6:.0f} MB"
    return result, took, peak


def main() -> None:
    """Damage the file of a small run in every way, and print a table."""
    import jax
    import numpyro
    import numpyro.distributions as dist

    def model():
        numpyro.sample("x", dist.Gamma(3.0, 2.0))

    sampler = OneStepSampler(OneStep(model), num_warmup=20, num_samples=50, num_chains=2, progress_bar=False)
    sampler.run(jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        sampler.save(path)
        whole = path.read_bytes()
        load = lambda path: OneStepSampler.load(path, OneStep(model))  # noqa: E731
        load(path)
        rows, longest, most = Counter(), 0.0, 0
        for name, damaged in damages(whole):
            result, took, peak = outcome(damaged, path, load)
            rows[name, result] += 1
            longest, most = max(longest, took), max(most, peak)
        for (name, result), num in rows.items():
            print(f"{num:4d}  {name:<36} {result}")
        print(
            f"{rows.total()} damaged files of {len(whole)} bytes; at most {longest:.2f} s and {most / 1e6:.1f} MB each"
        )
        path.write_bytes(whole)
        same = np.array_equal(*(s.draw(jax.random.key(1), 20).samples["x"] for s in (sampler, load(path))))
        print("the file itself:", "the same draws" if same else "other draws")
    assert "CODE_WAS_RUN" not in os.environ
    assert same
    assert {result for _, result in rows} == {"told"}


if __name__ == "__main__":
    main()
