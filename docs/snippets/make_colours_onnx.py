"""Writes colours.onnx: mean colour of a picture, four linear scores, a softmax. Needs numpy and nothing else.

Frameworks export such files (torch.onnx.export, tf2onnx ...). This one is so small that it is written by hand, in the
wire format of protocol buffers, with the field numbers of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from pathlib import Path

import numpy as np

FLOAT = 1
# Mean red, green and blue (0..1) that stand for grass, sky, a plate of food and a sheet of paper.
COLOURS = np.array([[0.2, 0.6, 0.2], [0.4, 0.6, 0.95], [0.8, 0.4, 0.2], [0.95, 0.95, 0.95]], np.float32)
SHARPNESS = 20


def varint(number: int) -> bytes:
    head, rest = number & 127, number >> 7
    return bytes([head | 128]) + varint(rest) if rest else bytes([head])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def node(operator: str, inputs: list[str], output: str) -> bytes:
    names = b"".join(field(1, name) for name in inputs)
    return field(1, names + field(2, output) + field(4, operator))


def tensor(name: str, values: np.ndarray) -> bytes:
    dimensions = b"".join(field(1, size) for size in values.shape)
    return field(5, dimensions + field(2, FLOAT) + field(8, name) + field(9, values.astype("<f4").tobytes()))


def value(number: int, name: str, shape: tuple[int, ...]) -> bytes:
    dimensions = b"".join(field(1, field(1, size)) for size in shape)
    return field(number, field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, dimensions))))


# The nearest colour has the highest score: -|x - c|^2 without |x|^2, which is the same for all.
weights = 2 * SHARPNESS * COLOURS.T
bias = -SHARPNESS * (COLOURS**2).sum(axis=1)
graph = (
    node("GlobalAveragePool", ["image"], "mean")
    + node("Flatten", ["mean"], "colour")
    + node("Gemm", ["colour", "weights", "bias"], "scores")
    + node("Softmax", ["scores"], "probabilities")
    + field(2, "colours")
    + tensor("weights", weights)
    + tensor("bias", bias)
    + value(11, "image", (1, 3, 64, 64))
    + value(12, "probabilities", (1, 4))
)
Path("colours.onnx").write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13)))
