"""Debian root file systems of the files of the host's own packages: debootstrap's minbase, and one without a shell.

Taken from what is installed here and not from a mirror, they need no network and two seconds. Owned by the caller, who
is root in a --fakeroot run. In the minbase is a repository with one real package to be installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import probes
import pytest

_INFO = Path("/var/lib/dpkg/info")
_MINBASE = ("apt", "passwd", "base-files", "base-passwd", "debian-archive-keyring")
_WITHOUT_SHELL = ("coreutils", "libc-bin")  # libc-bin: ldconfig, a static program, and scripts without their shell
_LEFT_OUT = re.compile(r"/usr/share/(doc|man|locale|info|lintian|bug)/|/usr/lib/[^/]+/gconv/|/boot/")
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


def make(out: Path, *more: str) -> Path:
    """The minbase ``out``, with the packages ``more`` where the host has them."""
    packages = _closure([*_essential(), *_MINBASE, *more])
    _unpack(packages, out)
    info = out / "var/lib/dpkg/info"
    info.mkdir(parents=True, exist_ok=True)
    for name in packages:
        for file in [*_INFO.glob(f"{name}.*"), *_INFO.glob(f"{name}:*")]:
            shutil.copy(file, info)
    for name in os.listdir("/etc/alternatives"):
        _copy(f"/etc/alternatives/{name}", out)
    for path in ("/usr/bin/awk", "/etc/ld.so.cache", f"{_INFO}/format"):
        _copy(path, out)
    (out / "var/lib/dpkg/status").write_text("\n".join(f"{stanza}\n" for stanza in packages.values()))
    for name in ("passwd", "group"):
        shutil.copy(f"/usr/share/base-passwd/{name}.master", out / "etc" / name)
    with (out / "etc/passwd").open("a") as file:
        file.write("_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n")
    shutil.rmtree(out / "etc/apt", ignore_errors=True)
    (out / "etc/apt/sources.list.d").mkdir(parents=True)
    (out / "etc/apt/sources.list").write_text("deb [trusted=yes] copy:/repository ./\n")
    for path in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "repository",
                 "var/cache/apt/archives/partial", "var/log/apt", "var/lib/dpkg/updates"):  # fmt: skip
        (out / path).mkdir(parents=True, exist_ok=True)
    return out


def make_without_shell(out: Path) -> Path:
    """Coreutils and the C library, and no shell, as images of one program have it."""
    _unpack(_closure(_WITHOUT_SHELL), out)
    return out


def _unpack(packages: Iterable[str], out: Path) -> None:
    for name in _MERGED:
        if os.path.islink(f"/{name}"):
            (out / "usr" / name).mkdir(parents=True, exist_ok=True)
            (out / name).symlink_to(f"usr/{name}")
    for name in packages:
        for path in _files(name):
            if not _LEFT_OUT.search(f"{path}/"):
                _copy(path, out)
    for path in ("tmp", "proc", "sys", "dev", "root"):
        (out / path).mkdir(exist_ok=True)


def add_repository(root: Path, package: str) -> None:
    """Put the real ``package`` into the repository of ``root``, got as the host gets its own. Skips where it cannot."""
    place = root / "repository"
    done = subprocess.run(["apt-get", "download", package], cwd=place, capture_output=True, text=True, timeout=60)
    found = list(place.glob("*.deb"))
    if done.returncode or not found:
        reason = f"the package {package} cannot be had from this host's mirror: {done.stderr.strip()[-200:]}"
        pytest.fail(reason, pytrace=False) if probes.MUST_WORK else pytest.skip(reason)
    control = subprocess.run(["dpkg-deb", "-f", found[0]], capture_output=True, text=True, check=True).stdout
    data = found[0].read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (place / "Packages").write_text(f"{control}Filename: ./{found[0].name}\nSize: {len(data)}\nSHA256: {digest}\n\n")


def _installed() -> dict[str, str]:
    stanzas = Path("/var/lib/dpkg/status").read_text(errors="replace").split("\n\n")
    return {_field(text, "Package"): text.strip() for text in stanzas if "Status: install ok installed" in text}


def _essential() -> list[str]:
    return [name for name, text in _installed().items() if _field(text, "Essential") == "yes"]


def _closure(roots: Iterable[str]) -> dict[str, str]:
    """The packages ``roots`` and all that they depend on, each with its stanza of the status file."""
    installed = _installed()
    provided = {
        word.split()[0]: name
        for name, text in installed.items()
        for word in _field(text, "Provides").split(",")
        if word
    }
    found: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        name = name if name in installed else provided.get(name, "")
        if not name or name in found:
            continue
        found[name] = installed[name]
        needed = ",".join(_field(installed[name], field) for field in ("Depends", "Pre-Depends"))
        for choice in filter(str.strip, needed.split(",")):
            names = [re.split(r"[ :(]", word.strip())[0] for word in choice.split("|")]
            waiting.append(next((one for one in names if one in installed or one in provided), ""))
    return found


def _field(stanza: str, name: str) -> str:
    match = re.search(rf"^{name}: (.*)$", stanza, re.MULTILINE)
    return match[1] if match else ""


def _files(package: str) -> list[str]:
    lists = [*_INFO.glob(f"{package}.list"), *_INFO.glob(f"{package}:*.list")]
    return [line for file in lists for line in file.read_text().splitlines() if line != "/."]


def _copy(path: str, out: Path) -> None:
    target = out / path.lstrip("/")
    if os.path.lexists(target) or not os.path.lexists(path) or not os.access(path, os.R_OK, follow_symlinks=False):
        return
    if os.path.isdir(path) and not os.path.islink(path):
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target, follow_symlinks=False)
