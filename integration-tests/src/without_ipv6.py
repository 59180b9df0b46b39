"""Runs a program as on a kernel without IPv6: its sockets of that family are answered with EAFNOSUPPORT (seccomp(2))."""

import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
AF_INET6, EAFNOSUPPORT = 10, 97
SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06

# Of each call: its number at 0, its first argument's low half at 16.
instructions = [
    (LOAD, 0, 0, 0),
    (EQUAL, 0, 3, SOCKET),
    (LOAD, 0, 0, 16),
    (EQUAL, 0, 1, AF_INET6),
    (RETURN, 0, 0, ERRNO | EAFNOSUPPORT),
    (RETURN, 0, 0, ALLOW),
]
code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)]:
    if libc.prctl(*arguments) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
