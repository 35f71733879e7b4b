"""``sifkit sif`` called within the process of the tests."""

from __future__ import annotations

from click.testing import CliRunner, Result

from overlay.failure import Failure
from sifkit.cli.sif_cmd import sif as command


def call(*arguments: object, input: bytes | None = None) -> Result:
    """What came of the command with ``arguments``."""
    return CliRunner().invoke(command, [str(a) for a in arguments], input=input)


def failure(*arguments: object) -> Failure:
    """How it failed."""
    result = call(*arguments)
    assert isinstance(result.exception, Failure), result.output
    return result.exception
