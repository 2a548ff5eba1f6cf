"""Image Classifier: sorts phone photos into eight categories and never pays twice for the same picture."""

import gc
import os

VERSION = "0.1.0"
"""Of the service, as in pyproject.toml."""

# Since 1.29, onnxruntime tells its maker about each model that is loaded, unless it is forbidden before it is imported
# (its Privacy.md). Here, and not beside the local model, since models of others may use it, too.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Objects between two rounds of the garbage collector; Python's own 700 mean a round every ten requests. Requests and
# imports leave hardly any cycles: looking for them was 6 % of a hit (python -m bench.profile), and a tenth of a start.
gc.set_threshold(20_000)
