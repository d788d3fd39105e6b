"""What every table of a profile is: its keys are known, its values of the right type, and none ever changes."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

NAME: Final = r"^[a-z0-9][a-z0-9-]*$"

Name = Annotated[str, Field(pattern=NAME)]


class Table(BaseModel):
    """A table of a profile."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
