"""Reads the weights in a legacy PyTorch file without PyTorch; a pickle may name four things and nothing else.

Before version 1.6 PyTorch saved five pickles (a magic number, the protocol, facts about the machine, the tensors,
the keys of the storages) followed by the raw storages. A tensor is a view of a storage: an offset, a shape and
strides, and the strides need not be those of a contiguous array.
"""

import io
import math
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# torch/serialization.py, MAGIC_NUMBER.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_DTYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class UnsafeWeights(ValueError):
    """The file holds something that a plain file of weights does not hold."""


@dataclass(frozen=True, slots=True)
class _Storage:
    kind: str
    key: str
    length: int


@dataclass(frozen=True, slots=True)
class _View:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any) -> _View:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise UnsafeWeights("a tensor is not described as PyTorch describes one")
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise UnsafeWeights("a tensor's offset, shape or strides are not whole numbers from 0 up")
    return _View(storage, offset, shape, strides)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): "FloatStorage",
    ("torch", "LongStorage"): "LongStorage",
}


class _WeightsUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        allowed = _ALLOWED.get((module_name, global_name))
        if allowed is None:
            raise UnsafeWeights(f"the pickle asks for {module_name}.{global_name}")
        return allowed

    def persistent_load(self, pid: Any, /) -> _Storage:
        match pid:
            case ("storage", str(kind), str(key), str(), int(length), None) if kind in _DTYPES and length >= 0:
                return _Storage(kind, key, length)
        raise UnsafeWeights("the pickle refers to something that is not a storage")


def read_weights(content: bytes) -> dict[str, Array]:
    """Read a legacy PyTorch state dictionary.

    Args:
        content: the whole `.pth` file.

    Returns:
        Name of each tensor and the tensor, float32 or int64, little-endian, contiguous.

    Raises:
        UnsafeWeights: the file names anything but tensors, or a tensor reaches outside its storage.
    """
    stream = io.BytesIO(content)
    if _unpickle(stream) != MAGIC_NUMBER:
        raise UnsafeWeights("not a legacy PyTorch file")
    _unpickle(stream)  # the protocol
    _unpickle(stream)  # facts about the machine that saved it
    state, keys = _unpickle(stream), _unpickle(stream)
    if not isinstance(state, dict) or not all(isinstance(view, _View) for view in state.values()):
        raise UnsafeWeights("the file is not a dictionary of tensors")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UnsafeWeights("the file has no list of storages")
    storages = _read_storages(stream, {view.storage.key: view.storage for view in state.values()}, keys)
    return {str(name): _materialise(view, storages) for name, view in state.items()}


def _unpickle(stream: io.BytesIO) -> Any:
    try:
        return _WeightsUnpickler(stream).load()
    except UnsafeWeights:
        raise
    except Exception as error:  # noqa: BLE001 - a hostile pickle can raise almost anything on the way
        _refuse(f"the pickle cannot be read ({type(error).__name__})")


def _refuse(reason: str) -> NoReturn:
    raise UnsafeWeights(reason)


def _read_storages(stream: io.BytesIO, declared: dict[str, _Storage], keys: list[str]) -> dict[str, Array]:
    storages: dict[str, Array] = {}
    for key in keys:
        storage = declared.get(key)
        length = int.from_bytes(stream.read(8), "little")
        if storage is None or length != storage.length:
            raise UnsafeWeights("the storages are not the ones that the tensors name")
        dtype = _DTYPES[storage.kind]
        raw = stream.read(length * dtype.itemsize)
        if len(raw) != length * dtype.itemsize:
            raise UnsafeWeights("the file is cut off")
        storages[key] = np.frombuffer(raw, dtype)
    return storages


def _materialise(view: _View, storages: dict[str, Array]) -> Array:
    flat = storages.get(view.storage.key)
    if flat is None:
        raise UnsafeWeights("a tensor's storage is missing")
    last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    # A stride of 0 repeats a number without end: the product bounds the copy, as the last index bounds the reading.
    if 0 in view.shape or last >= flat.size or math.prod(view.shape) > flat.size:
        raise UnsafeWeights("a tensor reaches outside its storage")
    steps = tuple(stride * flat.itemsize for stride in view.strides)
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, steps))
