"""passwd and group lines for the caller."""

from __future__ import annotations

from sifkit.runtime.identity import Identity, caller, group, passwd

ME = Identity(1000, 1000, (1000, 4242), "me", "/home/me", "/bin/bash", "Me,,,")


def test_the_line_is_appended_last_and_exact() -> None:
    assert passwd("root:x:0:0:root:/root:/bin/sh\n", ME).splitlines()[-1] == "me:x:1000:1000:Me,,,:/home/me:/bin/bash"


def test_a_line_of_the_same_name_or_number_is_replaced() -> None:
    image = "root:x:0:0::/root:/bin/sh\nme:x:7:7::/old:/bin/sh\nother:x:1000:1::/o:/bin/sh\n"
    assert passwd(image, ME).splitlines() == ["root:x:0:0::/root:/bin/sh", "me:x:1000:1000:Me,,,:/home/me:/bin/bash"]


def test_an_image_without_the_file_gets_one() -> None:
    assert passwd("", ME) == "me:x:1000:1000:Me,,,:/home/me:/bin/bash\n"


def test_groups_that_are_missing_are_added() -> None:
    lines = group("root:x:0:\nstaff:x:1000:\n", ME).splitlines()
    assert lines[:2] == ["root:x:0:", "staff:x:1000:"]
    assert lines[2].split(":")[2:] == ["4242", "me"]


def test_the_caller_has_a_name_whatever_the_host_knows() -> None:
    assert caller().name
    assert caller().gid in caller().groups
