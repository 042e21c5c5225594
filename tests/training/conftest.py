"""A run small enough for a second, as fixtures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for the modules there that are no tests

from tiny_run import *  # noqa: E402, F403
