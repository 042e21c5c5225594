"""What every part of a recipe is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every part of a recipe: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
