"""Loop devices for real root, by ioctl (loop(4)); they free themselves with the last user (autoclear)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from overlay.section import Section

_LOOP_CTL_GET_FREE, _LOOP_SET_FD, _LOOP_SET_STATUS64, _LOOP_CONFIGURE = 0x4C82, 0x4C00, 0x4C04, 0x4C0A
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_ATTEMPTS = 64


def attach(section: Section, readonly: bool) -> tuple[str, int]:
    """A loop device on ``section``: its path, and a descriptor that keeps it until the mount holds it.

    Raises OSError when there is no device to be had.
    """
    mode = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC
    backing = os.open(section.path, mode)
    try:
        for _ in range(_ATTEMPTS):
            path, device = _free(mode)
            try:
                _configure(device, backing, _info(section, readonly))
            except OSError as error:
                os.close(device)
                if error.errno == errno.EBUSY:  # somebody took the same free device first
                    continue
                raise
            return path, device
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, "no free loop device", "/dev/loop-control")


def _configure(device: int, backing: int, info: bytes) -> None:
    """Set file, place and autoclear in one call (Linux 5.8), so that a kill cannot leave half of it behind."""
    try:
        fcntl.ioctl(device, _LOOP_CONFIGURE, struct.pack("=II", backing, 0) + info + bytes(64))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTTY):
            raise
        fcntl.ioctl(device, _LOOP_SET_FD, backing)
        fcntl.ioctl(device, _LOOP_SET_STATUS64, info)


def _free(mode: int) -> tuple[str, int]:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    finally:
        os.close(control)
    path = f"/dev/loop{number}"
    if not os.path.exists(path):
        # A container's /dev holds only the devices of its start.
        os.mknod(path, 0o60660, os.makedev(7, number))
    return path, os.open(path, mode)


def _info(section: Section, readonly: bool) -> bytes:
    """struct loop_info64 of <linux/loop.h>: 232 bytes; only offset, sizelimit, flags and name are set."""
    flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_READ_ONLY if readonly else 0)
    name = os.fsencode(section.path)[:63]
    place = (section.offset, section.size)
    return struct.pack("=QQQQQIIII64s64s32sQQ", 0, 0, 0, *place, 0, 0, 0, flags, name, b"", b"", 0, 0)
