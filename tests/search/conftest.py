import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "search"), str(TESTS / "model")]  # for the modules there that are no tests
