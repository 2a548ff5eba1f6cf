"""The process that decodes can do nothing but decode, whoever has taken it over: each attack is tried in it."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.photo.sandbox import describe_sandbox

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp and Landlock are Linux's")

# What would end the attacking process, or harm others, where it succeeds.
HARMFUL = ("run a program", "trace its parent", "become another user", "raise its limits")

# Runs in a process like the decoder's; prints what became of each attack: "refused", or what it brought.
_ATTACKS = """
import ctypes, json, mmap, os, signal, socket, sys, threading
sys.path.insert(0, sys.argv[1])
from app.photo import confinement
parent, port, secret = os.getppid(), int(sys.argv[2]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
pipe = os.pipe()
taken = json.loads(sys.argv[4])
for name in taken:
    if name.startswith("_"):
        # As on a kernel without it.
        setattr(confinement, name, lambda libc: False)
layers = confinement.confine()

def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

def connect(family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(("127.0.0.1", port))

def fork():
    if os.fork() == 0:
        os._exit(0)

ALL = {
    "read a file": lambda: os.open(secret, os.O_RDONLY),
    "write a file": lambda: os.open(secret + ".new", os.O_WRONLY | os.O_CREAT, 0o600),
    "list a folder": lambda: os.listdir("/"),
    "remove a file": lambda: os.unlink(secret),
    "connect": connect,
    "make a UNIX socket": lambda: socket.socket(socket.AF_UNIX),
    "signal its parent": lambda: os.kill(parent, 0),
    "signal all": lambda: os.kill(-1, 0),
    "read the memory of its parent": lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY),
    "trace its parent": lambda: call("ptrace", 16, parent, 0, 0),
    "start a process": fork,
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "duplicate a descriptor": lambda: os.dup(1),
    "make memory executable": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "raise its limits": lambda: __import__("resource").setrlimit(7, (1024, 1024)),
    "become another user": lambda: os.setuid(65534),
}
attacks = {name: attack for name, attack in ALL.items() if name not in taken}
became = {}
for name, attack in attacks.items():
    try:
        became[name] = repr(attack())
    except (OSError, ValueError):
        became[name] = "refused"
# What decoders do need.
threading.Thread(target=lambda: bytearray(50_000_000)).start()
sys.stdout.write(json.dumps({"layers": layers, "became": became}))
sys.stdout.flush()
os._exit(0)
"""


def attack(tmp_path: Path, *without: str) -> Any:
    secret = tmp_path / "secret"
    secret.write_text("a key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = [str(ROOT), str(listener.getsockname()[1]), str(secret), json.dumps(without)]
        done = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-c", _ATTACKS, *arguments], stdout=subprocess.PIPE, check=True, timeout=60
        )
    assert secret.read_text() == "a key"
    assert list(tmp_path.iterdir()) == [secret]
    return json.loads(done.stdout)


def test_it_can_do_nothing(tmp_path: Path) -> None:
    found = attack(tmp_path)
    if "seccomp" not in found["layers"]:
        pytest.skip("this kernel, or what runs the tests, allows no seccomp filter")
    assert {name for name, became in found["became"].items() if became != "refused"} == set()


def test_landlock_alone_keeps_files_and_signals_from_it(tmp_path: Path) -> None:
    found = attack(tmp_path, "_filter_system_calls", *HARMFUL)
    if not any(layer.startswith("Landlock") for layer in found["layers"]):
        pytest.skip("this kernel has no Landlock")
    can = {name for name, became in found["became"].items() if became != "refused"}
    assert can & {"read a file", "write a file", "list a folder", "remove a file", "connect"} == set()


def test_where_the_kernel_has_neither_no_descriptor_is_opened(tmp_path: Path) -> None:
    found = attack(tmp_path, "_filter_system_calls", "_restrict_by_landlock", "remove a file", *HARMFUL)
    assert found["layers"] == ["resource limits"]
    can = {name for name, became in found["became"].items() if became != "refused"}
    assert can & {"read a file", "write a file", "list a folder", "connect", "make a UNIX socket"} == set()


def test_what_holds_is_said() -> None:
    said = describe_sandbox()
    assert said.startswith("photos are decoded in a process confined by resource limits")
    if "seccomp" in said:
        assert said.endswith("it opens no file or socket and sends no signal")
