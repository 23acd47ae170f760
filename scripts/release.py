"""Builds wheel and source of a release, checks them, and tries them in an environment that knows nothing of this checkout.

    python scripts/release.py [--full] [--out dist]

Refuses a tree with changes that are not committed, a version that the changelog does not begin with, and a version without a
golden store. Everything is built twice, from copies in two folders, and must come out equal to the byte; the wheel of
the first build is made from the source archive, so that the archive is known to be whole. ``--full`` installs all
dependencies anew under constraints.txt (minutes); otherwise those of the environment that runs this are lent.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent
BESIDE = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "constraints.txt", "pyproject.toml")


class Refused(Exception):
    """The release is not made; the message says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build, check and try a release.")
    parser.add_argument("--full", action="store_true", help="install every dependency anew")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args(arguments)
    try:
        check_tree(ROOT)
        with tempfile.TemporaryDirectory(prefix="fulcrum-release-") as scratch:
            built = build(ROOT, Path(scratch))
            check_contents(ROOT, built)
            check_metadata(built)
            try_out(built[1], Path(scratch), version(ROOT), options.full)
            options.out.mkdir(parents=True, exist_ok=True)
            for path in built:
                print(shutil.copy(path, options.out))
    except Refused as refused:
        print(f"release: {refused}", file=sys.stderr)
        return 1
    return 0


# -- may it be released ------------------------------------------------------------------------------------------------


def version(root: Path) -> str:
    found = re.search(r'__version__ = "([^"]+)"', (root / "fulcrum/version.py").read_text(encoding="utf-8"))
    assert found, "fulcrum/version.py states no version"
    return found[1]


def check_tree(root: Path) -> None:
    """Raise ``Refused`` with everything that stands against a release."""
    problems = []
    if changed := _output(["git", "status", "--porcelain"], root).splitlines():
        problems.append(
            f"{len(changed)} files are changed and not committed (the first: {changed[0][3:]}); commit them"
        )
    told = re.findall(r"^## +(\S+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    this = version(root)
    if told[:1] != [this]:
        problems.append(
            f"fulcrum/version.py says {this}, but CHANGELOG.md begins with {told[0] if told else 'nothing'}; "
            "say there what is new, under the version"
        )
    for one in dict.fromkeys([this, *(name for name in told if name != "Unreleased")]):
        if not (root / f"tests/golden/store_{one}.zip").is_file():
            problems.append(f"there is no tests/golden/store_{one}.zip; write it as tests/golden/write_store.py says")
    if problems:
        raise Refused("\n         ".join(problems))


# -- building ----------------------------------------------------------------------------------------------------------


def build(root: Path, scratch: Path) -> tuple[Path, Path]:
    """Source archive and wheel, each built twice and equal. Raises ``Refused`` where they differ."""
    epoch = int(_output(["git", "log", "-1", "--format=%ct"], root) or 0)
    # Of the second pair, the wheel is made from the tree and not from the archive, under another name of the folder.
    pairs = [_build_once(root, scratch / place, epoch, flags) for place, flags in (("a", []), ("bb", ["-s", "-w"]))]
    for first, second in zip(*pairs, strict=True):
        if first.name != second.name or first.read_bytes() != second.read_bytes():
            raise Refused(f"two builds of {first.name} differ: {_difference(first, second)}")
    return pairs[0]


def _build_once(root: Path, place: Path, epoch: int, flags: list[str]) -> tuple[Path, Path]:
    source, out = place / "source", place / "dist"
    for name in tracked(root):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
        target.chmod(0o644)
        os.utime(target, (epoch, epoch))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *flags, str(source)]
    done = subprocess.run(
        command,
        cwd=place,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SOURCE_DATE_EPOCH": str(epoch)},
    )
    if done.returncode:
        raise Refused(f"the build failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    archive, wheel = next(out.glob("*.tar.gz")), next(out.glob("*.whl"))
    _settle(archive, epoch)
    return archive, wheel


def tracked(root: Path) -> list[str]:
    """The files that a release is made of, with the changes in the working tree: packages, and what lies beside them."""
    names = _output(["git", "ls-files", "-co", "--exclude-standard", "-z"], root).split("\0")
    inside = tuple(f"{package}/" for package in packages(root))
    return sorted(n for n in names if (n.startswith(inside) or n in BESIDE) and (root / n).is_file())


def packages(root: Path) -> list[str]:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return [pattern.rstrip("*") for pattern in settings["tool"]["setuptools"]["packages"]["find"]["include"]]


def _settle(archive: Path, epoch: int) -> None:
    """Write the archive again without what a build leaves by chance: times, owners, order. setuptools has no option for it."""
    plain = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new:
        for entry in sorted(old.getmembers(), key=lambda member: member.name):
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.pax_headers = epoch, 0, 0, "", "", {}
            entry.mode = 0o755 if entry.isdir() else 0o644
            new.addfile(entry, old.extractfile(entry) if entry.isfile() else None)
    with archive.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed:
        packed.write(plain.getvalue())


def _difference(first: Path, second: Path) -> str:
    one, two = _contents(first), _contents(second)
    names = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    return ", ".join(names[:5]) or "the same files, packed otherwise"


# -- what is in it -----------------------------------------------------------------------------------------------------


def check_contents(root: Path, built: tuple[Path, Path]) -> None:
    """Raise ``Refused`` unless the wheel holds exactly the packages' files, and the archive these and what builds them."""
    files = set(tracked(root))
    beside = files & set(BESIDE)
    archive, wheel = built
    stem = f"fulcrum-{version(root)}"
    within = {n for n in _contents(wheel) if not n.startswith(f"{stem}.dist-info/")}
    _same(wheel.name, within, files - beside)
    unpacked = {n.removeprefix(f"{stem}/") for n in _contents(archive)}
    made = {n for n in unpacked if n in ("PKG-INFO", "setup.cfg") or n.startswith("fulcrum.egg-info/")}
    _same(archive.name, unpacked - made, files)


def _same(name: str, has: set[str], should: set[str]) -> None:
    if missing := sorted(should - has):
        raise Refused(f"{name} lacks {', '.join(missing[:5])}; see package-data in pyproject.toml and MANIFEST.in")
    if foreign := sorted(has - should):
        raise Refused(f"{name} holds {', '.join(foreign[:5])}, which no release is made of")


def _contents(path: Path) -> dict[str, bytes]:
    """Files of a wheel or source archive by name."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as packed:
            return {name: packed.read(name) for name in packed.namelist() if not name.endswith("/")}
    with tarfile.open(path) as tar:
        return {m.name: file.read() for m in tar.getmembers() if (file := tar.extractfile(m)) is not None}


def check_metadata(built: tuple[Path, Path]) -> None:
    """Raise ``Refused`` where the metadata break the rules that package indexes enforce."""
    for path in built:
        name = next(name for name in _contents(path) if name.endswith((".dist-info/METADATA", "/PKG-INFO")))
        try:
            Metadata.from_email(_contents(path)[name], validate=True)
        except ExceptionGroup as wrong:
            raise Refused(f"{path.name}: {'; '.join(map(str, wrong.exceptions))}") from wrong


# -- trying it out -----------------------------------------------------------------------------------------------------


def try_out(wheel: Path, scratch: Path, expected: str, full: bool = False) -> None:
    """Install the wheel in an environment of its own and work with it there. Raises ``Refused`` with what was said."""
    home = scratch / "environment"
    python = home / "bin/python"
    if full:
        _run([sys.executable, "-m", "venv", str(home)], scratch)
        _run([str(ROOT / "scripts/setup.sh"), "torch"], ROOT, VENV=str(home))
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel)], scratch)
        _run([*pip, "check"], scratch)
    else:
        _run([sys.executable, "-m", "venv", "--without-pip", str(home)], scratch)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
        _run([*pip, "install", "-q", "--no-deps", "--no-index", "--no-compile", str(wheel)], scratch)
        inner = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
        # As a plain entry of the path: the .pth files within, one of which leads to this checkout, are not followed.
        (inner / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    here = scratch / "elsewhere"
    here.mkdir()
    fulcrum = str(home / "bin/fulcrum")
    if (said := _run([fulcrum, "--version"], here).split()) != ["fulcrum", expected]:
        raise Refused(f"fulcrum --version says {' '.join(said)}, not fulcrum {expected}")
    place = _run([str(python), "-P", "-c", "import pipelines; print(pipelines.__file__)"], here).strip()
    if not Path(place).is_relative_to(home):
        raise Refused(f"the environment imports {place}, not what was installed")
    _run([fulcrum, "--help"], here)
    _run([fulcrum, "doctor"], here)
    _run([fulcrum, "world", "render", "--seed", "1", "--count", "1", "--out", "world"], here)
    work = ["--source", "world", "--store", "store", "--set", "engine.kind=inline"]
    work += ["--set", "tracking.enabled=false", "--set", "review_clips.reviewer=script:rules"]
    _run([fulcrum, "run", "curate", *work], here)


def _run(command: list[str], cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FULCRUM_", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=kept | environment)
    if done.returncode:
        told = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
        raise Refused(f"{' '.join(command)} ended with {done.returncode} where only the release is installed:\n{told}")
    return done.stdout


def _output(command: list[str], cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.rstrip("\n")


if __name__ == "__main__":
    raise SystemExit(main())
