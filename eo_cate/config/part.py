"""What every section has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A frozen section; an option that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
