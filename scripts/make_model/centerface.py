"""Makes the published CenterFace model fit for any picture size; not one weight is touched.

As published, the graph says that it takes ten pictures of 32 x 32 pixels (it takes any multiple of 32) and lists
each of its 194 weights as an input too, and among them counters that only training uses; onnxruntime prints a
warning for every one of them.
"""

from typing import Any

import onnx


def fix_centerface(published: bytes) -> bytes:
    """Return the model with free input and output sizes, and the picture as its only input, and nothing unused.

    Outputs at a quarter of the input's size: heat map (1 channel), box sizes (2), offsets (2), landmarks (10).

    Raises:
        ValueError: `published` is not the model that we know.
    """
    model: Any = onnx.load_model_from_string(published)
    weights = {weight.name for weight in model.graph.initializer}
    pictures = [value for value in model.graph.input if value.name not in weights]
    if len(pictures) != 1 or len(model.graph.output) != 4:
        raise ValueError("this is not CenterFace")
    for value, prefix in ((pictures[0], ""), *((output, "quarter_") for output in model.graph.output)):
        for axis, name in ((0, "n"), (2, f"{prefix}height"), (3, f"{prefix}width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    used = {name for node in model.graph.node for name in node.input}
    kept = [weight for weight in model.graph.initializer if weight.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.input[:]
    model.graph.input.append(pictures[0])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
