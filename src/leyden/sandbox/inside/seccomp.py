"""A filter that refuses system calls which tested programs do not need.

The namespaces around a program already hide network and files. The filter closes what they do not
cover: new user namespaces, memory outside the address space (memfd, System V), VM sockets, the
kernel's own machinery. Source: seccomp(2), and linux/filter.h for the classic BPF encoding.
"""

import ctypes
import errno
import platform
import struct

LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW* flags
LOCAL_SOCKETS = 1  # AF_UNIX; other sockets reach nobody and hold memory that is not counted
SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS: memory that no process is charged for
NEWEST = 462  # system calls after this one are not known here
X32 = 0x40000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2

# Numbers that both architectures share come last.
# io_uring, mounts and pidfd_getfd.
NEWER = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442, 447)
SYSTEM_CALLS = {
    "x86_64": {
        "audit": 0xC000003E,
        "clone": 56,
        "clone3": 435,
        "socket": 41,
        "mmap": 9,
        "prlimit": 302,
        "refused": (
            29, 30, 31, 64, 68, 101, 103, 135, 141, 142, 144, 153, 154, 155, 161, 163, 164, 165,
            166, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 203, 206, 212, 227, 240, 246,
            248, 249, 250, 251, 272, 298, 300, 303, 304, 308, 310, 311, 312, 313, 314, 319, 320,
            321, 323, *NEWER,
        ),
    },
    "aarch64": {
        "audit": 0xC00000B7,
        "clone": 220,
        "clone3": 435,
        "socket": 198,
        "mmap": 222,
        "prlimit": 261,
        "refused": (
            0, 30, 39, 40, 41, 51, 60, 89, 92, 97, 104, 105, 106, 112, 116, 117, 118, 119, 122,
            140, 142, 161, 162, 170, 180, 186, 190, 194, 195, 196, 217, 218, 219, 224, 225, 241,
            262, 264, 265, 268, 270, 271, 272, 273, 274, 279, 280, 282, 294, *NEWER,
        ),
    },
}  # fmt: skip


Step = tuple[int, int, int, int]


def supported() -> bool:
    """Whether the numbers of this machine's system calls are known."""
    return platform.machine() in SYSTEM_CALLS


def program() -> bytes:
    """The filter as an array of ``struct sock_filter``, for this machine."""
    calls = SYSTEM_CALLS[platform.machine()]
    allowed = (RETURN, 0, 0, ALLOW)
    unknown, refused = (RETURN, 0, 0, REFUSE | errno.ENOSYS), (RETURN, 0, 0, REFUSE | errno.EPERM)
    steps = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, calls["audit"]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL),
        (AT_LEAST, 0, 1, NEWEST + 1),
        unknown,
        (EQUAL, 0, 1, calls["clone3"]),
        unknown,  # the C library then falls back to clone, whose flags the filter sees
    ]
    for number in calls["refused"]:
        steps += [(EQUAL, 0, 1, number), refused]
    steps += _judged(calls["clone"], 0, [(ANY_BIT, 0, 1, NEW_NAMESPACES), refused, allowed])
    steps += _judged(calls["socket"], 0, [(EQUAL, 1, 0, LOCAL_SOCKETS), refused, allowed])
    steps += _judged(calls["prlimit"], 0, [(EQUAL, 1, 0, 0), refused, allowed])  # of itself alone
    shared = [(AND, 0, 0, SHARED_ANONYMOUS), (EQUAL, 0, 1, SHARED_ANONYMOUS), refused, allowed]
    steps += _judged(calls["mmap"], 3, shared)
    steps.append(allowed)
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _judged(number: int, argument: int, steps: list[Step]) -> list[Step]:
    """``steps`` decide about the call ``number`` by (the low half of) one of its arguments."""
    load = (LOAD, 0, 0, ARGUMENTS + 8 * argument)
    return [(EQUAL, 0, 1 + len(steps), number), load, *steps]


def install(filters: bytes) -> None:
    """Bind this process, and every one it starts, to ``filters``; it cannot be undone."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(filters, len(filters))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    whole = Program(len(filters) // 8, ctypes.cast(code, ctypes.c_void_p))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(whole), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
