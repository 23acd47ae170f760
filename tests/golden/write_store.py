"""Writes a small store with whatever release is on the path, as a zip: run it with an older revision's code.

    git archive REVISION | tar -x -C OLD
    PYTHONPATH=OLD python tests/golden/write_store.py tests/golden/store_VERSION.zip

A diamond of four stages run twice, the second time with another parameter, and a record stage with two shards.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa

from pipelines.dag.records import RecordStore
from pipelines.dag.store import Store
from stages.contract import Group
from tests.dag.toy import ToyParams, make_pipeline, run_toy

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
GROUP = Group("facts", "recipe-1")


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run_toy(root, make_pipeline(DIAMOND))
        run_toy(root, make_pipeline(DIAMOND), {"b": ToyParams(add=3)})
        records = RecordStore(Store(str(root / "store")), "analyze")
        for key in ("one", "two"):
            records.shards([GROUP]).commit({"facts": pa.table({"record_key": [key], "frames": [len(key)]})}, [key])
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
            for path in sorted((root / "store").rglob("*")):
                if path.is_file():
                    out.write(path, path.relative_to(root))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
