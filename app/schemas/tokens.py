"""Device tokens over the wire."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.schemas.common import EXAMPLE_TIMESTAMP, DataResponse, RequiredUserId, Timestamp

MIN_SECONDS, MAX_SECONDS = 60, 30 * 24 * 3600
MAX_NEW_PHOTOS = 1_000_000
NewPhotosPerDay = Annotated[
    int | None,
    Field(
        ge=0,
        le=MAX_NEW_PHOTOS,
        examples=[20],
        description="Photos a day that are not known yet, so cost a model call; null: the service's own limits alone.",
    ),
]


class NewDeviceToken(BaseModel):
    """What a device may do, and for how long."""

    device_id: Annotated[
        RequiredUserId, Field(description="Becomes the user id of all requests.", examples=["device_uuid_xxx"])
    ]
    scope: Annotated[Literal["classify"], Field(description="What a device can be allowed.")] = "classify"
    new_photos_per_day: NewPhotosPerDay = None
    expires_in: Annotated[
        int, Field(ge=MIN_SECONDS, le=MAX_SECONDS, description="Seconds, at most 30 days.", examples=[3600])
    ] = 3600


class IssuedDeviceToken(BaseModel):
    """A device token, to be sent as `Authorization: Bearer TOKEN`."""

    token: Annotated[str, Field(examples=["eyJhbGciOiJIUzI1NiIsInR5cCI6ImRldmljZStqd3QifQ.e30.c2lnbmF0dXJl"])]
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - RFC 6750
    device_id: Annotated[str, Field(examples=["device_uuid_xxx"])]
    scope: Literal["classify"] = "classify"
    new_photos_per_day: NewPhotosPerDay
    expires_in: Annotated[int, Field(description="Seconds.", examples=[3600])]
    expires_at: Annotated[Timestamp, Field(examples=[EXAMPLE_TIMESTAMP])]


class DeviceTokenResponse(DataResponse[IssuedDeviceToken]):
    """A device token that was issued."""
