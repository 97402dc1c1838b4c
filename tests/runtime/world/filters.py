#!/usr/bin/env python3
"""Reads the seccomp filters of two processes out of the kernel and tries both on the same calls.

  filters.py PID PID    ends with 0 if both do the same with every call, else says what differs

Every number of a call that an architecture could have is tried, with arguments that the profiles
tell apart: flags of clone and socket, personalities.
"""

import ctypes
import os
import struct
import sys

SEIZE, INTERRUPT, DETACH, GET_FILTER = 0x4206, 0x4207, 17, 0x420C
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32_BIT = 0x40000000
ARGUMENTS = [
    (0, 0, 0, 0, 0, 0),
    (40, 0, 0, 0, 0, 0),  # AF_VSOCK
    (38, 0, 0, 0, 0, 0),  # AF_ALG
    (8, 0, 0, 0, 0, 0),
    (0x20000, 0, 0, 0, 0, 0),
    (0x20008, 0, 0, 0, 0, 0),
    (0xFFFFFFFF, 0, 0, 0, 0, 0),
    (0xFFFFFFFFFFFFFFFF, 0, 0, 0, 0, 0),
    (0x10000000, 0x10000000, 0, 0, 0, 0),  # CLONE_NEWUSER
    (0x7E020000, 0, 0, 0, 0, 0),
    (1, 1, 1, 1, 1, 1),
    (2, 0, 0, 0, 0, 0),
]

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(*words):
    result = libc.ptrace(*words)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {words[:2]}")
    return result


def filters(pid):
    """The programs of a process, the last one that was installed first."""
    ptrace(SEIZE, pid, None, None)
    ptrace(INTERRUPT, pid, None, None)
    os.waitpid(pid, 0x40000000)
    programs = []
    try:
        while True:
            try:
                length = ptrace(GET_FILTER, pid, len(programs), None)
            except OSError:
                break
            buffer = (ctypes.c_uint64 * length)()
            ptrace(GET_FILTER, pid, len(programs), buffer)
            programs.append(list(struct.iter_unpack("HBBI", bytes(buffer))))
    finally:
        ptrace(DETACH, pid, None, None)
    return programs


def run(program, data):
    """What a filter says of one call, as the kernel's machine does it."""
    a = x = at = 0
    memory = [0] * 16
    while True:
        code, then, otherwise, k = program[at]
        at += 1
        kind = code & 7
        operand = x if code & 8 else k
        if kind == 0:
            if code == 0x20:
                (a,) = struct.unpack_from("I", data, k)
            elif code & 0xE0 == 0x60:
                a = memory[k]
            else:
                a = k
        elif kind == 2:
            memory[k] = a
        elif kind == 4:
            operation = code & 0xF0
            if operation == 0x50:
                a &= operand
            elif operation == 0x40:
                a |= operand
            else:
                raise SystemExit(f"no such operation: {code:#x}")
        elif kind == 5:
            operation = code & 0xF0
            if operation == 0:
                at += k
                continue
            holds = {
                0x10: a == operand,
                0x20: a > operand,
                0x30: a >= operand,
                0x40: a & operand != 0,
            }[operation]
            at += then if holds else otherwise
        elif kind == 6:
            return k if code == 6 else a
        elif code & 0xF8 == 0:
            x = a
        else:
            a = x


def verdict(programs, data):
    # The most severe one counts; compared as signed numbers, that is the least.
    said = [run(program, data) for program in programs]
    return min(said, key=lambda action: ctypes.c_int32(action & 0xFFFF0000).value)


def numbers(architecture):
    yield from range(0, 1000)
    yield from (0x7FFFFFFF, 0xFFFFFFFF)
    if architecture == X86_64:
        yield from range(X32_BIT, X32_BIT + 1000)
    if architecture == ARM:
        yield from range(0xF0000, 0xF0010)


def main():
    one, two = (filters(int(pid)) for pid in sys.argv[1:3])
    if not one or not two:
        raise SystemExit("there is no filter")
    tried = 0
    seen = set()
    for architecture in (X86_64, I386, AARCH64, ARM):
        for number in numbers(architecture):
            for arguments in ARGUMENTS:
                data = struct.pack("IIQ6Q", number, architecture, 0, *arguments)
                verdicts = verdict(one, data), verdict(two, data)
                if verdicts[0] != verdicts[1]:
                    shown = ", ".join(f"{value:#x}" for value in verdicts)
                    raise SystemExit(
                        f"call {number} of {architecture:#x} with {arguments}: {shown}"
                    )
                tried += 1
                seen.add(verdicts[0])
    print(tried, " ".join(f"{value:#x}" for value in sorted(seen)))


main()
