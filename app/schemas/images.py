"""Pictures of the library over the wire."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, computed_field

from app.photo import PhotoFormat
from app.schemas.common import EXAMPLE_HASH, Timestamp

# What the tables can count to; no row has a larger id.
ID_MAX = 2**63 - 1
PAGE_MAX = 100


class ImageAnswer(BaseModel):
    """A picture of your library."""

    model_config = ConfigDict(from_attributes=True)

    id: Annotated[int, Field(examples=[1])]
    filename: Annotated[str, Field(description="As you called it.", examples=["image.jpg"])]
    format: PhotoFormat
    width: Annotated[int, Field(description="Pixels, as stored.", examples=[4032])]
    height: Annotated[int, Field(description="Pixels, as stored.", examples=[3024])]
    size_bytes: Annotated[int, Field(examples=[2_048_000])]
    sha256: Annotated[str, Field(description="Of the file's bytes.", examples=[EXAMPLE_HASH])]
    created_at: Timestamp

    @computed_field(description="The same as `id`.", examples=[1])  # type: ignore[prop-decorator]  # mypy#1362
    @property
    def image_id(self) -> int:
        return self.id

    @computed_field(examples=["/images/1/file"])  # type: ignore[prop-decorator]  # mypy#1362
    @property
    def url(self) -> str:
        return f"/images/{self.id}/file"

    @computed_field(examples=["/images/1/thumbnail"])  # type: ignore[prop-decorator]  # mypy#1362
    @property
    def thumbnail_url(self) -> str:
        return f"/images/{self.id}/thumbnail"


class ImagePage(BaseModel):
    """Some of your pictures, the newest first; `total` is how many you have."""

    items: list[ImageAnswer]
    total: Annotated[int, Field(ge=0, examples=[1])]
    skip: Annotated[int, Field(examples=[0])]
    limit: Annotated[int, Field(examples=[20])]
