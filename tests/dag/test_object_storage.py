"""Sources and stores on S3, a real protocol whose service is made to fail (benchmarks/faulty_s3.py)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import s3_faults
from benchmarks.faulty_s3 import ACCESS_KEY, BUCKET, SECRET_KEY, Rates, environment, faulty, service, uri
from pipelines.cleanup import Needs, Policy, survey, sweep
from pipelines.dag.artifacts import read_manifest
from pipelines.dag.store import Store, StoreError
from stages import s3
from stages.contract import StageError
from stages.curation.listing import list_source
from stages.location import child_uri, open_location
from stages.training.media import local_media
from tests.dag.toy import make_pipeline, run_toy, states, world

SMALL, LARGE = b"{}", bytes(9 << 20)  # one request; an upload in parts


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """``host:port`` of a service without faults."""
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    with environment(), service() as address:
        yield address


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULCRUM_STORAGE_TIMEOUT_S", "10")
    monkeypatch.setenv("FULCRUM_STORAGE_TRIES", "2")


@pytest.fixture
def at(plain: str, request: pytest.FixtureRequest) -> str:
    """A store of this test's own."""
    return uri(plain, f"{request.node.name}/store")


@pytest.mark.timeout(580)
def test_curate_on_a_failing_service_leaves_what_it_leaves_on_a_local_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from tests.footage.media import pan, write

    films = tmp_path / "films"
    films.mkdir()
    write(films / "a.mp4", np.concatenate([pan(2, 0, 30, 120, 160, 1), pan(0, 2, 30, 120, 160, 2)]))
    write(films / "b.mp4", pan(3, 1, 40, 120, 160, 3))
    (films / "a.txt").write_text("a pattern that moves\n")
    (tmp_path / "run").mkdir()
    monkeypatch.delenv("FULCRUM_STORAGE_TRIES")  # as it is for users
    settings = ["tracking.enabled=false", "select.rules=[{name: short, column: duration_s, min: 0.5}]"]
    found = s3_faults.measure(films, tmp_path / "run", "curate", 1, settings, spool_bytes=256 << 10)
    assert found["rows"]["export.subset"] == 3
    assert all(found["faults"][name] for name in vars(s3_faults.EVERYTHING)), "every kind of fault must have been met"
    assert {"export.media", "export.subset", "analyze.keyframes", "select.ledger"} <= set(found["compared"])
    assert found["runs"][0]["objects_read_meanwhile"] > 20
    assert 0 < found["spool_peak_bytes"] <= found["spool_bound_bytes"]


# -- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["error_500", "slow_down_503", "torn_upload", "lost_answer"])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["whole", "in-parts"])
def test_an_object_is_written_whole_through_every_fault(plain: str, at: str, fault: str, data: bytes) -> None:
    Store(at)
    with faulty(plain, 0, Rates(**{fault: 1000})) as proxy:
        proxy.worst = 1
        store = Store(at.replace(plain, proxy.address), create=False)
        store.put("data/x", data)
        assert store.read("data/x") == data
        assert proxy.seen.faults


def test_an_upload_that_breaks_for_good_leaves_no_object_and_says_where(plain: str, at: str) -> None:
    Store(at)
    with faulty(plain) as proxy:
        store = Store(at.replace(plain, proxy.address), create=False)
        proxy.down = re.compile("partNumber=2")
        with pytest.raises(OSError, match=rf"s3://{BUCKET} cannot be reached.*data/x.*AWS_ENDPOINT_URL"):
            store.put("data/x", LARGE)
    whole = Store(at, create=False)
    assert not whole.exists("data/x")
    assert whole.names("data") == whole.files("data") == []
    assert s3.unfinished(at) == []  # what was sent of it is not paid for either


def test_an_interruption_while_writing_publishes_nothing(at: str) -> None:
    store = Store(at)

    def interrupted() -> None:
        with store.writer("data/x") as file:
            file.write(SMALL)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not store.exists("data/x")


def test_cleaning_ends_uploads_that_nobody_finished(plain: str, at: str) -> None:
    store = Store(at)
    client = s3._open(at)[0]
    key = f"{store.root.partition('/')[2]}/records/analyze/killed.shard"
    begun = client.create_multipart_upload(Bucket=BUCKET, Key=key)
    client.upload_part(Bucket=BUCKET, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=bytes(6 << 20))
    began = s3.unfinished(at)[0].started  # moto says 2010 of each
    young = Needs(store, Policy(grace_s=3600, keep=3, now=began + 1800), list, list)
    assert survey(young).garbage == []
    old = Needs(store, Policy(grace_s=3600, keep=3), list, list)
    found = survey(old)
    assert [(one.kind, one.path, one.bytes) for one in found.garbage] == [
        ("unfinished upload", "records/analyze/killed.shard", 6 << 20)
    ]
    assert sweep(old, found) == found.garbage
    assert s3.unfinished(at) == []


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_service_that_is_away_ends_a_run_with_its_name_and_the_next_run_goes_on(
    plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FULCRUM_STORAGE_TRIES", "1")
    pipeline = make_pipeline({"first": [], "second": ["first"]})
    monkeypatch.setattr("tests.dag.toy.Store", lambda _: Store(f"s3://{BUCKET}/away"))
    with faulty(plain) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")
        Store(f"s3://{BUCKET}/away")
        proxy.down = re.compile("/data/second/|prefix=away%2Fdata%2Fsecond")
        record = run_toy(tmp_path, pipeline)
        assert states(record) == {"first": "SUCCEEDED", "second": "FAILED"}
        said = record.node("second").message or ""
        assert f"s3://{BUCKET} cannot be reached" in said
        assert "AWS_ENDPOINT_URL" in said
        assert SECRET_KEY not in said
        proxy.down = None
        assert states(run_toy(tmp_path, pipeline)) == {"first": "CACHED", "second": "SUCCEEDED"}
        proxy.down = re.compile(".")
        with pytest.raises(StoreError, match=rf"store s3://{BUCKET}/away.*cannot be reached") as caught:
            Store(f"s3://{BUCKET}/away")
        assert str(caught.value).count("cannot be reached") == 1


def test_two_runs_that_commit_the_same_leave_one_whole_commit(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.dag.toy.Store", lambda _: Store(at))
    monkeypatch.setattr("pipelines.dag.runs.Heartbeat.owner", lambda _: None)  # as if neither saw the other in time
    pipeline, records = make_pipeline({"first": [], "second": ["first"]}), []
    threads = [
        threading.Thread(target=lambda n=n: records.append(run_toy(tmp_path / str(n), pipeline))) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store(at, create=False)
    for record in records:
        assert set(states(record).values()) <= {"SUCCEEDED", "CACHED"}
        for node in record.nodes:
            manifest = read_manifest(store, node.name, node.fingerprint or "")
            assert manifest is not None
            assert store.names(manifest.outputs["out"].path) == ["part-00000.parquet"]
    assert {n.fingerprint for n in records[0].nodes} == {n.fingerprint for n in records[1].nodes}
    assert len(store.names("stages/second")) == 1


def test_a_run_sees_by_its_heartbeat_that_another_works_on_the_stage(at: str) -> None:
    from pipelines.dag.runs import Heartbeat, living

    store = Store(at)
    with Heartbeat(store, "f" * 64, "one").beating():
        owner = Heartbeat(store, "f" * 64, "other").owner()
        assert owner is not None
        assert owner["run_id"] == "one"
        assert living(store) == {"one"}
    assert living(store) == set()


# -- listing ---------------------------------------------------------------------------------------------------------


def test_a_bucket_is_listed_page_by_page(plain: str) -> None:
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    for number in range(2_300):
        backend.put_object(BUCKET, f"many/flat/{number:05d}.mp4", b"x")
    with faulty(plain) as proxy:
        source = uri(proxy.address, "many")
        walk = s3.objects(source)
        assert next(walk).key == "many/flat/00000.mp4"
        assert proxy.seen.requests["LIST"] == 1  # the rest has not been asked for
        walk.close()
        listing = list_source(source)
        assert proxy.seen.most_keys == s3.PAGE
        assert proxy.seen.requests["LIST"] <= 1 + 3 + 1  # pages of 1,000, and the look whether it is a folder
    assert listing.files.num_rows == 2_300
    filesystem, path = open_location(source.replace(proxy.address, plain))
    arrow = filesystem.get_file_info(f"{path}/flat/00007.mp4")
    row = listing.files.slice(7, 1).to_pylist()[0]
    assert (row["path"], row["bytes"]) == ("flat/00007.mp4", arrow.size)
    assert row["mtime_ns"] // 10**9 == arrow.mtime_ns // 10**9


# -- where and who ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", ["environment", "profile"])
def test_credentials_come_from_the_usual_chain(
    plain: str, chain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ACCESS_KEY
    if chain == "profile":
        key = "AKIAOFAPROFILE000000"
        (tmp_path / "credentials").write_text(
            f"[team]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n"
        )
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_PROFILE", "team")
    with faulty(plain) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")  # no endpoint in the URI
        Store(f"s3://{BUCKET}/{chain}")
        list(s3.objects(f"s3://{BUCKET}/{chain}"))
        assert proxy.seen.access_keys == {key}


@pytest.mark.parametrize(
    "given",
    [f"s3://me:{SECRET_KEY.replace('/', '')}@bucket/x", f"s3://bucket/x?secret_key={SECRET_KEY}", "s3:///x?region=r"],
)
def test_a_uri_with_credentials_is_refused_without_repeating_them(given: str) -> None:
    with pytest.raises(StageError, match=r"credentials") as caught:
        open_location(given)
    assert "must" not in str(caught.value).replace("must allow", "")
    with pytest.raises(StoreError):
        Store(given)


def test_arrows_and_botos_clients_say_the_same_of_a_bucket_that_is_not_there(plain: str) -> None:
    gone = uri(plain, "x").replace(BUCKET, "no-such-bucket")
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        list(s3.objects(gone))
    with pytest.raises(StageError, match="s3://no-such-bucket does not exist"):
        list_source(gone)


def test_mlflow_puts_its_artifacts_beside_the_store(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from pipelines.tracking import artifact_location

    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "to be forgotten")
    monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL")
    store = Store(at)
    (tmp_path / "a.txt").write_text("seen")
    get_artifact_repository(f"{artifact_location(store)}/0/artifacts").log_artifact(str(tmp_path / "a.txt"))
    assert store.read("mlflow/0/artifacts/a.txt") == b"seen"


def test_what_one_machine_kept_of_its_work_another_goes_on_from(at: str, tmp_path: Path) -> None:
    from pipelines.dag.kept_work import NEWEST, KeptWork

    kept = KeptWork(Store(at), "f" * 64)
    here, there = tmp_path / "here", tmp_path / "there"
    assert kept.take(there, 0) is None
    for step in (10, 20):
        (here / "checkpoints").mkdir(parents=True, exist_ok=True)
        state = {"events.jsonl": here / "events.jsonl", "checkpoints/x": here / "checkpoints" / "x"}
        for path in state.values():
            path.write_text(f"{path.name} at {step}")
        kept.put(step, state)
    assert len(kept.store.names(kept.folder)) == 2  # the newest state and the word that it is
    there.mkdir()
    (there / "older").touch()
    assert kept.take(there, 20) is None
    assert kept.take(there, 5) == 20
    assert sorted(p.relative_to(there).as_posix() for p in there.rglob("*.*")) == ["events.jsonl"]
    assert (there / "checkpoints" / "x").read_text() == "x at 20"
    kept.store.put(f"{kept.folder}/00000030-half/events.jsonl", b"of a machine that was lost while it kept this")
    assert kept.take(tmp_path / "third", 0) == 20
    kept.store.delete(f"{kept.folder}/{kept.store.read_json(f'{kept.folder}/{NEWEST}')['name']}")
    assert kept.take(tmp_path / "fourth", 0) is None
    kept.forget()
    assert kept.store.files(kept.folder) == []
    assert not kept.store.exists(f"{kept.folder}/{NEWEST}")


def test_a_training_leaves_each_checkpoint_in_a_remote_store_and_takes_it_up_elsewhere(at: str, tmp_path: Path) -> None:
    from pipelines.dag.context import StageContext
    from pipelines.dag.engine import InlineEngine
    from stages.training.watch import CheckpointWatch, newest_checkpoint

    told: list[str] = []

    def context(local: Path) -> StageContext:
        return StageContext(
            store=Store(at),
            name="sft",
            stage=make_pipeline({"first": []}).nodes[0].stage,
            inputs={},
            fingerprint="a" * 64,
            run_id="r",
            seed=0,
            world=world(),
            engine=InlineEngine(),
            local=local,
            on_event=lambda kind, fields: told.append(kind),
        )

    one, other = context(tmp_path / "one"), context(tmp_path / "other")
    home = one.workdir / "sft"
    (home / "checkpoints" / "step_00000020").mkdir(parents=True)
    (home / "checkpoints" / "step_00000020" / "tensors").write_bytes(b"weights")
    (home / ".sampler.json.writing").touch()
    (home / "sampler.json").write_text("{}")
    CheckpointWatch(one, home).poll()
    assert told == ["checkpoint"]
    elsewhere = other.workdir / "sft"
    assert other.take_work(elsewhere, newest_checkpoint(elsewhere / "checkpoints")) == 20
    assert (elsewhere / "checkpoints" / "step_00000020" / "tensors").read_bytes() == b"weights"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["checkpoints", "sampler.json"]
    assert other.take_work(elsewhere, newest_checkpoint(elsewhere / "checkpoints")) is None
    other.clean_work()
    assert Store(at).files("work") == []


def test_addresses_of_a_remote_store_keep_their_options_apart(at: str, tmp_path: Path) -> None:
    from pipelines.cli.own_options import put
    from pipelines.commits import below

    store = Store(at)
    store.put("data/merge/x y/adapter/a.json", b"{}")
    address = store.uri_of("data/merge/x y/adapter")
    assert below(address) == "data/merge/x y/adapter"
    put(address, tmp_path / "out")
    assert (tmp_path / "out" / "a.json").read_bytes() == b"{}"


def test_a_file_in_a_remote_folder_is_named_before_the_options(tmp_path: Path) -> None:
    address = child_uri("s3://b/store/data/export/1-a/media?endpoint_override=h:1&scheme=http", "references/a b.png")
    assert address == "s3://b/store/data/export/1-a/media/references/a%20b.png?endpoint_override=h:1&scheme=http"
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "a b.png").touch()
    assert local_media(tmp_path, address) == tmp_path / "references" / "a b.png"
    assert child_uri("/data/50% done?/media", "a b.png") == "/data/50% done?/media/a b.png"
