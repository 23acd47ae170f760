"""Training of the small models that ship in ``models/embedded``: ``python -m tinyworld.train``."""

from models.compat import prepare

prepare()
