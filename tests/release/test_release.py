"""A release is whole, the same whoever builds it, and works where only it is installed; what should not go out is refused."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts import release
from scripts.release import Refused


@pytest.mark.timeout(900)
def test_what_is_built_here_is_whole_reproducible_and_works_alone(tmp_path: Path) -> None:
    """All that `make release` does, but for the state of the tree and the changelog."""
    built = release.build(release.ROOT, tmp_path)  # twice, and equal
    release.check_contents(release.ROOT, built)
    release.check_metadata(built)
    release.try_out(built[1], tmp_path, release.version(release.ROOT))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout that may be released as 1.2.0."""
    root = tmp_path / "tree"
    for name, text in {
        "fulcrum/version.py": '__version__ = "1.2.0"\n',
        "CHANGELOG.md": "# Changelog\n\n## 1.2.0\n\nNew.\n\n## 1.1.0\n\nOld.\n",
        "tests/golden/store_1.1.0.zip": "",
        "tests/golden/store_1.2.0.zip": "",
        "pyproject.toml": '[tool.setuptools.packages.find]\ninclude = ["fulcrum*"]\n',
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    _git(root, "init", "-q")
    _git(root, "add", "-A")
    _git(root, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "all")
    return root


def _git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True)


def test_a_clean_tree_with_its_entry_and_its_golden_stores_may_go_out(tree: Path) -> None:
    release.check_tree(tree)


def test_a_change_that_is_not_committed_is_named(tree: Path) -> None:
    (tree / "fulcrum/new.py").write_text("")
    with pytest.raises(Refused, match=r"1 files are changed.*fulcrum/new\.py"):
        release.check_tree(tree)


@pytest.mark.parametrize("head", ["Unreleased", "1.1.9"])
def test_the_changelog_begins_with_the_version_that_goes_out(tree: Path, head: str) -> None:
    text = (tree / "CHANGELOG.md").read_text()
    (tree / "CHANGELOG.md").write_text(text.replace("## 1.2.0", f"## {head}\n\n## 1.2.0"))
    with pytest.raises(Refused, match=rf"says 1\.2\.0, but CHANGELOG\.md begins with {head}"):
        release.check_tree(tree)


@pytest.mark.parametrize("version", ["1.1.0", "1.2.0"])
def test_every_released_version_has_a_golden_store(tree: Path, version: str) -> None:
    (tree / f"tests/golden/store_{version}.zip").unlink()
    with pytest.raises(Refused, match=rf"there is no tests/golden/store_{version}\.zip"):
        release.check_tree(tree)


def test_this_checkout_has_a_golden_store_of_every_release() -> None:
    told = [
        line.split()[1] for line in (release.ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    ]
    assert {f"store_{v}.zip" for v in told if v != "Unreleased"} <= {
        path.name for path in (release.ROOT / "tests/golden").iterdir()
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fulcrum/version.py", "tests/test_x.py"], r"holds tests/test_x\.py"),
        (["fulcrum/page.html"], r"lacks fulcrum/version\.py"),
    ],
)
def test_a_foreign_or_missing_file_is_named(tree: Path, tmp_path: Path, names: list[str], message: str) -> None:
    (tree / "fulcrum/page.html").write_text("")
    wheel, archive = tmp_path / "fulcrum-1.2.0-py3-none-any.whl", tmp_path / "fulcrum-1.2.0.tar.gz"
    with zipfile.ZipFile(wheel, "w") as packed:
        for name in {*names, "fulcrum/page.html", "fulcrum-1.2.0.dist-info/METADATA"}:
            packed.writestr(name, "")
    with tarfile.open(archive, "w:gz"):
        pass
    with pytest.raises(Refused, match=message):
        release.check_contents(tree, (archive, wheel))
