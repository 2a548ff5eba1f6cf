"""Device tokens: an app's own server asks for them, so that no key has to be in the app."""

from datetime import timedelta

from fastapi import APIRouter, Depends, Request, Response

from app.api.dependencies import DeviceTokensDep
from app.api.errors import describe_errors
from app.api.routes.cache import require_admin
from app.errors import AdminKeyRequired, DatabaseUnavailable, PayloadTooLarge, ServerBusy
from app.schemas.tokens import DeviceTokenResponse, IssuedDeviceToken, NewDeviceToken
from app.services.signatures.keys import SigningKey

router = APIRouter(prefix="/tokens", tags=["tokens"], dependencies=[Depends(require_admin)])


@router.post("", responses=describe_errors(AdminKeyRequired, PayloadTooLarge, DatabaseUnavailable, ServerBusy))
async def issue_token(
    request: Request, response: Response, body: NewDeviceToken, tokens: DeviceTokensDep
) -> DeviceTokenResponse:
    """Issue a token with which one device may classify photos, for a limited time."""
    key: SigningKey | None = request.scope["state"].get("signing_key")
    token = tokens.issue(
        body.device_id,
        new_photos_per_day=body.new_photos_per_day,
        lifetime=timedelta(seconds=body.expires_in),
        api_key_id=None if key is None else key.id,
    )
    # RFC 6749, 5.1.
    response.headers["Cache-Control"] = "no-store"
    issued = IssuedDeviceToken(
        token=token.text,
        device_id=body.device_id,
        new_photos_per_day=body.new_photos_per_day,
        expires_in=body.expires_in,
        expires_at=token.expires_at,
    )
    return DeviceTokenResponse(data=issued)
