"""Does operations on files inside a container, and tells what is there: for the model test of staged writes.

    model_ops.py TOP < JSON     {"ops": [[name, argument...]...]}; prints {"tree": ..., "errors": ...}

The tree is told before the operations are done: as the run finds it. Names are relative to TOP.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys


def tell(top: str) -> dict[str, list[object]]:
    """Every name below ``top`` with kind, mode, and what it holds; times of files, for they are set by us."""
    found: dict[str, list[object]] = {}
    for directory, _, _ in os.walk(top):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            facts: list[object] = [oct(kind), oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid]
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    facts += [file.read().hex(), status.st_mtime_ns]
            elif kind == stat.S_IFLNK:
                facts.append(os.readlink(path))
            if kind in (stat.S_IFREG, stat.S_IFDIR):
                facts.append({key: os.getxattr(path, key).hex() for key in os.listxattr(path)})
            found[os.path.relpath(path, top)] = facts
    return found


def alone(path: str) -> None:
    """Part ``path`` from its hard links, as copying up from a lower layer does."""
    if os.lstat(path).st_nlink > 1:
        shutil.copy2(path, path + ".alone", follow_symlinks=False)
        os.rename(path + ".alone", path)


def write(path: str, text: str, mode: str) -> None:
    if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
        raise OSError(errno.ENXIO, "nobody reads it, and opening it would wait for somebody")
    if os.path.lexists(path):
        alone(path)
    with open(path, mode) as file:
        file.write(text)


def rename(old: str, new: str) -> None:
    """As mv(1) does: a directory from a lower layer cannot be renamed (EXDEV), so it is copied."""
    if os.path.isdir(old) and (new + "/").startswith(old + "/"):
        raise OSError(errno.EINVAL, "into itself")
    if os.path.isdir(new) and os.listdir(new) and os.path.isdir(old):
        raise OSError(errno.ENOTEMPTY, "not empty")
    try:
        os.rename(old, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if os.path.isdir(new):
            os.rmdir(new)
        shutil.copytree(old, new, symlinks=True)
        shutil.rmtree(old)


def chmod(path: str, mode: int) -> None:
    if os.path.isfile(path):
        alone(path)
    os.chmod(path, mode | (0o700 if os.path.isdir(path) else 0o400))


def attribute(path: str, name: str, value: str) -> None:
    alone(path)
    os.setxattr(path, f"user.{name}", value.encode())


def truncate(path: str, size: int) -> None:
    alone(path)
    os.truncate(path, size)


def remove_tree(path: str) -> None:
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "a link")
    shutil.rmtree(path)


OPS = {
    "write": lambda path, text: write(path, text, "w"),
    "append": lambda path, text: write(path, text, "a"),
    "truncate": truncate,
    "rename": rename,
    "link": lambda old, new: os.link(old, new, follow_symlinks=False),
    "symlink": lambda text, path: os.symlink(text, path),
    "unlink": os.unlink,
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "rmtree": remove_tree,
    "chmod": chmod,
    "xattr": attribute,
    "mkfifo": os.mkfifo,
}


def do(top: str, number: int, op: list[object]) -> str:
    """Do one operation; the name of its error."""
    name, *arguments = op
    paths = [f"{top}/{one}" if isinstance(one, str) and one.startswith("./") else one for one in arguments]
    try:
        OPS[str(name)](*paths)
        for path in paths:
            ours = isinstance(path, str) and path.startswith(f"{top}/") and name in ("write", "append", "truncate")
            if ours and os.path.isfile(str(path)):  # also what a link leads to
                os.utime(str(path), ns=(number, 10**18 + number * 1_000_001))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "EIO")
    return ""


def main() -> None:
    top = sys.argv[1]
    asked = json.load(sys.stdin)
    os.makedirs(top, exist_ok=True)
    tree = tell(top)
    errors = [do(top, asked["first"] + number, op) for number, op in enumerate(asked["ops"])]
    print(json.dumps({"tree": tree, "errors": errors}))


main()
