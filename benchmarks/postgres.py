"""A PostgreSQL server for counted runs and tests: in a folder of its own, started without rights, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root


def postgres_missing() -> str | None:
    """Why no PostgreSQL can be started here, or None."""
    if _binary("initdb") is None:
        return "there is no PostgreSQL server here (Debian: apt install postgresql)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and there is no setpriv to become somebody else"
    return None


def _binary(name: str) -> str | None:
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(newest[-1]) if newest else shutil.which(name)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of a fresh server that listens on a socket in ``folder`` and nowhere else."""
    data, socket = folder / "data", folder / "socket"
    folder.mkdir(parents=True)
    socket.mkdir()
    prefix: list[str] = []
    if os.geteuid() == 0:
        who = pwd.getpwnam(UNPRIVILEGED)
        for path in (folder, socket):
            os.chown(path, who.pw_uid, who.pw_gid)
        prefix = ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups"]
    log = folder / "log"

    def run(name: str, *arguments: str) -> None:
        binary = _binary(name)
        assert binary is not None
        done = subprocess.run(
            [*prefix, binary, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        said = log.read_text() if log.exists() else ""
        assert done.returncode == 0, f"{name}: {done.stderr}\n{said}"

    run("initdb", "-D", str(data), "-U", "reviewer", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
    # Durability is not what is tested: the folder is deleted at the end.
    settings = f"-c listen_addresses= -c unix_socket_directories={socket} -c fsync=off -c max_connections=200"
    run("pg_ctl", "-D", str(data), "-w", "-l", str(log), "-o", settings, "start")
    try:
        yield f"postgresql://reviewer@/postgres?host={socket}"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
