"""A trained model, written in the layout of other software, and sent to a hub."""

from limbeck.export.facts import MARK
from limbeck.export.write import Format, Precision, export

__all__ = ["MARK", "Format", "Precision", "export"]
