"""Loads the two networks, once per process: a second client shares the sessions of the first.

The head fits these very weights and no others, so a file is used only when it has the SHA-256 of `weights.sha256`.
"""

import hashlib
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnxruntime

_HERE = Path(__file__).resolve().parent
WEIGHTS = _HERE / "weights"
CHECKSUMS = _HERE / "weights.sha256"
_loading = threading.Lock()


class WeightsMissing(Exception):
    """The weight files are not there, or are not the right ones; the text says how to make them."""


@dataclass(frozen=True, slots=True)
class Networks:
    """Sessions of onnxruntime; `run` may be called from several threads at once."""

    image: onnxruntime.InferenceSession
    faces: onnxruntime.InferenceSession


def load_networks() -> Networks:
    """Load the networks (0.2 s), or return those already loaded.

    Raises:
        WeightsMissing: `make model` has not been run.
    """
    with _loading:
        return _load()


@cache
def _load() -> Networks:
    return Networks(image=open_session("efficientnet_lite2.onnx"), faces=open_session("centerface.onnx"))


def open_session(name: str, folder: Path = WEIGHTS) -> onnxruntime.InferenceSession:
    """Open a session on a weight file of `folder`.

    Raises:
        WeightsMissing: the file is not there, or has another content than `weights.sha256` says.
    """
    try:
        content = (folder / name).read_bytes()
    except OSError:
        raise WeightsMissing(f"The local model's weights are missing ({name}). Run `make model`.") from None
    if f"{hashlib.sha256(content).hexdigest()}  {name}" not in CHECKSUMS.read_text(encoding="utf-8").splitlines():
        raise WeightsMissing(f"The local model's weights are not those of this version ({name}). Run `make model`.")
    options = onnxruntime.SessionOptions()
    # Photos run side by side, one thread each: threads within one photo would only fight over the same cores.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
