"""Writes what a release is installed with: a CycloneDX 1.6 bill of materials of all dependencies, the same bytes each time.

    python scripts/sbom.py dist/sbom.json

Components are those that the declared dependencies lead to in the environment that runs this. One in another version than
constraints.txt pins is refused, since then the bill would not be true of a release.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fulcrum.version import __version__

ROOT = Path(__file__).resolve().parent.parent


def main(target: Path) -> int:
    try:
        text = bill()
    except ValueError as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(target)
    return 0


def bill() -> str:
    """The bill as JSON. Raises ``ValueError`` where the environment is not the pinned one."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = dict(sorted(_closure(settings["dependencies"])))
    pins = dict(_pin(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    versions = {name: metadata.version(name).partition("+")[0] for name in found}
    wrong = [f"{name} {v} (pinned: {pins[name]})" for name, v in versions.items() if pins.get(name, v) != v]
    if wrong:
        raise ValueError(f"this environment is not that of constraints.txt: {', '.join(wrong)}. Run scripts/setup.sh.")
    whole = Component(
        name="fulcrum",
        version=__version__,
        type=ComponentType.APPLICATION,
        bom_ref="fulcrum",
        licenses=[LicenseExpression(settings["license"])],
    )
    parts = {name: _component(name, versions[name]) for name in found}
    bom = Bom(components=parts.values())
    bom.metadata.component = whole
    direct = {canonicalize_name(Requirement(line).name) for line in settings["dependencies"]}
    bom.register_dependency(whole, [parts[name] for name in sorted(direct & parts.keys())])
    for name, needs in found.items():
        bom.register_dependency(parts[name], [parts[need] for need in sorted(needs)])
    # A serial number and a time would make every bill another one; the version and the pins say which this is.
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.serial_number = None  # type: ignore[assignment]
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _closure(lines: list[str]) -> Iterator[tuple[str, set[str]]]:
    """Every installed distribution that the requirements lead to, with those that it needs itself."""
    waiting = [requirement for line in lines if _applies(requirement := Requirement(line), set())]
    seen: dict[str, tuple[set[str], set[str]]] = {}  # by name: extras followed, distributions needed
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        extras, needs = seen.setdefault(name, (set(), set()))
        if extras >= one.extras | {""}:
            continue
        extras |= one.extras | {""}
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if _applies(needed, extras):
                needs.add(canonicalize_name(needed.name))
                waiting.append(needed)
    yield from ((name, needs) for name, (_, needs) in seen.items())


def _applies(one: Requirement, extras: set[str]) -> bool:
    return one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras or {""})


def _pin(line: str) -> tuple[str, str]:
    name, _, version = line.partition("==")
    return canonicalize_name(name), version.partition("+")[0]


def _component(name: str, version: str) -> Component:
    told = metadata.metadata(name)
    expression = told.get("License-Expression")
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}@{version}",
        purl=PackageURL("pypi", name=name, version=version),
        licenses=[LicenseExpression(expression)] if expression else [],
    )


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
