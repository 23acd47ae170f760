"""The rules that hold for any source: they look only at what the decoding pass measures, and reject what no training wants.

Each number was chosen by looking at every decodable video of the real test footage (86) and at rendered defects; the
comments give the nearest cases. Scores of the CLIP encoder are absent on purpose: with random weights they mean nothing.
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
    # shallow focus on a flower has 0.353, motion blur at a gallop 0.37; rendered clips out of focus have 0.32 to 0.43, so some
    # pass: a mean over the frame cannot tell soft grounds from soft subjects
    Rule(name="blurred", column="sharpness", min=0.35, missing="review"),
    # bars take area from the subject; the thin black edge of analogue captures has 0.025, 4:3 within 16:9 has 0.23
    Rule(name="letterboxed", column="letterbox", max=0.1, missing="review"),
    # slides and frozen streams; a talking head repeats itself in at most a quarter of the comparisons
    Rule(name="frozen", column="static_share", max=0.5, missing="review"),
    # the fastest tenth, so that a small subject on a still ground counts: a still head has 0.011, a street scene 0.039
    Rule(name="motionless", column="motion_top", min=0.012, missing="review"),
    # titles and captions: rendered ones have 0.065 to 0.11, clean rendered clips at most 0.01; some foliage and fur reach 0.15
    # and are lost, which a large source can afford
    Rule(name="text_overlay", column="text_area", max=0.06, missing="review"),
    # lamps against shutter, strobes; a galloping horse under trees has 0.016
    Rule(name="flicker", column="flicker", max=0.04, missing="review"),
)
