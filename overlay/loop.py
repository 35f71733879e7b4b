"""Loop devices for real root, by ioctl (loop(4)); they free themselves with the last user (autoclear)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from overlay.section import Section

_LOOP_CTL_GET_FREE, _LOOP_SET_FD, _LOOP_CLR_FD, _LOOP_SET_STATUS64 = 0x4C82, 0x4C00, 0x4C01, 0x4C04
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
                fcntl.ioctl(device, _LOOP_SET_FD, backing)
            except OSError as error:
                os.close(device)
                if error.errno == errno.EBUSY:  # somebody took the same free device first
                    continue
                raise
            fcntl.ioctl(device, _LOOP_SET_STATUS64, _status(section, readonly))
            return path, device
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, "no free loop device", "/dev/loop-control")


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


def _status(section: Section, readonly: bool) -> bytes:
    """struct loop_info64 of <linux/loop.h>: 232 bytes; only offset, sizelimit, flags and name are set."""
    flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_READ_ONLY if readonly else 0)
    name = os.fsencode(section.path)[:63]
    place = (section.offset, section.size)
    return struct.pack("=QQQQQIIII64s64s32sQQ", 0, 0, 0, *place, 0, 0, 0, flags, name, b"", b"", 0, 0)
