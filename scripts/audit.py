"""`make audit`: look for known vulnerabilities of the pinned packages.

The exit status is 1 if there are some, and 0 where advisories cannot be reached: then a line says that nothing was
looked at.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
TIMEOUT_SECONDS = 300


def main() -> int:
    """Audit, print what was found, and return the exit status."""
    packages = audited()
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        sys.stderr.write("advisories cannot be reached: no package was audited\n")
        return 0
    vulnerable = [package for package in known if package.get("vulns")]
    for package in vulnerable:
        advisories = ", ".join(advisory["id"] for advisory in package["vulns"])
        sys.stderr.write(f"{package['name']} {package['version']}: {advisories}\n")
    sys.stderr.write(f"{len(known)} of {len(packages)} packages audited, {len(vulnerable)} of them are vulnerable\n")
    return 1 if vulnerable else 0


def audited() -> list[dict[str, Any]]:
    """Return what pip-audit says of each package; nothing where it cannot be had, or reaches no advisories."""
    uv = Path(sys.executable).with_name("uv")
    program = str(uv) if uv.exists() else shutil.which("uv")
    if program is None:
        return []
    command = [
        program,
        "tool",
        "run",
        "--system-certs",
        "pip-audit",
        "--requirement",
        str(REQUIREMENTS),
        "--disable-pip",
    ]
    command += ["--require-hashes", "--progress-spinner", "off", "--format", "json"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_SECONDS)  # noqa: S603
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, OSError, ValueError, KeyError, TypeError):
        return []
    return packages


if __name__ == "__main__":
    sys.exit(main())
