"""A Ray cluster of several nodes on one machine, whose nodes can be killed: for tests and benchmarks.

Where this process may make network namespaces (root on Linux, with ``ip``), every node has an address of its own on a bridge
and a folder of its own for Ray: nodes then meet over TCP alone, as machines do. Elsewhere they share this machine's, and a
node cannot come back: it would install the code again where the others are importing it from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARK = "FULCRUM_TEST_NODE"  # in the environment of every process of a node
# A node starts in seconds, but not on a machine that is busy with something else: then its raylet gives up on its agents.
STARTS = 3
SLOW = {"RAY_raylet_start_wait_time_s": "240", "RAY_agent_register_timeout_ms": "240000"}


def may_make_namespaces() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"fulcrum-try-{os.getpid()}"
    made = _ip("netns", "add", name, check=False)
    _ip("netns", "del", name, check=False)
    return made


def _ip(*words: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.returncode == 0


@dataclass(frozen=True)
class NodeSpec:
    """``group`` becomes the label ``fulcrum/group``, as in deploy/."""

    name: str
    group: str
    cpus: int


@dataclass
class Cluster:
    """A head without CPUs, and workers. ``folder`` holds the token and the nodes' output.

    The interpreter's folder comes first on the nodes' PATH, and PYTHONPATH is not theirs: our code reaches them as a wheel alone.
    """

    folder: Path
    workers: Sequence[NodeSpec]
    token: str = "f" * 64
    apart: bool = field(default_factory=may_make_namespaces)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.token_file = self.folder / "token"
        self.token_file.write_text(self.token)
        self.token_file.chmod(0o600)
        self.mark = f"{os.getpid()}"
        own = os.getpid() % 250 + 1  # so that two of them may run beside each other
        self.net, self.bridge = f"10.213.{own}", f"fulcrum{own}"
        # Ray's own folder: short, since sockets lie in it, and not /tmp/ray, where a head would leave its address for every
        # other `ray.init()` of this machine to find.
        self.temporary = Path(tempfile.mkdtemp(prefix="ray-"))
        self._numbers = {"head": 2, **{spec.name: n for n, spec in enumerate(self.workers, 3)}}
        # Without namespaces the ports must be others than those of a Ray that runs here already.
        self._gcs, self._dashboard = (6379, 8265) if self.apart else (26379, 28265)

    def __enter__(self) -> Cluster:
        if self.apart:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("addr", "add", f"{self.net}.1/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            for name in self._numbers:
                self._namespace(name)
        try:
            self.start_head()
            for spec in self.workers:
                self.start(spec)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in self._numbers:
            self.kill(name)
        if self.apart:
            for name in self._numbers:
                _ip("netns", "del", self._space(name), check=False)
            _ip("link", "del", self.bridge, check=False)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _namespace(self, name: str) -> None:
        number = self._numbers[name]
        outside, inside = f"{self.bridge}n{number}", f"eth{number}"
        _ip("netns", "add", self._space(name))
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        _ip("link", "set", outside, "master", self.bridge, "up")
        _ip("link", "set", inside, "netns", self._space(name))
        for words in (("addr", "add", f"{self.address_of(name)}/24", "dev", inside), ("link", "set", inside, "up"),
                      ("link", "set", "lo", "up"), ("route", "add", "default", "via", f"{self.net}.1")):  # fmt: skip
            _ip("-n", self._space(name), *words)

    def address_of(self, name: str) -> str:
        return f"{self.net}.{self._numbers[name]}" if self.apart else "127.0.0.1"

    @property
    def jobs(self) -> str:
        """Address of the job server."""
        return f"http://{self.address_of('head')}:{self._dashboard}"

    @property
    def client(self) -> dict[str, str]:
        """Environment of a process outside the cluster that may submit to it."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return {**clean, "RAY_AUTH_TOKEN_PATH": str(self.token_file)}

    def start_head(self) -> float:
        """Start the head and wait for its job server; seconds until it answers."""
        started = time.monotonic()
        self._ray("head", "--head", f"--port={self._gcs}", "--num-cpus=0", "--dashboard-host=0.0.0.0",
                  f"--dashboard-port={self._dashboard}", f"--temp-dir={self.temporary}")  # fmt: skip
        self._until_answers()
        return time.monotonic() - started

    def start(self, spec: NodeSpec) -> float:
        started = time.monotonic()
        self._ray(spec.name, f"--address={self.address_of('head')}:{self._gcs}", f"--num-cpus={spec.cpus}",
                  f"--labels=fulcrum/group={spec.group}")  # fmt: skip
        return time.monotonic() - started

    def _ray(self, name: str, *words: str) -> None:
        environment = {k: v for k, v in self.client.items() if k != "PYTHONPATH"}
        environment |= {MARK: f"{self.mark}-{name}", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **SLOW,
                        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"}  # fmt: skip
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", *words, "--object-store-memory=100000000",
                   f"--node-ip-address={self.address_of(name)}", "--disable-usage-stats", "--include-log-monitor=false"]  # fmt: skip
        log = self.folder / f"{name}.log"
        for _ in range(STARTS):
            with log.open("ab") as file, contextlib.suppress(subprocess.TimeoutExpired):
                done = subprocess.run(
                    [*self._apart(name), *command], env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=self.folder,
                    timeout=180, check=False,
                )  # fmt: skip
                if done.returncode == 0:
                    return
            self.kill(name)
        raise SystemExit(f"`ray start` of {name} failed {STARTS} times:\n{log.read_text()[-3000:]}")

    def _apart(self, name: str) -> list[str]:
        """What to put before a command of this node; a node that comes back is a new machine, with an empty disk."""
        if not self.apart:
            return []
        own = self.folder / f"disk-{name}"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        # `ip netns exec` gives a mount namespace too: in it Ray's folder is a disk of the node's own.
        mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
        return ["ip", "netns", "exec", self._space(name), "sh", "-c", mount, str(own), str(self.temporary)]

    def _until_answers(self, patience_s: float = 120.0) -> None:
        request = urllib.request.Request(f"{self.jobs}/api/version", headers={"Authorization": f"Bearer {self.token}"})
        until = time.monotonic() + patience_s
        while True:
            try:
                urllib.request.urlopen(request, timeout=5).close()
                return
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > until:
                    raise SystemExit(f"the head's job server does not answer: {error}") from None
                time.sleep(0.5)

    def processes(self, name: str) -> list[int]:
        """Every process of a node: raylet, agents, workers, and on the head also the jobs' drivers."""
        mark = f"{MARK}={self.mark}-{name}\0".encode()
        space = Path("/run/netns", self._space(name))
        # A process that gives itself a title may write it over its environment: the network is then what tells its node.
        network = space.stat().st_ino if self.apart and space.exists() else None
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    marked = mark in (folder / "environ").read_bytes() + b"\0"
                    if marked or (network and (folder / "ns/net").stat().st_ino == network):
                        found.append(int(folder.name))
                except OSError:
                    continue
        return found

    def working(self, name: str) -> bool:
        """Whether a worker of the node is at work on a pipeline's records, or trains."""
        for pid in self.processes(name):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and not title.startswith(
                (b"ray::IDLE", b"ray::Dashboard", b"ray::RuntimeEnv")
            ):
                return True
        return False

    def kill(self, name: str) -> int:
        """SIGKILL for every process of the node at once; how many."""
        killed = 0
        while found := self.processes(name):  # a process may have started another one meanwhile
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
        return killed

    def _space(self, name: str) -> str:
        return f"{self.bridge}-{name}"
