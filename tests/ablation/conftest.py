"""The tiny run of the training tests, as fixtures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # for the modules there that are no tests

from tiny_run import *  # noqa: E402, F403
