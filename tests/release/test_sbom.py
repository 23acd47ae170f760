"""The bill of materials is valid CycloneDX, names what a release needs and no tool of the tests, and is the same each time."""

from __future__ import annotations

import json

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scripts import sbom


def test_the_bill_is_valid_whole_and_the_same_each_time() -> None:
    text = sbom.bill()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert sbom.bill() == text
    told = json.loads(text)
    names = {part["name"] for part in told["components"]}
    assert {"torch", "ray", "av", "pillow", "starlette"} <= names
    assert not {"pytest", "hypothesis", "ruff", "moto", "cyclonedx-python-lib"} & names
    by_ref = {entry["ref"]: entry.get("dependsOn", []) for entry in told["dependencies"]}
    reached, waiting = set(), ["fulcrum"]
    while waiting:
        ref = waiting.pop()
        waiting += [need for need in by_ref[ref] if need not in reached]
        reached.add(ref)
    assert reached == {"fulcrum", *(part["bom-ref"] for part in told["components"])}
