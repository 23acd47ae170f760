"""``fulcrum review``: the page on which people answer, and all that is done with campaigns from a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.cli.options import Json, StoreUri
from pipelines.config import Config, ConfigError, Settings

if TYPE_CHECKING:
    from pipelines.dag.store import Store
    from stages.review.database import Database

DatabaseUrl = Annotated[
    str | None, typer.Option("--database", help="SQLAlchemy URL; by default the one beside the store", metavar="URL")
]
CampaignId = Annotated[str, typer.Argument(help="the campaign's id, as its page shows it", metavar="CAMPAIGN")]
Title = Annotated[str | None, typer.Option("--title", help="by default the campaign's id")]
Guidelines = Annotated[
    Path | None, typer.Option("--guidelines", help="a text file; people see it by the key g", metavar="FILE")
]
Overlap = Annotated[int, typer.Option("--overlap", help="people who judge each item", min=1, max=20)]


Role = Literal["annotator", "lead", "admin"]
FormName = Literal["filter", "consis", "real_fake", "compare", "likert"]
Aggregation = Literal["unanimous", "majority", "lead"]
Order = Literal["finish_first", "uncertainty", "disagreement"]
ExportFormat = Literal["label-studio", "parquet"]

Form = Annotated[FormName, typer.Option("--form", help="what is asked: see docs/review.md")]

app = typer.Typer(help="Serve the page on which people answer, and run its campaigns.", no_args_is_help=True)


@app.command()
def serve(
    store: StoreUri = None,
    database: DatabaseUrl = None,
    host: Annotated[str, typer.Option("--host", help="address to bind")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="port to bind", min=1, max=65535)] = 8765,
    public_url: Annotated[
        str | None,
        typer.Option("--public-url", help="how people reach it, if not on this machine, e.g. https://review.example.org"),
    ] = None,
) -> None:  # fmt: skip
    """Serve the review page until Ctrl-C. On a new database it prints the link that logs you in as its admin."""
    serve_pages(store, database, host, port, public_url)


def serve_pages(
    store: str | None, database: str | None, host: str, port: int, public_url: str | None, status: Store | None = None
) -> None:
    """The review page, with the status page of a store beside it where one is given."""
    from stages.review.app import serve as serve_page
    from stages.review.learned import WANTED_PRECISION

    def rules(answers: Database, campaign: str) -> Any:
        return _rules(answers, campaign, store, None, WANTED_PRECISION)[0]

    url = _database_url(store, database, there=False)
    extend = None
    if status is not None:
        from pipelines.status.app import add_status

        extend = partial(add_status, store=status)
    serve_page(url, host=host, port=port, public_url=public_url, rules=rules, extend=extend)


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="who; by this name answers are stored", metavar="NAME")],
    role: Annotated[Role | None, typer.Option("--role", help="leads also see campaigns as a whole; a known person keeps theirs")] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="end this person's access instead; answers stay")] = False,
    store: StoreUri = None,
    database: DatabaseUrl = None,
    page: Annotated[str, typer.Option("--public-url", help="how people reach the page", metavar="URL")] = "http://127.0.0.1:8765",
) -> None:  # fmt: skip
    """Print the link that logs a person in. It is shown once; inviting again ends the old one."""
    from stages.review import people
    from stages.review.app import invitation

    with _opened(store, database, there=False) as opened:
        if revoke:
            found = [one.person for one in people.members(opened) if one.person.name == name]
            if not found:
                raise ConfigError([f"nobody is called {name} here"])
            people.deactivate(opened, found[0].id, "command line")
            print(f"{name} has no access any more; the answers stay.")
            return
        token = people.invite(opened, name, role)
    print(invitation(page, token))


@app.command()
def create(
    campaign: CampaignId,
    items: Annotated[Path, typer.Argument(help="one JSON object a line; see docs/review.md", metavar="ITEMS.jsonl")],
    form: Form,
    title: Title = None,
    guidelines: Guidelines = None,
    overlap: Overlap = 1,
    aggregation: Annotated[Aggregation, typer.Option("--aggregation", help="how answers become a verdict")] = "majority",
    order: Annotated[Order, typer.Option("--order", help="what people see first")] = "finish_first",
    gold_rate: Annotated[float, typer.Option("--gold-rate", help="share of items with a known answer", min=0, max=0.5)] = 0.0,
    reason: Annotated[list[str] | None, typer.Option("--reason", help="a reason tag of a reject; repeatable")] = None,
    seed: Annotated[int, typer.Option("--seed", help="of sides and orders")] = 0,
    store: StoreUri = None,
    database: DatabaseUrl = None,
) -> None:  # fmt: skip
    """Make a campaign of videos on this machine. The gates of a pipeline make theirs by themselves."""
    from pydantic import ValidationError

    from stages.review.campaigns import create_campaign, progress
    from stages.review.manifest import read_items
    from stages.review.media import MediaStore, media_root_for
    from stages.review.spec import CampaignSpec

    try:
        spec = CampaignSpec(
            campaign_id=campaign,
            form=form,
            title=title or campaign,
            guidelines=_text(guidelines),
            reasons=tuple(reason or ()),
            overlap=overlap,
            aggregation=aggregation,
            order=order,
            gold_rate=gold_rate,
            seed=seed,
        )
    except ValidationError as error:
        raise ConfigError([f"{one['loc'][0] if one['loc'] else campaign}: {one['msg']}" for one in error.errors()]) from error  # fmt: skip
    url = _database_url(store, database, there=False)
    new = read_items(items, spec.form, MediaStore(media_root_for(url)))
    with _opened(store, database, there=False) as opened:
        create_campaign(opened, spec, new)
        at = progress(opened, campaign)
    print(f"{campaign} is open: {at.items} items, {at.remaining} to judge. Page: /c/{campaign}")


@app.command()
def stats(
    campaign: CampaignId,
    store: StoreUri = None,
    database: DatabaseUrl = None,
    run: Annotated[str | None, typer.Option("--run", help="the run whose rules are judged; by default the latest", metavar="ID")] = None,
    precision: Annotated[float, typer.Option("--precision", help="that a suggested threshold must hold", min=0, max=1)] = 0.9,
    json_: Json = False,
) -> None:  # fmt: skip
    """People, agreement and preferences of a campaign; for a filter also which rules people contradict."""
    from pipelines.cli import review_output
    from stages.review.dashboard import make_document

    with _opened(store, database) as opened:
        _known(opened, campaign)
        found: dict[str, Any] = make_document(opened, campaign)
        found["rules"], note = _rules(opened, campaign, store, run, precision)
    if json_:
        print(json.dumps(found | {"note": note}, ensure_ascii=False))
        return
    review_output.show(found, note)


def _rules(db: Database, campaign: str, store: str | None, run: str | None, precision: float) -> tuple[Any, str | None]:
    """What people's answers say of the rules of a run, or None and why not."""
    from pipelines.dag.runs import load_run
    from pipelines.dag.store import Store
    from pipelines.stored_run import StoredRun
    from stages.contract import StageError
    from stages.review.campaigns import read_campaign
    from stages.review.labels import load_labels
    from stages.review.learned import learn

    with db.read() as connection:
        of = read_campaign(connection, campaign)
        if of.spec.form != "filter" or of.spec.asks:  # rules chose clips, not subjects or pairs
            return None, None
        labels = load_labels(connection, of)
    try:
        opened = Store(store or Settings().store, create=False)
        stored = StoredRun(opened, load_run(opened, run))
        rules, clips = stored.rules(), stored.dataset("clips")
        return [one.as_dict() for one in learn(labels, clips, rules, precision)], None
    except StageError as error:
        return None, f"the rules are not judged: {error}"


@app.command()
def close(
    campaign: CampaignId,
    partial: Annotated[bool, typer.Option("--partial", help="close although items lack answers; they stay in review")] = False,
    store: StoreUri = None,
    database: DatabaseUrl = None,
) -> None:  # fmt: skip
    """Close a campaign. From then on no answer changes, and its pipeline can go on."""
    from stages.review.campaigns import close_campaign, close_if_done, get_campaign

    with _opened(store, database) as opened:
        _known(opened, campaign)
        at = close_if_done(opened, campaign, actor="command line")
        if at.remaining and not partial and get_campaign(opened, campaign).state != "closed":
            raise ConfigError(
                [f"{at.remaining} of {at.items} items of {campaign} lack answers; --partial closes it and leaves them in review"]
            )  # fmt: skip
        if at.remaining:
            at = close_campaign(opened, campaign, "command line")
    print(f"{campaign} is closed: {at.done} of {at.items} items judged. Run the pipeline again to go on.")


@app.command("export")
def export_(
    campaign: CampaignId,
    to: Annotated[Path, typer.Argument(help="a file for label-studio, a folder for parquet", metavar="TO")],
    format_: Annotated[ExportFormat, typer.Option("--format", help="parquet only of a closed campaign")] = "label-studio",
    store: StoreUri = None,
    database: DatabaseUrl = None,
) -> None:  # fmt: skip
    """Write a campaign's items and answers. Label Studio's interface for them is written beside as an XML file."""
    from stages.review.campaigns import get_campaign
    from stages.review.label_studio import export_tasks, label_config
    from stages.review.verdicts import write_export

    with _opened(store, database) as opened:
        _known(opened, campaign)
        if format_ == "parquet":
            digest = write_export(opened, campaign, to)
            print(f"{to}: items, decisions and verdicts of {campaign}; digest {digest}")
            return
        tasks = export_tasks(opened, campaign)
        config = label_config(get_campaign(opened, campaign).spec)
    try:
        to.write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        to.with_suffix(".xml").write_text(config, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{to} cannot be written: {error.strerror}"]) from error
    print(f"{to}: {len(tasks)} tasks; {to.with_suffix('.xml')} is the interface that shows them in Label Studio")


@app.command("import")
def import_(
    campaign: CampaignId,
    tasks: Annotated[Path, typer.Argument(help="Label Studio's JSON export", metavar="TASKS.json")],
    form: Form,
    title: Title = None,
    guidelines: Guidelines = None,
    overlap: Overlap = 1,
    store: StoreUri = None,
    database: DatabaseUrl = None,
) -> None:
    """Make a campaign of Label Studio's tasks, with their annotations as answers."""
    from stages.review.label_studio import import_tasks, read_tasks
    from stages.review.media import MediaStore, media_root_for

    url = _database_url(store, database, there=False)
    read = read_tasks(tasks)
    with _opened(store, database, there=False) as opened:
        found = import_tasks(
            opened,
            read,
            MediaStore(media_root_for(url)),
            tasks.absolute().parent,
            campaign_id=campaign,
            form=form,
            title=title or campaign,
            guidelines=_text(guidelines),
            overlap=overlap,
        )
    print(f"{campaign} is open: {found.items} items with {found.answers} answers")
    for problem in found.left_out:
        print(f"left out: {problem}")


def _text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} cannot be read: {error}"]) from error


def _known(db: Database, campaign: str) -> None:
    from stages.review.campaigns import list_campaigns

    known = [c.id for c in list_campaigns(db)]
    if campaign not in known:
        raise ConfigError([f"there is no campaign {campaign}; there are: {', '.join(known) or 'none'}"])


@contextmanager
def _opened(store: str | None, database: str | None, there: bool = True) -> Iterator[Database]:
    from stages.review.database import open_database

    opened = open_database(_database_url(store, database, there))
    try:
        yield opened
    finally:
        opened.close()


def _database_url(store: str | None, database: str | None, there: bool = True) -> str:
    """The review database of a store. May contain a password: never print it. ``there``: a new one would be a mistake."""
    settings = Settings.model_validate({"store": store or Settings().store, "review": {"database": database}})
    url = Config(settings, {}).review_database
    path = Path(url.removeprefix("sqlite:///"))
    if there and url.startswith("sqlite:///") and not path.exists():
        raise ConfigError(
            [f"there is no review database {path} yet. Run a pipeline with the same --store until it waits for people."]
        )
    return url
