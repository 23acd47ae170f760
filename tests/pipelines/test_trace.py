"""From an adapter back to the videos, rules and answers it was made of, and from a video forward, over made-up commits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from data_schemas.tables import CACHE, DECISIONS, PAIRS, PREFERENCES, VERDICTS, VIDEOS
from pipelines.cli.trace_command import trace as trace_command
from pipelines.commits import Commits, find_artifact
from pipelines.dag.engine import InlineEngine
from pipelines.dag.graph import Pipeline, node
from pipelines.dag.runner import Job, run
from pipelines.dag.store import Store
from pipelines.provenance import provenance
from pipelines.traces import find_video, trace
from stages.contract import Context, Files, Params, StageError, Table, stage
from tests.dag.toy import Quiet, world

ADAPTER = Files("adapter")


class Kind(Params):
    kind: str = "cross_pair"


def made(
    name: str, outputs: Mapping[str, Any], inputs: Mapping[str, Any], rows: Mapping[str, list[dict[str, Any]]]
) -> Any:
    """A stage that writes these rows, and a folder with its own name in it."""

    def work(ctx: Context, params: Kind) -> None:
        for output, artifact in outputs.items():
            if isinstance(artifact, Table):
                ctx.write(output, artifact.schema.table(rows[output]))
            else:
                (ctx.folder(output) / "weights.bin").write_bytes(ctx.name.encode())

    return stage(name=name, version="1", params=Kind, inputs=inputs, outputs=outputs)(work)


def video(name: str) -> dict[str, Any]:
    return {"video_id": name, "sha256": f"sha-{name}", "uri": f"/films/{name}.mp4", "path": f"{name}.mp4",
            "media_type": "video", "bytes": 1, "status": "ok"}  # fmt: skip


def pair(sample: str, of: str, kind: str, split: str = "train", references: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"sample_id": sample, "kind": kind, "clip_id": f"clip-{of}", "video_id": of, "prompt": "p", "same_source": True,
            "split": split, "references": [{"subject_id": f"s-{r}", "video_id": r} for r in references]}  # fmt: skip


def cached(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"sample_id": row["sample_id"], "kind": row["kind"], "split": row["split"], "shard": "s", "bucket": "b",
            "references": 1, "views": 1, "text_key": "t", "prompt": "p"}  # fmt: skip


def preference(pair_id: str, sample: str) -> dict[str, Any]:
    return {"pair_id": pair_id, "kind": "consis", "sample_id": sample, "shard": "s", "winner_uri": "w", "loser_uri": "l",
            "reference_uri": "r", "prompt": "p", "seed": 1}  # fmt: skip


def build(root: Path, videos: list[str], pairs: list[dict[str, Any]], judged: Mapping[str, tuple[str, str]]) -> Commits:
    """videos -> pairs -> cache -> two SFT adapters; preferences (``judged``: sample and verdict by pair) -> DPO -> merged."""
    answers = [{"external_id": p, "item_id": f"i-{p}", "verdict": v, "reasons": [], "answers": 1, "decided_by": "majority"}
               for p, (_, v) in judged.items()]  # fmt: skip
    answers = [{k: v for k, v in row.items() if k in {f.name for f in VERDICTS.fields}} for row in answers]
    decisions = [{"decision_id": f"d-{p}", "item_id": f"i-{p}", "campaign_id": "review-1", "external_id": p, "reviewer": "ada",
                  "verdict": v, "reasons": [], "values": "{}", "carried": False} for p, (_, v) in judged.items()]  # fmt: skip
    cache = {"cache": Table(CACHE), "latents": Files("latents")}
    sft = {"cache": Table(CACHE), "latents": Files("latents")}
    gate = {"decisions": Table(DECISIONS), "verdicts": Table(VERDICTS)}
    wired = {"cache": "encode.cache", "latents": "encode.latents"}
    pipeline = Pipeline("made_up", (
        node("videos", made("videos", {"videos": Table(VIDEOS)}, {}, {"videos": [video(v) for v in videos]})),
        node("pairs", made("pairs", {"pairs": Table(PAIRS)}, {"videos": Table(VIDEOS)}, {"pairs": pairs}), videos="videos.videos"),
        node("encode", made("encode", cache, {"pairs": Table(PAIRS)}, {"cache": [cached(p) for p in pairs]}), pairs="pairs.pairs"),
        node("cross", made("sft", {"adapter": ADAPTER}, sft, {}), wired, params={"kind": "cross_pair"}, names={"adapter": "adapter_cross"}),
        node("inside", made("sft", {"adapter": ADAPTER}, sft, {}), wired, params={"kind": "in_pair"}),
        node("prefer", made("prefer", {"preferences": Table(PREFERENCES)}, {"adapter": ADAPTER},
                            {"preferences": [preference(p, s) for p, (s, _) in judged.items()]}), adapter="cross.adapter_cross"),
        node("people", made("people", gate, {"preferences": Table(PREFERENCES)}, {"verdicts": answers, "decisions": decisions}),
             preferences="prefer.preferences"),
        node("dpo", made("dpo", {"adapter": ADAPTER}, {**sft, "preferences": Table(PREFERENCES), "verdicts": Table(VERDICTS)}, {}),
             wired, params={"kind": "consis"}, preferences="prefer.preferences", verdicts="people.verdicts"),
        node("merge", made("merge", {"adapter": ADAPTER}, {"one": ADAPTER, "two": ADAPTER}, {}),
             one="inside.adapter", two="dpo.adapter"),
    ))  # fmt: skip
    store = Store(str(root / "store"))
    params = {n.name: Kind(**n.params) for n in pipeline.nodes}  # type: ignore[arg-type]
    job = Job(pipeline=pipeline, store=store, params=params, world=world(), seed=0, engine=InlineEngine(),
              local=root / "local", quiet=True)  # fmt: skip
    record = run(job, Quiet())
    assert record.state == "done", [n.message for n in record.nodes if n.message]
    return Commits(store)


PAIRS_ROWS = [
    pair("1111", "v1", "cross_pair", references=("v2",)),
    pair("2222", "v3", "cross_pair", "held_out"),
    pair("3333", "v4", "in_pair"),
    pair("4444", "v5", "cross_pair"),
]
JUDGED = {"aaaa": ("1111", "winner"), "bbbb": ("4444", "loser")}


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> Commits:
    root = tmp_path_factory.mktemp("trace")
    return build(root, ["v1", "v2", "v3", "v4", "v5", "v6"], PAIRS_ROWS, JUDGED)


def origins(commits: Commits, what: str) -> list[str]:
    artifact = find_artifact(commits, what)
    assert artifact is not None, what
    return [origin.video.video_id for origin in provenance(commits, *artifact).origins]


def test_an_adapter_leads_back_to_the_videos_that_trained_it_and_to_no_other(commits: Commits) -> None:
    # v2 by a reference; v3 was held out; v4 is of the other kind; nothing was made of v6
    assert origins(commits, "adapter_cross") == ["v1", "v2", "v5"]
    assert origins(commits, "inside.adapter") == ["v4"]
    assert origins(commits, "dpo.adapter") == ["v1", "v2"]  # people turned the pair of v5 down
    assert origins(commits, "merge.adapter") == ["v1", "v2", "v4"]
    assert origins(commits, "videos.videos") == ["v1", "v2", "v3", "v4", "v5", "v6"]


def test_answers_steps_and_parents_are_told(commits: Commits) -> None:
    artifact = find_artifact(commits, "dpo.adapter")
    assert artifact is not None
    found = provenance(commits, *artifact, taken_down=["v2"])
    [answers] = found.answers
    assert (answers.node, answers.campaign, answers.by) == ("people", "review-1", {"ada": 2})
    assert [row["external_id"] for row in answers.about] == ["aaaa"]
    assert [s.node for s in found.steps] == ["videos", "pairs", "encode", "cross", "prefer", "people", "dpo"]
    assert found.steps[-1].inputs["preferences"] == "prefer.preferences"
    assert [o.video.video_id for o in found.origins if o.taken_down] == ["v2"]
    assert found.read == 6


@pytest.mark.parametrize("how", ["path", "file", "digest", "fingerprint", "copy of the store"])
def test_an_artifact_is_found_by_whatever_names_it(commits: Commits, how: str) -> None:
    found = find_artifact(commits, "adapter_cross")
    assert found is not None
    manifest, output = found
    committed = manifest.outputs[output]
    full = commits.store.uri_of(committed.path)
    what = {"path": full, "file": f"{full}/weights.bin", "digest": committed.digest[:20],
            "fingerprint": manifest.fingerprint[:12], "copy of the store": f"/elsewhere/{committed.path}"}[how]  # fmt: skip
    assert find_artifact(commits, what) == found


def test_the_command_prints_both_directions(commits: Commits, capsys: pytest.CaptureFixture[str]) -> None:
    store = commits.store.root
    trace_command("merge.adapter", store=store, json_=True)
    told = json.loads(capsys.readouterr().out)
    assert [v["video_id"] for v in told["videos"]] == ["v1", "v2", "v4"]
    trace_command("merge.adapter", store=store)
    text = capsys.readouterr().out
    assert "3 of the 6 that were read" in text
    assert "v4.mp4" in text

    trace_command("v5.mp4", store=store, json_=True)
    adapters = {a["name"]: a["trained"] for a in json.loads(capsys.readouterr().out)["adapters"]}
    assert adapters == {
        "cross.adapter_cross": True,
        "inside.adapter": False,
        "dpo.adapter": False,
        "merge.adapter": False,
    }
    trace_command("v5.mp4", store=store)
    assert "trained on it" in capsys.readouterr().out
    with pytest.raises(StageError, match="no artifact and no video"):
        trace_command("nobody", store=store)


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking runs pipelines
@given(st.data())
def test_back_and_forward_agree(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whoever trained an adapter finds it by going forward, and who is not touched by it never trained it. Oracle: the rows."""
    names = [f"v{n}" for n in range(4)]
    of = st.sampled_from(names)
    drawn = data.draw(st.lists(st.tuples(of, st.sampled_from(["cross_pair", "in_pair"]), st.sampled_from(["train", "held_out"]),
                                         st.lists(of, max_size=2).map(tuple)), min_size=1, max_size=5))  # fmt: skip
    rows = [pair(f"sample{n}", v, kind, split, refs) for n, (v, kind, split, refs) in enumerate(drawn)]
    verdicts = data.draw(
        st.lists(st.sampled_from(["winner", "loser", "in_review"]), min_size=len(rows), max_size=len(rows))
    )
    judged = {
        f"pair{n}": (row["sample_id"], verdict) for n, (row, verdict) in enumerate(zip(rows, verdicts, strict=True))
    }
    commits = build(tmp_path_factory.mktemp("agree"), names, rows, judged)

    def of_rows(some: list[dict[str, Any]]) -> set[str]:
        return {v for row in some for v in (row["video_id"], *(r["video_id"] for r in row["references"]))}

    training = [row for row in rows if row["split"] == "train"]
    kept = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict == "winner"]
    expected = {
        "cross": of_rows([row for row in training if row["kind"] == "cross_pair"]),
        "inside": of_rows([row for row in training if row["kind"] == "in_pair"]),
        "dpo": of_rows(kept),
    }
    expected["merge"] = expected["inside"] | expected["dpo"]
    forward = {v: {t.node for t in trace(commits, find_video(commits, v)).artifacts} for v in names}
    for adapter, name in itertools.product(expected, names):
        trained = name in origins(commits, "adapter_cross" if adapter == "cross" else f"{adapter}.adapter")
        assert trained == (name in expected[adapter])
        assert not trained or adapter in forward[name]
