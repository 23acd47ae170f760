"""What could run code, follow a link or trust a stranger is used where it is known to be, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("fulcrum", "pipelines", "stages", "models", "data_schemas", "tinyworld")

# Each with the reason why it may stay: adding to this list is a decision about security (docs/security.md).
KNOWN = {
    # between a run and its own workers, over pipes and Ray's object store; never from a file
    ("pipelines/dag/engine.py", "pickle"),
    ("models/video/guard.py", "pickle"),
    ("models/video/worker.py", "pickle"),
    # a user's own network, which must be pinned by its hash
    ("models/metrics/film.py", "torch.jit.load"),
    ("models/scorers/dear/network.py", "torch.export.load"),
    ("models/scorers/dear/network.py", "torch.jit.load"),
    # quoting for a file that is written; nothing parses XML
    ("stages/review/label_studio.py", "xml.sax.saxutils"),
}
MODULES = ("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "xml", "csv", "mlflow.pyfunc", "telnetlib")
CALLS = {
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "torch.jit.load",
    "torch.export.load",
    "urllib.request.urlopen",
    "tempfile.mktemp",
}
METHODS = {"extract", "extractall", "to_csv", "write_csv"}
TRUE_IS_BAD = {"shell", "trust_remote_code", "allow_pickle", "follow_redirects"}
FALSE_IS_BAD = {"verify", "autoescape", "weights_only"}


@cache
def _parsed() -> list[tuple[str, list[ast.AST]]]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    kept = (ast.Import, ast.ImportFrom, ast.Call)
    return [
        (
            str(path.relative_to(ROOT)),
            [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, kept)],
        )
        for path in files
    ]


def _risks(item: ast.AST) -> Iterator[str]:
    if isinstance(item, ast.Import):
        yield from (alias.name for alias in item.names if _is_module(alias.name))
    elif isinstance(item, ast.ImportFrom) and item.module and _is_module(item.module):
        yield item.module
    elif isinstance(item, ast.Call):
        name = ast.unparse(item.func)
        given = {word.arg: word.value for word in item.keywords}
        if name in CALLS:
            yield name
        if name == "torch.load" and not _is(given.get("weights_only"), True):
            yield name
        if isinstance(item.func, ast.Attribute) and item.func.attr in METHODS:
            yield item.func.attr
        yield from (f"{word}=True" for word in TRUE_IS_BAD & given.keys() if not _is(given[word], False))
        yield from (f"{word}=False" for word in FALSE_IS_BAD & given.keys() if _is(given[word], False))


def _is_module(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in MODULES)


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_whatever_could_run_a_strangers_code_is_where_it_is_known_to_be() -> None:
    assert {(place, what) for place, items in _parsed() for item in items for what in _risks(item)} == KNOWN


def test_every_page_escapes_what_it_shows() -> None:
    """Jinja's own environments escape only when told; those of the web framework always do."""
    made = [
        (place, item)
        for place, items in _parsed()
        for item in items
        if isinstance(item, ast.Call) and ast.unparse(item.func).endswith("Environment")
    ]
    assert made
    for place, item in made:
        told = {word.arg: ast.unparse(word.value) for word in item.keywords}
        assert told.get("autoescape") == "True", place
    for path in (p for package in PACKAGES for p in (ROOT / package).rglob("*.html")):
        assert "autoescape false" not in path.read_text(encoding="utf-8"), path
