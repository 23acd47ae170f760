"""Every follower is like its own leader, no two leaders are alike, and many vectors give what few would."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.semantic_dedupe import embeddings
from models.neighbours import cosine
from models.neighbours.cosine import CosineIndex, leaders, sample_of


def brute(vectors: np.ndarray, threshold: float) -> dict[int, int]:
    """The definition, one row after the other."""
    lead: list[int] = []
    follows: dict[int, int] = {}
    for row, vector in enumerate(vectors):
        alike = [(float(vectors[at] @ vector), -at) for at in lead]
        best = max(alike, default=(-1.0, 0))
        if best[0] >= threshold:
            follows[row] = -best[1]
        else:
            lead.append(row)
    return follows


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 120), st.sampled_from([0.5, 0.8, 0.95]))
def test_leaders_are_as_defined(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((6, 8))
    vectors = (centres[rng.integers(0, 6, count)] + 0.3 * rng.standard_normal((count, 8))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    if (np.abs(cosines[np.triu_indices(count, 1)] - threshold) < 1e-5).any():
        return  # on the line, where rounding decides
    found = leaders(vectors, np.arange(count), threshold)
    assert found.exact
    assert dict(zip(found.member.tolist(), found.leader.tolist(), strict=True)) == brute(vectors, threshold)


def test_a_chain_is_not_one_group() -> None:
    # each is within 0.9 of the next, the ends have nothing in common
    angle = np.arange(12) * np.arccos(0.92)
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    found = leaders(vectors, np.arange(12), 0.9)
    assert (np.einsum("nd,nd->n", vectors[found.member], vectors[found.leader]) >= 0.9).all()
    assert len(np.unique(found.leader)) >= 5


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = embeddings(3000, seed=3)
    whole = leaders(vectors, np.arange(3000), 0.9)
    monkeypatch.setattr(cosine, "_BLOCK", 257)
    parts = leaders(vectors, np.arange(3000), 0.9)
    np.testing.assert_array_equal(whole.member, parts.member)
    cosines = [np.einsum("nd,nd->n", vectors[f.member], vectors[f.leader]) for f in (whole, parts)]
    np.testing.assert_allclose(*cosines, atol=1e-5)


def test_inverted_lists_find_ten_neighbours_and_the_same_followers(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = embeddings(5000, seed=4)
    rows = np.arange(len(vectors))
    exact = leaders(vectors, rows, 0.95)
    monkeypatch.setattr(cosine, "EXACT", 1000)
    index = CosineIndex(vectors.shape[1], len(vectors), sample_of(vectors, rows, len(vectors)))
    index.add(vectors)
    asked = rows[::25]
    _, found = index.search(vectors[asked], 11)
    truth = np.argsort(-(vectors[asked] @ vectors.T), axis=1, kind="stable")[:, :11]
    hits = [len(set(f.tolist()) & set(t.tolist()) - {q}) for q, f, t in zip(asked.tolist(), found, truth, strict=True)]
    assert sum(hits) / (10 * len(asked)) >= 0.95
    lists = leaders(vectors, rows, 0.95)
    assert not lists.exact
    assert len(set(exact.member.tolist()) & set(lists.member.tolist())) >= 0.99 * len(exact.member)
    again = leaders(vectors, rows, 0.95)
    np.testing.assert_array_equal(lists.leader, again.leader)


def test_the_index_works_in_a_process_that_has_torch_loaded() -> None:
    """Both bring an OpenMP runtime; they must neither abort nor hang."""
    find = "import numpy as np; v = np.eye(64, dtype=np.float32); index = faiss.IndexFlatIP(64); index.add(v)"
    use = f"{find}; print(int(index.search(v, 1)[1].sum()))"
    product = "torch.set_num_threads(2); torch.randn(300, 300) @ torch.randn(300, 300)"
    program = f"import torch; import faiss; {product}; {use}; {product}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(sum(range(64)))), done.stderr[-500:]
