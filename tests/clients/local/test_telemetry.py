"""With the local model nothing leaves the machine: onnxruntime's own telemetry is off."""

import os
import subprocess
import sys
from pathlib import Path

from app.config.settings import PROJECT_ROOT


def test_onnxruntime_prepares_nothing_to_send(tmp_path: Path) -> None:
    """Where it is on, a device's id and a database of events are in HOME, and a session in TMPDIR, within the call."""
    code = "from app.clients.local.network import open_session; open_session('centerface.onnx')"
    # Without CI, in which it keeps quiet by itself.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, env=environment, check=True, timeout=60)  # noqa: S603 - our own
    assert list(tmp_path.rglob("*")) == []
