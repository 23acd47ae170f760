"""Every table that flows between stages, in the order of the road."""

from __future__ import annotations

import pyarrow as pa

from data_schemas.schema import Field, TableSchema

STR, I64, I32, F64, F32, BOOL = pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.float32(), pa.bool_()
VECTOR = pa.list_(F32)

_ERROR = (
    Field("error_type", STR, "class of the failure, null when there was none"),
    Field("error_message", STR, "what happened, in words a person understands"),
)


def _source(settled: bool) -> tuple[Field, ...]:
    """Columns of a listed file. Once its content key is known (``settled``) its change marks are mere telemetry."""
    return (
        Field("video_id", STR, "hash of source name and path relative to the source root; unique", nullable=False),
        Field("uri", STR, "absolute URI of the file", nullable=False),
        Field("path", STR, "path relative to the source root", nullable=False),
        Field("media_type", STR, "video or image", nullable=False),
        Field("bytes", I64, "size", "B", nullable=False),
        Field("mtime_ns", I64, "modification time, null where the storage has none", "ns", telemetry=settled),
        Field("etag", STR, "the storage's own change mark, null where there is none", telemetry=settled),
        Field("caption", STR, "caption that came with the source"),
        Field("caption_source", STR, "column or sidecar, null without a caption"),
        Field("licence", STR, "licence that came with the source"),
        Field("extra", STR, "further columns of the source, as a JSON object"),
    )


SOURCES = TableSchema(
    "sources", "1.0", ("video_id",), _source(False), "One row per source file that is a video or an image, as listed."
)

VIDEOS = TableSchema(
    "videos",
    "1.1",
    ("video_id",),
    (
        *_source(True),
        Field("sha256", STR, "content key; null when the file could not be read"),
        Field("duration_s", F64, "last frame's end minus first frame's start, measured while decoding", "s"),
        Field("fps", F64, "decoded frames per second of duration", "1/s"),
        Field("width", I32, "display width after rotation", "px"),
        Field("height", I32, "display height after rotation", "px"),
        Field("codec", STR, "codec of the video stream"),
        Field("rotation", I32, "clockwise rotation applied for display", "degree"),
        Field("frames", I64, "decoded frames", "frames"),
        Field(
            "decode_errors",
            I64,
            "packets the decoder could make nothing of; the shots beside them were still read",
            "packets",
        ),
        Field("time_faults", I64, "frames whose instant was missing or ran backwards, and was put right", "frames"),
        Field("status", STR, "ok, failed or removed", nullable=False),
        *_ERROR,
    ),
    "One row per source file that is a video or an image, after it has been read.",
)

CLIPS = TableSchema(
    "clips",
    "1.0",
    ("clip_id",),
    (
        Field("clip_id", STR, "hash of video_id, start_frame and end_frame", nullable=False),
        Field("video_id", STR, "the source video", nullable=False),
        Field("video_uri", STR, "absolute URI of the source video", nullable=False),
        Field("start_s", F64, "start relative to the first decoded frame", "s", nullable=False),
        Field("end_s", F64, "end relative to the first decoded frame", "s", nullable=False),
        Field("start_frame", I64, "first frame, counting decoded frames in presentation order", "frames", False),
        Field("end_frame", I64, "one past the last frame", "frames", False),
        Field("boundary_in", STR, "start, cut, dissolve or fade", nullable=False),
        Field("boundary_out", STR, "end, cut, dissolve or fade", nullable=False),
        Field("duration_s", F64, "end_s - start_s", "s", nullable=False),
        Field("width", I32, "display width", "px", nullable=False),
        Field("height", I32, "display height", "px", nullable=False),
        Field("fps", F64, "frames per second of the source", "1/s", nullable=False),
    ),
    "One row per shot, untrimmed and never filtered, with one column or more per scorer; null is missing, not low.",
    open=True,
)

KEYFRAMES = TableSchema(
    "keyframes",
    "1.0",
    ("clip_id", "position"),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("position", F64, "where in the clip, as a share of its length", "0..1", False),
        Field("time_s", F64, "instant relative to the video's first frame", "s", False),
        Field("jpeg", pa.large_binary(), "the picture, short side at most 256 px, JPEG", nullable=False),
    ),
    "Pictures of each clip for encoders, reports and reviewers.",
)

HASHES = TableSchema(
    "hashes",
    "1.0",
    ("clip_id", "position"),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("position", F64, "where in the clip, as a share of its length", "0..1", False),
        Field(
            "hash",
            pa.uint64(),
            "63-bit DCT hash of the picture there (models/video/phash.py); 0 where it is flat",
            None,
            False,
        ),
    ),
    "Perceptual hashes of key frames that were computed elsewhere, for dedupe without pictures.",
)

CANDIDATES = TableSchema(
    "candidates",
    "1.0",
    ("clip_id",),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("kept", BOOL, "whether it passed the cheap rules", nullable=False),
        Field("first_failing_rule", STR, "name of the first rule it failed"),
    ),
    "Which clips are worth the dear scorers.",
)

CAPTIONS = TableSchema(
    "captions",
    "1.0",
    ("clip_id",),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("caption", STR, "null where no caption is known"),
        Field("source", STR, "column, sidecar or model"),
        Field("model", STR, "captioner, null when it came with the source"),
    ),
    "One row per clip.",
)

EMBEDDINGS = TableSchema(
    "embeddings",
    "1.0",
    ("clip_id", "encoder"),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("encoder", STR, "model name and weights", nullable=False),
        Field("vector", VECTOR, "mean over key frames of unit image embeddings, unit norm", nullable=False),
        Field("aesthetic", F64, "head on the image embedding", "1..10"),
        Field("clip_text", F64, "cosine of image and caption embedding; null without a caption", "-1..1"),
    ),
    "One row per clip and encoder.",
)

KEYFRAME_SCORES = TableSchema(
    "keyframe_scores",
    "1.0",
    ("clip_id",),
    (Field("clip_id", STR, "the clip", nullable=False),),
    "One row per clip that passed the cheap rules, with the columns of the configured scorers of key frames.",
    open=True,
)

SELECTION = TableSchema(
    "selection",
    "1.0",
    ("clip_id",),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("kept", BOOL, "whether every rule passed", nullable=False),
        Field("first_failing_rule", STR, "name of the first rule it failed"),
        Field("review", BOOL, "a rule asks a person because its score is missing", nullable=False),
    ),
    "One row per clip: did it pass the rules, and which stopped it.",
)

DEDUPE = TableSchema(
    "dedupe",
    "1.0",
    ("clip_id",),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("kept", BOOL, "whether this is the one kept of its group", nullable=False),
        Field("kind", STR, "exact, near or semantic; null when alone"),
        Field("group_id", STR, "the group, null when alone"),
        Field("kept_id", STR, "clip kept in its place; itself when kept", nullable=False),
    ),
    "One row per selected clip.",
)

BALANCE = TableSchema(
    "balance",
    "1.0",
    ("clip_id",),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("kept", BOOL, "whether every quota had room for it", nullable=False),
        Field("quota", STR, "the quota that had none: source, cluster, resolution or total; null when kept"),
        Field("cluster", I32, "semantic cluster, -1 without an embedding; null when nothing was clustered"),
        Field("resolution", STR, "bucket of the short side, e.g. 480-719; null when resolution has no quota"),
    ),
    "One row per clip that dedupe kept.",
)

SHOWN = TableSchema(
    "shown",
    "1.0",
    ("clip_id",),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("video_id", STR, "the source video", nullable=False),
        Field(
            "stratum", STR, "kept, or the rule that had rejected it (drawn to learn a threshold's recall)", None, False
        ),
        Field("inclusion_probability", F64, "probability with which it was drawn", "0..1", False),
        Field("undecided", BOOL, "whether a rule left it to people, because its score was missing", nullable=False),
        Field("duration_s", F64, "length", "s", False),
        Field("fps", F64, "frames per second", "1/s", False),
        Field("media", STR, "its proxy's file; the poster has the same name with .jpg. null when it could not be made"),
        Field("pictures", pa.list_(STR), "files of its key frames, in order", nullable=False),
        *_ERROR,
    ),
    "One row per clip that people are to see. The names are there also where nobody looks and no file was made.",
)

ITEMS = TableSchema(
    "items",
    "1.0",
    ("item_id",),
    (
        Field("item_id", STR, "hash of campaign and external_id", nullable=False),
        Field("campaign_id", STR, "the campaign", nullable=False),
        Field("kind", STR, "filter, pairwise or likert", nullable=False),
        Field("external_id", STR, "what is judged: a clip_id or a preference pair_id", nullable=False),
        Field("payload", STR, "what the page shows, a JSON object", nullable=False),
        Field(
            "payload_digest", STR, "digest of payload, question and rubric; equal digests carry answers", None, False
        ),
        Field(
            "stratum", STR, "kept, or the rule that had rejected it (drawn to learn a threshold's recall)", None, False
        ),
        Field("inclusion_probability", F64, "probability with which it was drawn", "0..1", False),
    ),
    "One row per item of a campaign.",
)

DECISIONS = TableSchema(
    "decisions",
    "1.0",
    ("decision_id",),
    (
        Field("decision_id", STR, "the response", nullable=False),
        Field("item_id", STR, "the item", nullable=False),
        Field("campaign_id", STR, "the campaign", nullable=False),
        Field("external_id", STR, "what was judged", nullable=False),
        Field("reviewer", STR, "who judged; a scripted reviewer is named script:<name>", nullable=False),
        Field("verdict", STR, "accept, reject, skip; winner, same, loser, both_bad", nullable=False),
        Field("reasons", pa.list_(STR), "reason tags", nullable=False),
        Field("values", STR, "the whole answer, a JSON object", nullable=False),
        Field("carried", BOOL, "whether it was given in an earlier campaign for the same payload", nullable=False),
        Field("submitted_at", STR, "ISO 8601, UTC", telemetry=True),
        Field("watched_ms", I64, "how long the item was open", "ms", telemetry=True),
    ),
    "One row per reviewer response, append-only.",
)

VERDICTS = TableSchema(
    "verdicts",
    "1.0",
    ("external_id",),
    (
        Field("external_id", STR, "what was judged", nullable=False),
        Field("item_id", STR, "the item", nullable=False),
        Field(
            "verdict",
            STR,
            "the answers aggregated; rest_differs: the Consis winner wins, but not alone; in_review: none",
            nullable=False,
        ),
        Field("reasons", pa.list_(STR), "reason tags of the answers that decided", nullable=False),
        Field("answers", I32, "answers counted", nullable=False),
    ),
    "One row per item: what the campaign concluded.",
)

SUBSET = TableSchema(
    "subset",
    "1.0",
    ("clip_id",),
    (
        Field("clip_id", STR, "the clip", nullable=False),
        Field("video_id", STR, "the source video", nullable=False),
        Field("media_uri", STR, "the clip cut and encoded once", nullable=False, telemetry=True),
        Field("media_sha256", STR, "digest of that file", nullable=False),
        Field("media_bytes", I64, "size of that file", "B", nullable=False),
        Field("caption", STR, "null where no caption is known"),
        Field("licence", STR, "licence of the source"),
        Field("start_s", F64, "start in the source", "s", False),
        Field("end_s", F64, "end in the source", "s", False),
        Field("frames", I64, "frames of the encoded clip", "frames", False),
        Field("fps", F64, "frames per second", "1/s", False),
        Field("width", I32, "width", "px", False),
        Field("height", I32, "height", "px", False),
    ),
    "One row per clip that survived everything, with all its scores.",
    open=True,
)

SUBJECTS = TableSchema(
    "subjects",
    "1.2",
    ("subject_id",),
    (
        Field("subject_id", STR, "hash of origin, phrase and instant", nullable=False),
        Field("origin", STR, "clip or photo", nullable=False),
        Field("clip_id", STR, "the clip; null for a photograph"),
        Field("video_id", STR, "the source file", nullable=False),
        Field("phrase", STR, "noun phrase that names it, null where nothing names it"),
        Field("time_s", F64, "instant in the exported clip, null for a photograph", "s"),
        Field("box", pa.list_(F32, 4), "x0, y0, x1, y1 as shares of width and height", "0..1", False),
        Field("area", F64, "box area as a share of the frame", "0..1", False),
        Field("mask_area", F64, "mask area as a share of the frame", "0..1", False),
        Field("crop", pa.large_binary(), "the crop with its background, PNG", nullable=False),
        Field("mask", pa.large_binary(), "mask of the crop, 8-bit PNG, 255 inside", nullable=False),
        Field("encoder", STR, "identity encoder", nullable=False),
        Field("embedding", VECTOR, "identity embedding, unit norm", nullable=False),
        Field("subject", I32, "which subject of its clip; one number through a clip is one track. null counts as 0"),
        Field("appearance", STR, "what it looks like, in words"),
        Field("completeness", F64, "share of the mask's outline that the frame does not cut off", "0..1"),
        Field("sharpness", F64, "log10 of 1 + variance of the Laplacian inside the mask", "0..4 or so"),
        Field("background", VECTOR, "descriptor of the frame outside the mask, unit norm"),
        Field(
            "part",
            STR,
            "face for the face of a subject, which never stands for the whole one; null for a whole subject",
        ),
    ),
    "One row per subject and instant at which it was cropped.",
)

REFERENCE = pa.struct(
    [("subject_id", STR), ("phrase", STR), ("appearance", STR), ("origin", STR), ("video_id", STR), ("time_s", F64)]
)

PAIRS = TableSchema(
    "pairs",
    "1.3",
    ("sample_id",),
    (
        Field("sample_id", STR, "hash of kind, clip and references", nullable=False),
        Field("kind", STR, "in_pair, cross_pair, image_pair or video_only", nullable=False),
        Field("clip_id", STR, "target clip", nullable=False),
        Field("video_id", STR, "source video of the target", nullable=False),
        Field("prompt", STR, "training layout: Ref 1: ... Video: Ref 1[...] ...", nullable=False),
        Field("references", pa.list_(REFERENCE), "references in prompt order, 1 to 4", nullable=False),
        Field("similarity", F64, "least identity cosine of a reference and its subject in the target", "-1..1"),
        Field("same_source", BOOL, "whether a reference comes from the target's source video", nullable=False),
        Field("split", STR, "train or held_out, drawn by identity and source video", nullable=False),
        Field("similarities", pa.list_(F64), "identity cosine of each reference, in prompt order", "-1..1"),
        Field("same_shot", BOOL, "whether a reference comes from the target clip itself"),
        Field("background", F64, "largest cosine of a reference's background and the target's", "-1..1"),
        Field(
            "prompt_by", STR, "who wrote the prompt: template, or writer for the model that was asked. null is template"
        ),
    ),
    "One row per training sample.",
)

PAIR_CANDIDATES = TableSchema(
    "pair_candidates",
    "1.0",
    ("target_id", "candidate_id"),
    (
        Field("target_id", STR, "subject_id that stands for a subject of a target clip", nullable=False),
        Field("candidate_id", STR, "subject_id of the crop that might be its reference", nullable=False),
        Field("target_video_id", STR, "source video of the target", nullable=False),
        Field("candidate_video_id", STR, "source file of the candidate", nullable=False),
        Field("clip_id", STR, "target clip", nullable=False),
        Field("rank", I32, "place among the target's candidates by cosine, from 0", nullable=False),
        Field("similarity", F64, "identity cosine", "-1..1", False),
        Field("background", F64, "cosine of the backgrounds, null where one was not measured", "-1..1"),
        Field("reason", STR, "why it is no reference of the target; null where it is one"),
    ),
    "The most alike candidates of every subject of a target clip: which became references, and why the others did not.",
)

CACHE = TableSchema(
    "cache",
    "1.1",
    ("sample_id",),
    (
        Field("sample_id", STR, "the training sample", nullable=False),
        Field("kind", STR, "in_pair, cross_pair, image_pair or video_only", nullable=False),
        Field("split", STR, "train or held_out", nullable=False),
        Field("shard", STR, "safetensors file relative to the cache folder", nullable=False),
        Field("bucket", STR, "frames x height x width of the encoded video", "px", False),
        Field("references", I32, "references of the sample", nullable=False),
        Field("views", I32, "cached views per reference", nullable=False),
        Field("text_key", STR, "digest of prompt and text encoder, key into the text shard", nullable=False),
        Field("prompt", STR, "the prompt", nullable=False),
    ),
    "One row per training sample: where its latents, reference views and text embedding lie.",
)

PREFERENCES = TableSchema(
    "preferences",
    "1.0",
    ("pair_id",),
    (
        Field("pair_id", STR, "hash of kind, sample and seed", nullable=False),
        Field("kind", STR, "consis or real_fake", nullable=False),
        Field("sample_id", STR, "the cached sample that conditions both", nullable=False),
        Field("shard", STR, "safetensors file with both latents, relative to the preferences folder", nullable=False),
        Field("winner_uri", STR, "the intended winner as a video", nullable=False, telemetry=True),
        Field("loser_uri", STR, "the intended loser as a video", nullable=False, telemetry=True),
        Field("reference_uri", STR, "the first reference as a picture", nullable=False, telemetry=True),
        Field("prompt", STR, "the prompt", nullable=False),
        Field("seed", I64, "seed of the initial noise", nullable=False),
        Field("rope_offset", pa.list_(F32), "offset of the reference tokens' time, row, column; null for real_fake"),
        Field("verdict", STR, "verdict of the review; null before it"),
        Field("kept", BOOL, "whether it trains; null before the review"),
    ),
    "One row per winner and loser.",
)

SAMPLES = TableSchema(
    "samples",
    "1.1",
    ("system", "prompt_id", "seed"),
    (
        Field("system", STR, "adapter, or base", nullable=False),
        Field("prompt_id", STR, "prompt and references", nullable=False),
        Field("seed", I64, "seed of the initial noise", nullable=False),
        Field("prompt", STR, "the prompt", nullable=False),
        Field("uri", STR, "the video; null when sampling failed", telemetry=True),
        Field("reference_uri", STR, "the first reference as a picture", telemetry=True),
        Field("status", STR, "ok or failed", nullable=False),
        *_ERROR,
        Field("seconds", F64, "time to sample", "s", telemetry=True),
        Field(
            "reference_uris",
            pa.list_(STR),
            "all references in order; null where there is but the first",
            telemetry=True,
        ),
    ),
    "One row per generated video.",
)

METRICS = TableSchema(
    "metrics",
    "1.1",
    ("system", "metric"),
    (
        Field("system", STR, "adapter, or base", nullable=False),
        Field("metric", STR, "metric name", nullable=False),
        Field("value", F64, "mean over prompts; null when nothing could be measured"),
        Field("low", F64, "lower end of the 95% interval, bootstrapped by prompt"),
        Field("high", F64, "upper end of the 95% interval, bootstrapped by prompt"),
        Field("n", I32, "videos measured", nullable=False),
        Field("coverage", F64, "measured share of the videos asked for", "0..1", False),
        Field("better", STR, "higher, lower or neither", nullable=False),
        Field("note", STR, "what a reader must know, e.g. that the encoder's weights are random"),
        Field("source", STR, "what made the number: metric and version, models, samples and recipe by digest, as JSON"),
    ),
    "One row per system and metric.",
)

MEASUREMENTS = TableSchema(
    "measurements",
    "1.0",
    ("system", "prompt_id", "seed", "metric"),
    (
        Field("system", STR, "adapter, or base", nullable=False),
        Field("prompt_id", STR, "prompt and references", nullable=False),
        Field("seed", I64, "seed of the initial noise", nullable=False),
        Field("metric", STR, "metric name", nullable=False),
        Field("value", F64, "the metric's value for this video"),
        Field("missing", STR, "why there is no value"),
        Field("video_sha256", STR, "digest of the video's file; null when there is none"),
    ),
    "One row per video and metric.",
)

COMPARISONS = TableSchema(
    "comparisons",
    "1.0",
    ("system", "baseline", "metric"),
    (
        Field("system", STR, "whose difference from the baseline it is", nullable=False),
        Field("baseline", STR, "the system compared with", nullable=False),
        Field("metric", STR, "metric name", nullable=False),
        Field("difference", F64, "mean over prompts of system minus baseline, on the same prompts and seeds"),
        Field("low", F64, "lower end of its 95% interval, bootstrapped by prompt; null with one prompt"),
        Field("high", F64, "upper end of its 95% interval"),
        Field("n", I32, "pairs of videos", nullable=False),
        Field("prompts", I32, "prompts that they are of", nullable=False),
        Field("p", F64, "two-sided sign-flip test over prompts", "0..1", False),
        Field("p_holm", F64, "p adjusted for the systems compared by this metric", "0..1", False),
    ),
    "One row per system other than the baseline and metric.",
)

LEDGER = TableSchema(
    "ledger",
    "1.1",
    ("record_id", "stage"),
    (
        Field(
            "record_id", STR, "what was worked on: a video_id, clip_id, subject_id, sample_id or pair_id", None, False
        ),
        Field("video_id", STR, "the source it came from, null where there is none"),
        Field("stage", STR, "the stage", nullable=False),
        Field("status", STR, "accepted, rejected, failed or in_review", nullable=False),
        Field("reason", STR, "why it was rejected, e.g. the rule's name"),
        *_ERROR,
        Field(
            "note", STR, "how it was done where there was a choice, e.g. which library read its frames", telemetry=True
        ),
        Field("attempts", I32, "how often it was tried", telemetry=True),
        Field("seconds", F64, "time spent on it", "s", telemetry=True),
    ),
    "One row per record and stage: where everything went and why.",
)

TABLES: dict[str, TableSchema] = {
    schema.name: schema
    for schema in (
        SOURCES, VIDEOS, CLIPS, KEYFRAMES, HASHES, CANDIDATES, CAPTIONS, EMBEDDINGS, KEYFRAME_SCORES, SELECTION,
        DEDUPE, BALANCE, SHOWN, ITEMS, DECISIONS, VERDICTS, SUBSET, SUBJECTS, PAIRS, PAIR_CANDIDATES, CACHE, PREFERENCES,
        SAMPLES, METRICS, MEASUREMENTS, COMPARISONS, LEDGER,
    )
}  # fmt: skip
