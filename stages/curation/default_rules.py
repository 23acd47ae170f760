"""The rules that hold for any source: they look only at what the decoding pass measures, and reject what no training wants.

Each number was chosen by looking at every decodable video of the real test footage and at rendered defects; the comments
give the nearest cases, docs/scores.md the counts. Scores of the CLIP encoder are absent on purpose: with random weights they
mean nothing. So are noise and colourfulness, of which there is no wrong amount.
"""

from __future__ import annotations

from stages.curation.rules import Rule

DEFAULT_RULES: tuple[Rule, ...] = (
    # shorter shots are flashes, or splinters between two transitions; a nominal second measures 0.99 s in many files
    Rule(name="too_short", column="duration_s", min=0.9, missing="drop"),
    Rule(name="too_small", where="width >= 64 and height >= 64", missing="drop"),
    # black, and almost black: a night scene has brightness 0.054 with 0.79 of it dark, a fade or silence 0.02 and 0.99
    Rule(name="too_dark", column="brightness", min=0.05, where="dark_share <= 0.9", missing="review"),
    # a white slide or a burnt-out camera; a test card with a white half has 0.41
    Rule(name="too_bright", column="bright_share", max=0.7, missing="review"),
    # an empty frame; the palest real shot (snow, sky, fog) has 0.08
    Rule(name="low_contrast", column="contrast", min=0.03, missing="review"),
    # nothing in focus anywhere: in mid-shot, rendered blur has at most 0.466, what is rendered sharp at least 0.475, shallow
    # focus on a real flower 0.59, motion blur at a gallop 0.62
    Rule(name="blurred", column="sharpness_best", min=0.47, missing="review"),
    # bars take area from the subject; the thin black edge of analogue captures has 0.025, 4:3 within 16:9 has 0.23
    Rule(name="letterboxed", column="letterbox", max=0.1, missing="review"),
    # frozen streams and single slides; a talking head repeats itself in at most a quarter of the comparisons
    Rule(name="frozen", column="static_share", max=0.5, missing="review"),
    # two still pictures of a second or more in one shot
    Rule(name="slideshow", column="slides", max=1, missing="review"),
    # the fastest tenth, so that a small subject on a still ground counts: a still head has 0.011, a street scene 0.039
    Rule(name="motionless", column="motion_top", min=0.012, missing="review"),
    # titles and captions: rendered ones have 0.066 to 0.125, other rendered clips at most 0.008; in the real footage a watermark
    # has 0.015, foliage at most 0.0094
    Rule(name="text_overlay", column="text_area", max=0.012, missing="review"),
    # lamps against shutter, strobes; a galloping horse under trees has 0.016
    Rule(name="flicker", column="flicker", max=0.04, missing="review"),
)
