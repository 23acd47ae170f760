"""The difficulty of the world, frozen: models are trained and judged against exactly these constants.

Whoever changes a number here makes another world: raise ``WORLD_VERSION``, and retrain and remeasure everything in
``models/embedded``. Lengths are in frame heights unless said otherwise, angles in degrees.
"""

from __future__ import annotations

WORLD_VERSION = "2.0"

# --- identities: shape x pattern x base colour x accent colour; a caption tells the shape only, the word for the thing --------------------
SHAPES = ("disc", "square", "triangle", "star", "crescent", "ring", "cross", "heart", "drop", "flower")
PATTERNS = ("striped", "spotted", "checked", "halved", "rimmed", "crossed", "ringed", "swirled")
COLOURS: dict[str, tuple[int, int, int]] = {  # sRGB
    "red": (222, 48, 52),
    "orange": (245, 132, 31),
    "yellow": (250, 208, 44),
    "green": (58, 166, 76),
    "turquoise": (38, 196, 190),
    "blue": (46, 96, 214),
    "violet": (138, 66, 190),
    "pink": (246, 130, 178),
    "white": (246, 244, 238),
    "brown": (124, 76, 44),
}
HELD_OUT_SHARE = 0.2
"""Share of identities kept from training, drawn by a hash of the identity."""

# --- where, how and seen by what camera ------------------------------------------------------------------------------
BACKGROUNDS = ("grass", "water", "sand", "snow", "bricks", "stars", "clouds", "planks")
PLATE_VARIANTS = 4
"""Different painted plates of each background; framing, flip and light vary on top."""
MOTIONS = ("left", "right", "up", "down", "still", "grow", "shrink", "spin")
CAMERAS = ("fixed", "pan_left", "pan_right", "push_in")
FIXED_CAMERA_SHARE_OF_CLIPS = 0.7
LIGHTS: dict[str, tuple[float, float, float]] = {  # gain of red, green, blue
    "noon": (1.06, 1.04, 1.00),
    "dusk": (0.90, 0.62, 0.66),
    "dawn": (1.16, 1.00, 0.78),
    "overcast": (0.66, 0.74, 0.84),
}
CLIP_LIGHT_STRENGTH = 0.5
"""In short clips light is a nuisance, in films it also tells one shot from the next."""
SUBJECT_LIGHT_SHARE = 0.35
"""How much of the light falls on the subject: its colours are its identity and must stay tellable."""

# --- motion programs -------------------------------------------------------------------------------------------------
CLIP_SIDE = (0.46, 0.58)
FILM_SIDE = (0.40, 0.52)
GROWTH = (1.55, 1.8)
"""Ratio of the larger to the smaller side while growing or shrinking."""
GROW_SIDES = {"clip": (0.34, 0.64), "film": (0.32, 0.58)}
TRAVEL = (0.65, 1.0)
"""Distance covered as a share of the room that the frame leaves."""
TILT = 25.0
SPIN_RATE = (110.0, 165.0)
"""Degrees a second."""
CLIP_SECONDS = 1.5
"""What a short clip of any number of frames lasts; only spinning and panning depend on it."""
PAN_RATE = (0.07, 0.12)
"""Frame heights a second."""
PUSH_RATE = (0.05, 0.09)
"""Growth of the view a second."""
BACKDROP_ZOOM = {"clip": (0.9, 1.2), "film": (0.75, 1.35)}

# --- films -----------------------------------------------------------------------------------------------------------
FILM_SIZES = ((256, 160), (256, 160), (288, 160), (224, 160))
"""Width and height, even, because yuv420p halves both."""
SQUARE_FILM_SIZES = ((160, 160),)
"""For models that see square pictures: nothing of a wide frame would be lost by cutting its middle out."""
FILM_FPS = (12, 12, 15)
SHOTS_PER_FILM = (4, 6)
SHOT_SECONDS = (1.5, 4.0)
DISSOLVE_SECONDS = (0.5, 1.0)
FADE_SECONDS = (0.6, 1.2)
"""Down to black and up again, together."""
MOVING_CAMERA_SHARE_OF_FILMS = {"still": 1.0, "grow": 1.0, "shrink": 1.0, "spin": 0.8, "any": 0.6}
"""By the subject's motion: a shot worth keeping always shows motion that a curator can see."""
SHOT_DEFECTS = ("static", "text", "blur", "dark")
JOINS = ("cut", "cut", "dissolve", "cut", "fade")
"""The deck from which boundaries are dealt."""
SMALLEST_WHOLE_WORLD = 24
"""Files from which on every defect is guaranteed to occur."""
BROKEN_ONE_IN = 12
COPY_ONE_IN = 10
LETTERBOX_ONE_IN = 9
WEBM_ONE_IN = 5
DARK_GAIN = (0.05, 0.09)
BLUR_SIGMA = (0.022, 0.032)
"""In frame heights."""
LETTERBOX_BAR = (0.12, 0.17)
"""Height of each bar as a share of the frame's."""
CROP = (0.03, 0.05)
"""What a cropped copy loses on each side."""
CLASHES: dict[str, tuple[str, ...]] = {  # base colours that would vanish over a background
    "grass": ("green",),
    "water": ("blue", "turquoise"),
    "sand": ("yellow", "orange"),
    "snow": ("white",),
    "bricks": ("brown", "red", "orange"),
    "stars": ("violet", "blue"),
    "clouds": ("white", "blue"),
    "planks": ("brown", "orange"),
}
PHOTOS_AT_MOST = 24
PHOTO_SIDE_PX = 192
