"""What a process that has read hostile bytes may still do: compute, read and write its pipes, and end.

Three layers, each as far as the kernel has it: resource limits (no further descriptor can be opened), Landlock (no
file, no TCP, no signal to another process) and seccomp (no system call but the few that decoding takes). Nothing of it
needs a right, and none of it can be taken back.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38

# ----- seccomp: https://docs.kernel.org/userspace-api/seccomp_filter.html

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, _SECCOMP_MODE_FILTER = 1, 1, 2
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
# Offsets in struct seccomp_data; arguments are eight bytes each, of which the lower half comes first.
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_CLONE_THREAD, _PROT_EXEC = 0x10000, 4

# x86_64, aarch64: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
_ALLOWED = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "close": (3, 57), "fstat": (5, 80),
    "lseek": (8, 62), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216), "madvise": (28, 233),
    "futex": (202, 98), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "gettid": (186, 178),
    "getpid": (39, 172), "getrusage": (98, 165), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169), "getrandom": (318, 278),
    "set_robust_list": (273, 99), "rseq": (334, 293), "restart_syscall": (219, 128), "exit": (60, 93),
    "exit_group": (231, 94),
}  # fmt: skip
# Memory, but none that can be executed; a thread, but no process. clone3 hides its flags, and its callers know clone.
_CHECKED = {
    "mmap": ((9, 222), 2, _PROT_EXEC, False),
    "mprotect": ((10, 226), 2, _PROT_EXEC, False),
    "clone": ((56, 220), 0, _CLONE_THREAD, True),
}
_CLONE3 = 435

# ----- Landlock: https://docs.kernel.org/userspace-api/landlock.html; the numbers are the same everywhere.

_CREATE_RULESET, _RESTRICT_SELF, _RULESET_VERSION = 444, 446, 1
# How many rights to files each version of the interface knows, of which the last that is not newer counts.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_NETWORK_SINCE, _SCOPES_SINCE = 4, 6
_BIND_AND_CONNECT, _ABSTRACT_SOCKETS_AND_SIGNALS = 0b11, 0b11


def confine() -> list[str]:
    """Give up what decoding does not take, for this process and for ever; return the names of the layers that hold."""
    layers = ["resource limits"]
    libc = ctypes.CDLL(None, use_errno=True)
    is_restricted = sys.platform == "linux" and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if is_restricted:
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        version = _restrict_by_landlock(libc)
        layers += [f"Landlock {version}"] if version else []
    # After Landlock, whose rules are a descriptor, and before the filter, which takes this right, too.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    if is_restricted and _filter_system_calls(libc):
        layers.append("seccomp")
    return layers


def _restrict_by_landlock(libc: ctypes.CDLL) -> int:
    """Allow no file, and as far as the kernel's version goes no TCP and no signal; return that version, 0 for none."""
    version = libc.syscall(_CREATE_RULESET, None, 0, _RULESET_VERSION)
    if version < 1:
        return 0
    rights = [count for since, count in _FILE_RIGHTS.items() if since <= version][-1]
    attributes = struct.pack("<Q", (1 << rights) - 1)
    if version >= _NETWORK_SINCE:
        attributes += struct.pack("<Q", _BIND_AND_CONNECT)
    if version >= _SCOPES_SINCE:
        attributes += struct.pack("<Q", _ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return 0
    try:
        return version if libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        with contextlib.suppress(OSError):
            os.close(ruleset)


def _filter_system_calls(libc: ctypes.CDLL) -> bool:
    """Allow the system calls above; every other one fails. Returns whether it holds."""
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        return False
    program = _program(machine)
    instructions = ctypes.create_string_buffer(program, len(program))

    class FilterProgram(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    pointer = FilterProgram(len(program) // 8, ctypes.cast(instructions, ctypes.c_void_p))
    done = libc.syscall(_SECCOMP[machine], _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(pointer))
    # Where what started us forbids that call: this thread is the only one so far.
    return bool(done == 0 or libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(pointer)) == 0)


def _program(machine: str) -> bytes:
    """The filter, in the classic BPF that the kernel takes: eight bytes an instruction (code, two jumps, value)."""
    column = 0 if machine == "x86_64" else 1
    steps = [
        (_LOAD_WORD, 0, 0, _ARCH_AT),
        (_JUMP_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    for numbers, argument, bit, is_wanted in _CHECKED.values():
        if_set, if_not = (0, 1) if is_wanted else (1, 0)
        steps += [
            (_JUMP_IF_EQUAL, 0, 4, numbers[column]),
            (_LOAD_WORD, 0, 0, _ARGUMENTS_AT + 8 * argument),
            (_JUMP_IF_SET, if_set, if_not, bit),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ERRNO | _EPERM),
        ]
    for numbers in _ALLOWED.values():
        steps += [(_JUMP_IF_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    steps.append((_RETURN, 0, 0, _ERRNO | _EPERM))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
