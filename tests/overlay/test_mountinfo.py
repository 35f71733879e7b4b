"""Reading /proc/self/mountinfo."""

from __future__ import annotations

from overlay import mountinfo

TEXT = r"""21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:5 / /proc rw,nosuid - proc proc rw
30 21 0:30 / /mnt/with\040space\134back rw master:2 shared:3 - fuse.sshfs me@host:/x rw
31 30 0:31 / /mnt/with\040space\134back/below ro - tmpfs none rw
40 21 0:40 / /mnt rw - xfs /dev/b rw
"""


def test_lines_become_records() -> None:
    mounts = mountinfo.parse(TEXT)
    assert mounts[0] == mountinfo.Mount("/", "ext4", "/dev/vda", "rw,relatime")
    assert mounts[2] == mountinfo.Mount("/mnt/with space\\back", "fuse.sshfs", "me@host:/x", "rw")


def test_the_covering_mount_is_the_deepest_and_the_latest() -> None:
    mounts = mountinfo.parse(TEXT)
    for path, point in (("/etc", "/"), ("/mnt", "/mnt"), ("/mntx", "/"), ("/proc/1", "/proc")):
        found = mountinfo.covering(path, mounts)
        assert found is not None
        assert found.point == point
    twice = [*mounts, mountinfo.Mount("/mnt", "btrfs", "c", "rw")]
    assert mountinfo.covering("/mnt/file", twice) == twice[-1]


def test_this_host_has_a_root() -> None:
    assert mountinfo.fstype("/") != ""
    assert mountinfo.fstype("/proc/self") == "proc"
