"""``--dry-run``: the plan of a run as text or JSON."""

from __future__ import annotations

import sys

from overlay.stack.driver import Decision
from sifkit.runtime import capabilities
from sifkit.runtime.plan import Plan


def show(plan: Plan, decision: Decision, as_json: bool) -> None:
    """Print ``plan`` and the driver's choice on standard output."""
    facts = collect(plan, decision)
    if as_json:
        import json

        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(_lines(facts)))
    sys.stdout.flush()


def collect(plan: Plan, decision: Decision) -> dict[str, object]:
    """The plan as plain data; its keys are documented in docs/man/sifkit-exec.1.md."""
    return {
        "verb": plan.verb,
        "image": plan.image,
        "namespaces": ", ".join([*([] if plan.privileged else ["user"]), "mount", *plan.namespaces.describe()]),
        "capabilities": capabilities.describe(plan.capabilities),
        "ids": plan.ids.describe() if plan.ids else [],
        "layers": plan.stack.describe(),
        "driver": decision.driver,
        "reason": decision.reason,
        "warning": decision.warning,
        "create_dirs": list(plan.create_dirs),
        "steps": [step.describe() for step in plan.steps],
        "commands": [list(command) for command in plan.commands],
        "cwd": list(plan.cwds),
        "umask": f"{plan.umask:04o}",
        "environment": plan.environment.start(),
    }


def _lines(facts: dict[str, object]) -> list[str]:
    lines = [f"image       {facts['image']}", f"namespaces  {facts['namespaces']}"]
    lines += [f"id          {line}" for line in _list(facts["ids"])]
    lines += [f"capabilities  {facts['capabilities']}", "layers, topmost first:"]
    lines += [f"  {layer}" for layer in _list(facts["layers"])]
    lines += [f"driver      {facts['driver']}: {facts['reason']}"]
    if facts["warning"]:
        lines.append(f"warning     {facts['warning']}")
    lines += ["steps:"] + [f"  {step}" for step in _list(facts["steps"])]
    words = [" ".join(command) for command in _list(facts["commands"])]
    lines.append(f"command     {words[0]}" + "".join(f"\n  or        {other}" for other in words[1:]))
    lines.append(f"directory   {', else '.join(str(path) for path in _list(facts['cwd']))}")
    return lines


def _list(value: object) -> list[list[str]]:
    assert isinstance(value, list)
    return value
