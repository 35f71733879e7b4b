"""Capabilities by name (capabilities(7)), and which of them a payload is given."""

from __future__ import annotations

from overlay.failure import USAGE, Failure
from overlay.records import NamedTuple
from sifkit.runtime.linux import ALL_CAPABILITIES as ALL

# <linux/capability.h>, in the order of their numbers.
_NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip


class Privileges(NamedTuple):
    """What changes the payload's capabilities: ``none`` to begin with, ``added`` and ``dropped`` as bits."""

    none: bool = False
    added: int = 0
    dropped: int = 0

    def of(self, privileged: bool) -> int:
        """The capabilities that the payload keeps, as bits, among those there are."""
        begin = ALL if privileged and not self.none else 0
        return (begin | self.added) & ~self.dropped


def parse(option: str, text: str) -> int:
    """The bits that ``text`` names: ``CAP_NET_RAW,kill`` or ``all``. `Failure` for what is no capability."""
    bits = 0
    for word in text.split(","):
        name = word.strip().lower().removeprefix("cap_")
        if name == "all":
            bits = ALL
        elif name in _NAMES:
            bits |= 1 << _NAMES.index(name)
        else:
            raise Failure(f"{option} {text}", f"{word!r} is no capability", "capabilities(7) has their names", USAGE)
    return bits


def describe(bits: int) -> str:
    """``bits`` in words."""
    if bits == ALL:
        return "all there are"
    if bits.bit_count() > 32:
        left = [f"CAP_{name.upper()}" for number, name in enumerate(_NAMES) if not bits >> number & 1]
        return f"all there are but {', '.join(left)}"
    return ", ".join(f"CAP_{name.upper()}" for number, name in enumerate(_NAMES) if bits >> number & 1) or "none"
