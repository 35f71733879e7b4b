"""System calls for processes and namespaces, three lines each.

Constants are those of <sched.h>, <sys/prctl.h>, <linux/capability.h>, <sys/socket.h>, <linux/sockios.h>.
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip

_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_SYS_ADMIN, CAP_SETFCAP = 21, 31
ALL_CAPABILITIES = (1 << 64) - 1

_AF_INET, _SOCK_DGRAM, _SOCK_CLOEXEC = 2, 2, 0o2000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1

# pivot_root(2) has no wrapper in glibc, and is older than the unified numbering.
_SYS_PIVOT_ROOT = {
    "x86_64": 155, "aarch64": 41, "riscv64": 41, "loongarch64": 41, "ppc64le": 203, "ppc64": 203, "s390x": 217,
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def unshare(flags: int) -> None:
    """unshare(2). CLONE_NEWUSER needs a process with a single thread."""
    _check(_libc.unshare(flags))


def sethostname(name: str) -> None:
    """sethostname(2), of the UTS namespace."""
    text = os.fsencode(name)
    _check(_libc.sethostname(text, ctypes.c_size_t(len(text))))


def loopback_up() -> None:
    """Set lo of the network namespace up (netdevice(7), SIOCSIFFLAGS with IFF_UP)."""
    descriptor = _check(_libc.socket(_AF_INET, _SOCK_DGRAM | _SOCK_CLOEXEC, 0))
    try:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        _check(_libc.ioctl(descriptor, ctypes.c_ulong(_SIOCSIFFLAGS), ctypes.create_string_buffer(request)))
    finally:
        os.close(descriptor)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2). With "." twice the old root lies under the new one, to be unmounted there."""
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, os.fsencode(new_root), os.fsencode(put_old)), new_root)


def become_subreaper() -> None:
    """prctl(2) PR_SET_CHILD_SUBREAPER: orphans below us become our children, so none gets away."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def no_new_privs() -> None:
    """prctl(2) PR_SET_NO_NEW_PRIVS: no set-uid program gives anything, ever after."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def keep_capabilities(kept: int) -> None:
    """Give up the capabilities of this process but those of the bits ``kept`` that it has (capset(2), prctl(2)).

    In every set: the bounding one, so that no set-uid program gives more, and the inheritable and ambient ones, so
    that execve(2) takes nothing away from who is not root.
    """
    number = 0
    while _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        if not kept >> number & 1:
            _check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))
        number += 1
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    held = 0
    if kept:
        sets = ctypes.create_string_buffer(24)  # two of effective, permitted, inheritable: the low half and the high
        _check(_libc.capget(header, sets))
        words = struct.unpack("=6I", sets.raw)
        held = (words[1] | words[4] << 32) & kept
    low, high = held & 0xFFFFFFFF, held >> 32
    _check(_libc.capset(header, struct.pack("=6I", low, low, low, high, high, high)))
    for bit in range(number):
        if held >> bit & 1:
            _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, bit, 0, 0))
