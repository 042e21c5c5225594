"""Corpora that are already on the user's machine: docstrings of installed packages, descriptions of Debian packages."""

from limbeck.data.corpora.debian import debian_packages
from limbeck.data.corpora.docstrings import python_docs

__all__ = ["debian_packages", "python_docs"]
