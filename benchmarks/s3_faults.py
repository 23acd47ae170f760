"""Runs pipelines with sources and store on an S3 service that fails, and compares what is then there with a local store's.

    python -m benchmarks.s3_faults --seeds 20                      # curate
    python -m benchmarks.s3_faults --seeds 5 --pipeline libragen

Injected are 500 and 503, answers that never come, slow answers, connections that break in the middle of an answer or of an
upload, and uploads whose answer is lost. All the while somebody else lists the store and reads every new object: none may
be half there. At the end everything is read again without faults: the digests of all tables and folders, the ledger, every
object. Credentials are looked for in every object, file and line that was printed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from benchmarks.faulty_s3 import BUCKET, EVERYTHING, SECRET_KEY, Proxy, Rates, environment, faulty, service
from data_schemas.tables import LEDGER, TABLES
from pipelines.catalog import find
from pipelines.commits import Commits, kind_of
from pipelines.config import load
from pipelines.dag.artifacts import Committed, read_manifest
from pipelines.dag.digest import files_digest, table_digest
from pipelines.dag.runs import RunRecord, load_run
from pipelines.dag.shards import SUFFIX, open_shard
from pipelines.dag.store import Store, sha256_file
from pipelines.launch import launch
from stages import s3

CURATE = ["engine.kind=inline", "review_clips.reviewer=script:rules"]
LIBRAGEN = [
    "engine.kind=inline",
    "shared.engine=inline",
    *(f"{gate}.reviewer=script:rules" for gate in ("review_clips", "review_consis", "review_real_fake")),
    *("shared.steps=4", "shared.checkpoint_every=2", "shared.pairs=4", "shared.batch=2", "shared.sampling.steps=3"),
    *("sample.prompts=2", "sample.seeds=1", "subjects.min_side_px=24", "subjects.min_area=0.015"),
    *("encode.buckets=[9x64x64]", "encode.views=2", "shared.lora={rank: 4, alpha: 8.0}"),
]
SETTINGS = {"curate": CURATE, "libragen": LIBRAGEN}
REPORT = "report"
"""Its page names its run, which is left out here; its pair browser, which leads to clips on a disk alone, is not compared."""
HANG_S, TIMEOUT_S = 5.0, 3.0
WATCH_S = 0.3


def run(pipeline: str, source: str, store: str, more: list[str]) -> tuple[int, str]:
    """The exit code of ``fulcrum run`` in this process, and what it printed."""
    said = io.StringIO()
    found = find(pipeline)
    config = load(found, None, [*SETTINGS[pipeline], *more], {"source": source, "store": store})
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = launch(found, config, again="fulcrum run", as_json=True, retry_failed=False)
    return code, said.getvalue()


def content(store: Store, record: RunRecord | None = None) -> dict[str, str]:
    """Digests of what a run (the latest) left, computed from the bytes that lie there; each ledger among them."""
    found = {}
    commits = Commits(store)
    for node in (record or load_run(store)).nodes:
        manifest = read_manifest(store, node.name, node.fingerprint or "")
        if manifest is None:
            raise SystemExit(f"{node.name} is {node.state}: {node.message}")
        for name, output in manifest.outputs.items():
            if name == REPORT:
                page = store.read(f"{output.path}/index.html").decode()
                found[f"{node.name}.{name}"] = hashlib.sha256(page.replace(manifest.run_id, "").encode()).hexdigest()
                continue
            found[f"{node.name}.{name}"] = read = digest_of(commits, output)
            if read != output.digest:
                raise SystemExit(f"{node.name}.{name} is not what was committed")
        if manifest.ledger:
            table = pq.read_table(store.full(manifest.ledger), filesystem=store.fs)
            found[f"{node.name}.ledger"] = table_digest(table, LEDGER)
    return found


def rows_of(store: Store) -> dict[str, int]:
    """Rows of the latest run's tables."""
    made = [(node, read_manifest(store, node.name, node.fingerprint or "")) for node in load_run(store).nodes]
    return {f"{n.name}.{name}": o.rows for n, m in made if m for name, o in m.outputs.items() if o.rows is not None}


def digest_of(commits: Commits, output: Committed) -> str:
    dataset = commits.open(output)
    if dataset is not None:
        return table_digest(dataset, TABLES[kind_of(dataset)])
    with tempfile.TemporaryDirectory() as folder:
        commits.store.download(output.path, Path(folder))
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return files_digest((path.relative_to(folder).as_posix(), sha256_file(path)) for path in files)


def damaged(store: Store, path: str) -> bool:
    """Whether an object is there and not whole."""
    try:
        if path.endswith(".json"):
            store.read_json(path)
        elif path.endswith(".parquet"):
            pq.read_metadata(store.full(path), filesystem=store.fs)
        elif path.endswith(SUFFIX):
            open_shard(store, *path.rsplit("/", 1))
    except FileNotFoundError:
        return False  # deleted since it was listed
    except Exception:
        return True
    return False


class Watch:
    """Somebody who lists the store all the while, reads each new object, and weighs the spool."""

    def __init__(self, store_uri: str, spool: Path) -> None:
        self.uri, self.spool = store_uri, spool
        self.read: dict[str, int] = {}
        self.half: list[str] = []
        self.spool_peak = 0

    def look(self) -> None:
        with contextlib.suppress(OSError):
            sizes = [path.stat().st_blocks * 512 for path in self.spool.iterdir() if path.name != "lock"]
            self.spool_peak = max(self.spool_peak, sum(sizes))
        fresh = [one for one in s3.objects(self.uri) if self.read.get(one.key) != one.mtime_ns]
        if not fresh:
            return
        try:
            store = Store(self.uri, create=False)
        except Exception:
            return  # it is about to be made
        prefix = store.root.partition("/")[2] + "/"
        for one in fresh:
            self.read[one.key] = one.mtime_ns
            if damaged(store, one.key.removeprefix(prefix)):
                self.half.append(one.key)

    @contextmanager
    def watching(self) -> Iterator[None]:
        over = threading.Event()

        def loop() -> None:
            while not over.wait(WATCH_S):
                self.look()

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.look()


def leaks(secret: str, folder: Path, objects: Iterator[bytes], said: str) -> int:
    """In how many files, objects and printed texts the secret stands."""
    hidden = secret.encode()
    files = (path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return sum(hidden in text for text in (*files, *objects, said.encode()))


def fill(folder: Path, endpoint: str, prefix: str) -> str:
    filesystem = pafs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1")
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        with filesystem.open_output_stream(f"{BUCKET}/{prefix}/{path.name}", compression=None) as out:
            out.write(path.read_bytes())
    return f"s3://{BUCKET}/{prefix}"


@contextmanager
def reached(endpoint: str) -> Iterator[None]:
    """The environment of a user whose S3 is at ``endpoint``."""
    with mock.patch.dict(os.environ, {"AWS_ENDPOINT_URL": f"http://{endpoint}"}):
        yield


def faulty_run(
    pipeline: str, proxy: Proxy, plain: str, source: str, folder: Path, truth: Mapping[str, str], more: list[str]
) -> dict[str, Any]:
    """One run through the proxy until it is done, and what is then there; raises ``SystemExit`` where anything differs."""
    store = f"s3://{BUCKET}/store-{pipeline}-{proxy.seed}"
    watch = Watch(f"{store}?endpoint_override={plain}&scheme=http&region=us-east-1", Path(os.environ["FULCRUM_SPOOL"]))
    started, runs, said = time.monotonic(), 0, ""
    with watch.watching():
        while True:
            runs += 1
            with reached(proxy.address):
                code, text = run(pipeline, source, store, more)
            said += text
            if code == 0:
                break
            if runs == 5:
                raise SystemExit(f"seed {proxy.seed}: not done after {runs} runs:\n{text[-3000:]}")
    seconds = time.monotonic() - started
    opened = Store(watch.uri, create=False)
    found = content(opened)
    different = sorted(name for name in {*truth, *found} if truth.get(name) != found.get(name))
    half = watch.half or [path for path, _ in opened.files("") if damaged(opened, path)]
    leaked = leaks(SECRET_KEY, folder, (opened.read(path) for path, _ in opened.files("")), said)
    if different or half or leaked:
        raise SystemExit(
            f"seed {proxy.seed}: different {different}, half there {half}, {leaked} leaks of the secret key"
        )
    return {
        "seed": proxy.seed,
        "faults": dict(proxy.seen.faults),
        "requests": dict(proxy.seen.requests),
        "most_keys_of_one_answer": proxy.seen.most_keys,
        "runs": runs,
        "seconds": round(seconds, 1),
        "objects_read_meanwhile": len(watch.read),
        "spool_peak_bytes": watch.spool_peak,
        "unfinished_uploads": len(s3.unfinished(watch.uri)),
    }


def measure(
    films: Path,
    folder: Path,
    pipeline: str,
    seeds: int,
    more: list[str],
    rates: Rates = EVERYTHING,
    spool_bytes: int = 1 << 20,
) -> dict[str, Any]:
    """``seeds`` runs with faults against one on a local store without any."""
    largest = max(path.stat().st_size for path in films.iterdir())
    spool_bytes = max(spool_bytes, largest)
    given = {
        "FULCRUM_SPOOL": str(folder / "spool"),
        "FULCRUM_SPOOL_GIB": str(spool_bytes / 2**30),
        "FULCRUM_STORAGE_TIMEOUT_S": str(TIMEOUT_S),
    }
    with environment(), service() as plain, mock.patch.dict(os.environ, given), contextlib.chdir(folder):
        source = fill(films, plain, "films")
        with reached(plain):
            began = time.monotonic()
            code, said = run(pipeline, source, str(folder / "local"), more)
            if code != 0:
                raise SystemExit(f"the run without faults ended with {code}:\n{said[-3000:]}")
            undisturbed = time.monotonic() - began
            local = Store(str(folder / "local"), create=False)
            truth, rows = content(local), rows_of(local)
        done = []
        for seed in range(seeds):
            with faulty(plain, seed, rates, HANG_S) as proxy:
                done.append(faulty_run(pipeline, proxy, plain, source, folder, truth, more))
            print(json.dumps(done[-1]), flush=True)
    return {
        "pipeline": pipeline,
        "seeds": seeds,
        "compared": sorted(truth),
        "rows": rows,
        "different": 0,
        "half_objects_seen": 0,
        "leaks_of_the_secret_key": 0,
        "faults": {name: sum(one["faults"].get(name, 0) for one in done) for name in vars(rates)},
        "spool_bound_bytes": spool_bytes,
        "spool_peak_bytes": max(one["spool_peak_bytes"] for one in done),
        "seconds_without_faults_local": round(undisturbed, 1),
        "runs": done,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--films", type=int, default=6, help="rendered films of the source")
    parser.add_argument("--pipeline", choices=sorted(SETTINGS), default="curate")
    parser.add_argument("--set", action="append", default=[], help="as of fulcrum run")
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fulcrum-s3-"))
    try:
        from tinyworld.render import render_world

        render_world(5, given.films, folder / "films", None)
        (folder / "run").mkdir()
        found = measure(folder / "films", folder / "run", given.pipeline, given.seeds, given.set)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({key: value for key, value in found.items() if key != "runs"}, indent=1))
    if not given.no_write:
        from benchmarks.measured import write

        name = "s3_faults" if given.pipeline == "curate" else f"s3_faults_{given.pipeline}"
        print(write(name, found))


if __name__ == "__main__":
    main()
