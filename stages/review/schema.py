"""The tables of the review database: what a campaign asks, who holds which item, and every answer ever given."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

SCHEMA_VERSION = 3

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

campaign = Table(
    "campaign",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("overlap", Integer, nullable=False),
    Column("lease_seconds", Integer, nullable=False),
    Column("skip_policy", String(16), nullable=False),
    Column("aggregation", String(16), nullable=False),
    Column("spec", Text, nullable=False),  # the whole CampaignSpec, a JSON object
    Column("state", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("closed_at", Float),
    CheckConstraint("kind IN ('filter', 'pairwise', 'likert')", name="campaign_kind"),
    CheckConstraint("state IN ('preparing', 'open', 'closed')", name="campaign_state"),
    CheckConstraint("overlap >= 1", name="campaign_overlap"),
)

item = Table(
    "item",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("campaign_id", ForeignKey("campaign.id"), nullable=False),
    Column("external_id", String(256), nullable=False),
    Column("payload", Text, nullable=False),
    Column("payload_digest", String(64), nullable=False),
    Column("stratum", String(256), nullable=False),
    Column("inclusion_probability", Float, nullable=False),
    Column("hidden", Text, nullable=False, server_default="{}"),  # what no page may show: the systems' names
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("uncertainty", Float, nullable=False, server_default="0"),  # 0 sure .. 1 undecided, for the queue's order
    # The order in which items are given out, begun somewhere else at every claim: 0 .. 2**31 - 1.
    Column("shuffle", BigInteger, nullable=False),
    Column("gold", Text),  # the known answer, a JSON object; kept when withdrawn, so that a mistake can be traced
    Column("gold_withdrawn", Boolean, nullable=False, server_default=text("false")),
    Column("state", String(16), nullable=False, server_default="open"),
    UniqueConstraint("campaign_id", "external_id", name="item_once_per_campaign"),
    CheckConstraint("state IN ('open', 'withdrawn')", name="item_state"),
    Index("item_in_order", "campaign_id", "state", text("priority DESC"), "shuffle"),
    Index("item_by_uncertainty", "campaign_id", "state", text("priority DESC"), text("uncertainty DESC"), "shuffle"),
    Index("item_by_payload", "payload_digest"),
)

person = Table(
    "person",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("active", Boolean, nullable=False),
    # sha256 of the personal token, which is shown once and stored nowhere; none for scripts.
    Column("token_digest", String(64), unique=True),
    Column("created_at", Float, nullable=False),
    CheckConstraint("role IN ('annotator', 'lead', 'admin', 'script')", name="person_role"),
)

# A browser's login. Only the digest of its cookie is stored, so a stolen database opens no session.
session = Table(
    "session",
    metadata,
    Column("token_digest", String(64), primary_key=True),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

# One row per item and person, kept for ever: the side on which a person saw a pair must never change under an answer
# that arrives after the lease ran out.
lease = Table(
    "lease",
    metadata,
    Column("item_id", ForeignKey("item.id"), primary_key=True),
    Column("person_id", ForeignKey("person.id"), primary_key=True),
    Column("side", String(2), nullable=False),
    Column("claimed_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    CheckConstraint("side IN ('AB', 'BA')", name="lease_side"),
    Index("lease_by_person", "person_id", "expires_at"),
    Index("lease_by_expiry", "expires_at"),
)

# What a person has entered on an item and not sent yet; it goes when they answer.
draft = Table(
    "draft",
    metadata,
    Column("item_id", ForeignKey("item.id"), primary_key=True),
    Column("person_id", ForeignKey("person.id"), primary_key=True),
    Column("scores", Text, nullable=False),  # JSON object
    Column("saved_at", Float, nullable=False),
)

response = Table(
    "response",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("campaign_id", ForeignKey("campaign.id"), nullable=False),
    Column("item_id", ForeignKey("item.id"), nullable=False),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("idempotency_key", String(64), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("conclusion", String(16), nullable=False),  # the verdict, or rest_differs: what aggregation compares
    Column("reasons", Text, nullable=False),  # JSON list
    Column("answer", Text, nullable=False),  # JSON object, sides already undone: winner and loser, never left and right
    Column("side", String(2), nullable=False),
    # counted fills one of the item's k places; extra came too late for one; lead settles a disagreement; set_aside is a
    # skip under a policy that asks again.
    Column("standing", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("carried", Boolean, nullable=False),
    Column("sequence", Integer, nullable=False),  # this person's how-manieth response in the campaign
    Column("watched_ms", BigInteger),
    Column("replays", Integer),
    Column("submitted_at", Float, nullable=False),
    UniqueConstraint("person_id", "idempotency_key", name="response_once"),
    CheckConstraint("standing IN ('counted', 'extra', 'lead', 'set_aside')", name="response_standing"),
    CheckConstraint("state IN ('live', 'superseded', 'withdrawn')", name="response_state"),
    Index("response_by_item", "item_id", "state", "standing"),
    Index("response_by_person", "person_id", "campaign_id", "sequence"),
    # All that counting needs, in the order in which it groups.
    Index("response_by_campaign", "campaign_id", "state", "item_id", "standing", "conclusion"),
    Index(
        "one_live_response_per_item_and_person",
        "item_id",
        "person_id",
        unique=True,
        sqlite_where=text("state = 'live' AND standing != 'lead'"),
        postgresql_where=text("state = 'live' AND standing != 'lead'"),
    ),
)

# What the counted answers of an item come to, written again from them in the transaction of every change, so that no claim has
# to count a campaign. An item without a live answer may have no row.
tally = Table(
    "tally",
    metadata,
    Column("item_id", ForeignKey("item.id"), primary_key=True),
    Column("campaign_id", ForeignKey("campaign.id"), nullable=False),
    Column("answers", Integer, nullable=False),  # counted ones
    Column("said", Integer, nullable=False),  # different conclusions among them
    Column("disputed", Boolean, nullable=False),  # all are in, they do not decide, and neither has a lead
    Index("tally_by_campaign", "campaign_id", "answers", "said", "item_id"),
    Index("tally_disputed", "campaign_id", "disputed"),
)

# Append-only: what happened, by whom. Undoing an answer adds a row here and changes none.
event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("campaign_id", String(128)),
    Column("item_id", String(64)),
    Column("detail", Text, nullable=False),
    Index("event_by_campaign", "campaign_id", "id"),
)
