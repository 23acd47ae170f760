"""``fulcrum funnel`` as a data engineer uses it: on a committed run, with other thresholds, and as a page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.funnel import RULES, make_store
from pipelines.catalog import find
from pipelines.cli.app import app
from pipelines.config import load
from pipelines.overlay import ConfigError
from pipelines.what_if import try_rules
from stages.curation.default_rules import DEFAULT_RULES
from stages.curation.rules import Rule, RuleError
from stages.curation.select import in_order
from stages.evaluation.funnel_page import FunnelPage, render

CLIPS = 20_000
COLUMNS = ["motion", "motion_top", "sharpness", "flicker"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("funnel"), CLIPS)


@pytest.fixture
def funnel(store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*options: str) -> str:
        app(["funnel", "--store", str(store), *options], standalone_mode=False)
        return capsys.readouterr().out

    return call


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def test_the_table_and_its_json_account_for_every_clip(funnel: Callable[..., str]) -> None:
    told = json.loads(funnel("--json"))
    assert told["records"] == CLIPS == told["kept"] + sum(step["lost"] for step in told["steps"])
    assert [step["rule"] for step in told["steps"]] == [rule.name for rule in RULES]
    text = funnel()
    assert f"{told['kept']:,} of {CLIPS:,} clips pass" in text
    for step in told["steps"]:
        assert re.search(rf"{step['rule']} .*{step['lost']:,}", text)


def test_trying_shows_both_and_writes_nothing(funnel: Callable[..., str], store: Path) -> None:
    before = state(store.parent)
    told = json.loads(funnel("--json", "--try", "motion_top.min=0.1", "--try", "flicker=null"))
    assert state(store.parent) == before
    assert told["after"]["kept"] - told["kept"] == told["change"]["gained"] - told["change"]["dropped"]
    assert told["change"]["gained"] > 0 < told["change"]["dropped"]
    assert "flicker" not in [step["rule"] for step in told["after"]["steps"]]
    text = funnel("--try", "motion_top.min=0.1")
    assert "motion_top >= 0.012 -> motion_top >= 0.1" in text
    assert "--set select.rules.motionless.min=0.1" in text


def test_a_configuration_can_be_tried(funnel: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    rules = [rule.model_dump(mode="json") | ({"min": 0.1} if rule.name == "motionless" else {}) for rule in RULES]
    file.write_text(yaml.safe_dump({"stages": {"select": {"rules": rules}}}))
    by_file = json.loads(funnel("--json", "--config", str(file)))
    by_try = json.loads(funnel("--json", "--try", "motionless.min=0.1"))
    assert by_file["after"] == by_try["after"]
    assert by_file["set"] == [f"--config {file}"]


@pytest.mark.parametrize(
    "tries",
    [
        ["motionless.min=0.05"],
        ["motion_top.min=0.05", "motion_top.missing=drop"],
        ["flicker=null", "blurred.quantile.lower=0.1", "blurred.min=null"],
        ["motion.max=0.5"],
        ["wide.where=width >= 2 * height and fps > 10", "wide.missing=review"],
    ],
)
def test_the_named_settings_make_it_real(tries: list[str]) -> None:
    tried = try_rules(DEFAULT_RULES, tries, COLUMNS, "select")
    assignments = [shlex.split(setting)[1] for setting in tried.settings]
    real: Any = load(find("curate"), None, assignments, {}).params["select"]
    assert list(real.rules) == tried.rules
    assert in_order(tried.rules) != in_order(DEFAULT_RULES)


@pytest.mark.parametrize(
    ("tries", "says"),
    [
        (["motoinless.min=1"], "no rule and no column motoinless; did you mean motionless?"),
        (["motoin.min=1"], "did you mean motion?"),
        (["motionless.mni=1"], "a rule has no mni; did you mean min?"),
        (["motionless.quantile.low=1"], "write quantile.lower or quantile.upper"),
        (["motionless"], "write RULE.FIELD=VALUE"),
        (["motionless=3"], "write RULE.FIELD=VALUE"),
        (["motionless.min=fast"], "motionless.min: input should be a valid number"),
        (["motionless.max=0.001"], "min 0.012 is above max 0.001"),
        (["motionless.min=2024-13-45"], "the value 2024-13-45 is not a number"),
        (["motionless.min=.nan"], "motionless.min: input should be a finite number"),
        (["a.b.c.d=1", "x=null"], "--try x=null"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_right_spelling(tries: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        try_rules(RULES, tries, COLUMNS, "select")
    assert says in str(caught.value)


def test_a_column_of_several_rules_is_not_guessed() -> None:
    rules = [Rule(name="one", column="motion", min=0), Rule(name="two", column="motion", max=1)]
    with pytest.raises(ConfigError, match="several rules look at motion \\(one, two\\)"):
        try_rules(rules, ["motion.min=1"], COLUMNS, "select")


def test_an_unknown_column_in_an_expression_is_named(funnel: Callable[..., str]) -> None:
    with pytest.raises(RuleError, match="Did you mean sharpness"):
        funnel("--try", "r.where=sharpnes > 1")


def test_a_run_that_did_not_come_so_far_says_so(tmp_path: Path) -> None:
    from pipelines.dag.runs import NodeRecord, RunRecord
    from pipelines.dag.store import Store
    from stages.contract import StageError

    RunRecord("curate", "r", "", "failed", [NodeRecord("ingest")], "", 0, "").save(Store(str(tmp_path / "s")))
    with pytest.raises(StageError, match="has no table clips: its stage clips has not been done"):
        app(["funnel", "--store", str(tmp_path / "s")], standalone_mode=False)


# -- the page -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(footage: Path, analysed: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of real clips with a rule that cuts through them, and a hostile name among them."""
    from stages.curation.funnel import compare_rules
    from stages.curation.road import Failure, road
    from tests.curation.test_funnel import Held

    paths = [
        footage / name
        for name in ("mdn-learning-area/frog.mp4", "moviepy/fire2.mp4", "mdn-learning-area/rabbit320.mp4")
    ]
    tables = Held(**analysed(paths))
    rules = [Rule(name="<b>long</b>", column="duration_s", min=5), Rule(name="small", where="height >= 400")]
    tried = [rules[0].model_copy(update={"min": 3}), rules[1]]
    before, after, change = compare_rules(rules, tried, tables.dataset("clips"))
    html = render(
        FunnelPage(
            tables=tables, rules=rules, tried=tried, before=before, after=after, change=change, levels=road(tables),
            failures=[Failure("analyze", "CrashedError", 2, "<script>alert(1)</script>")], facts=[("run", "r")],
            settings=["--set select.rules.long.min=3"], thumbnails=2,
        )
    )  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "funnel.html"
    path.write_text(html, encoding="utf-8")
    return path


def test_the_page_is_one_bounded_file_that_escapes_what_it_shows(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", html)
    assert "<script>" not in html
    assert "&lt;b&gt;long&lt;/b&gt;" in html
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert 1 <= len(pictures) <= 2 * 2 * 2  # rules x sides x clips either side
    assert max(map(len, pictures)) < 40_000
    assert "at least 3" in html
    assert "before: 5" in html  # the line that the tried rule moves
    assert "--set select.rules.long.min=3" in html


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium on this machine (Debian: apt install chromium)")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_a_screen_and_a_phone(page: Path, chromium: Any, width: int) -> None:
    view = chromium.new_page(viewport={"width": width, "height": 720})
    asked: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.locator(".step").count() >= 4
    assert all(url.startswith(("file:", "data:")) for url in asked)
    view.close()
