"""The section `report`."""

from __future__ import annotations

from pydantic import Field

from eo_cate.config.part import Part


class ReportConfig(Part):
    """What the report shows."""

    gallery: bool = Field(
        False,
        description="Show the images of the sites with the largest and the smallest estimated effects. An image can "
        "tell which place it is: leave this off in whatever leaves the team.",
    )
