"""System calls for mounts and for the processes that serve them, three lines each.

Constants are those of <sys/mount.h>, <linux/mount.h>, <linux/openat2.h>, <sys/prctl.h>. Every function raises OSError
with the file's name. The numbers of system calls added since Linux 5.2 are the same on every
architecture we run on (asm-generic/unistd.h), so they need no table.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 32, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19

MNT_DETACH = 2

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 428, 429, 430, 431, 432
_SYS_OPENAT2, _SYS_MOUNT_SETATTR = 437, 442
_RENAME_WHITEOUT = 4

_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_FSMOUNT_CLOEXEC = 1
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_AT_RECURSIVE, _AT_EMPTY_PATH, _AT_FDCWD = 0x8000, 0x1000, -100
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10

_PR_SET_PDEATHSIG, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 47, 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_MKNOD = 0, 1, 3, 19, 21, 27

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    result = _libc.mount(_text(source), _text(target), _text(fstype), ctypes.c_ulong(flags), _text(data))
    _check(result, target)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2); lazily unless told otherwise."""
    _check(_libc.umount2(_text(target), flags), target)


def file_system(path: str) -> int:
    """f_type of statfs(2): the magic number (<linux/magic.h>) of the file system that ``path`` lies on."""
    buffer = ctypes.create_string_buffer(256)  # more than any struct statfs
    _check(_libc.statfs(_text(path), buffer), path)
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def fsopen(fstype: str) -> int:
    """fsopen(2): a file-system context. Linux 5.2."""
    return _check(_syscall(_SYS_FSOPEN, _text(fstype), _FSOPEN_CLOEXEC), fstype)


def fsconfig_string(context: int, key: str, value: str) -> None:
    """fsconfig(2) FSCONFIG_SET_STRING: one option, nothing to escape, no page limit."""
    _check(_syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, _text(key), _text(value), 0), value)


def fsconfig_flag(context: int, key: str) -> None:
    """fsconfig(2) FSCONFIG_SET_FLAG."""
    _check(_syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_FLAG, _text(key), None, 0), key)


def fsmount(context: int, attributes: int = 0) -> int:
    """fsconfig(2) FSCONFIG_CMD_CREATE, then fsmount(2): a detached mount."""
    _check(_syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0))
    return _check(_syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes))


def context_log(context: int) -> str:
    """What the kernel said about a context, one message a line (read(2) on it; severity letter kept off)."""
    lines = []
    while True:
        try:
            line = os.read(context, 8192).decode("utf-8", "replace").strip()
        except OSError as error:  # ENODATA ends the log; anything else is no reason to hide the first error
            if error.errno != errno.ENODATA:
                lines.append(error.strerror or "")
            return "; ".join(lines)
        lines.append(line[2:] if line[1:2] == " " else line)


def move_mount(mounted: int, target: int) -> None:
    """move_mount(2): attach the detached mount ``mounted`` on the file or directory open at ``target``."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _check(_syscall(_SYS_MOVE_MOUNT, mounted, b"", target, b"", flags))


def open_tree(path: str, recursive: bool) -> int:
    """open_tree(2) OPEN_TREE_CLONE: a detached bind mount of ``path``, with its submounts if ``recursive``."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _check(_syscall(_SYS_OPEN_TREE, _AT_FDCWD, _text(path), ctypes.c_uint(flags)), path)


def mount_setattr(mounted: int, attributes: int, recursive: bool) -> None:
    """mount_setattr(2): add ``attributes`` (MOUNT_ATTR_*) to a mount and, if asked, all below. Linux 5.12."""
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    packed = struct.pack("=QQQQ", attributes, 0, 0, 0)
    _check(_syscall(_SYS_MOUNT_SETATTR, mounted, b"", flags, packed, len(packed)))


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2). Linux 5.6; ENOSYS before, and EPERM under old seccomp filters."""
    packed = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _check(_syscall(_SYS_OPENAT2, directory, _text(path), packed, len(packed)), path)


def rename_whiteout(old: str, new: str) -> None:
    """renameat2(2) RENAME_WHITEOUT: ``new`` is what ``old`` was, which becomes a character device 0:0."""
    _check(_libc.renameat2(_AT_FDCWD, _text(old), _AT_FDCWD, _text(new), _RENAME_WHITEOUT), old)


def die_with_parent(signal: int) -> None:
    """prctl(2) PR_SET_PDEATHSIG: get ``signal`` when the thread that forked us ends. Forgotten by fork."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def keep_capabilities(wanted: tuple[int, ...]) -> None:
    """Make those of ``wanted`` that we have ambient, so that execve of an ordinary user keeps them (capset(2))."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    buffer = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, buffer))
    low, permitted, _, high, permitted_high, _ = struct.unpack("=6I", buffer.raw)
    inheritable = sum(1 << number for number in wanted) & permitted
    packed = struct.pack("=6I", low, permitted, inheritable, high, permitted_high, 0)
    _check(_libc.capset(header, packed))
    for number in wanted:
        if inheritable >> number & 1:
            _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0))


class _Dirent(ctypes.Structure):
    """struct dirent of readdir(3), 64-bit glibc."""

    _fields_ = [
        ("d_ino", ctypes.c_uint64), ("d_off", ctypes.c_int64), ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8), ("d_name", ctypes.c_char * 256),
    ]  # fmt: skip


def gives_types(directory: str) -> bool:
    """Whether readdir(3) of ``directory`` tells each entry's type (d_type), which overlayfs needs of a lower."""
    opendir, readdir = _libc.opendir, _libc.readdir64
    opendir.restype, readdir.restype = ctypes.c_void_p, ctypes.POINTER(_Dirent)
    stream = opendir(_text(directory))
    if not stream:
        _check(-1, directory)
    try:
        while entry := readdir(ctypes.c_void_p(stream)):
            if entry.contents.d_name not in (b".", b".."):
                return bool(entry.contents.d_type)
        return True
    finally:
        _libc.closedir(ctypes.c_void_p(stream))
