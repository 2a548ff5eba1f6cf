"""Device tokens: an app's own server asks for them, so that no key has to be in the app."""

from datetime import timedelta

from fastapi import APIRouter, Request, Response

from app.api.dependencies import AdminKey, AuditDep, DeviceTokensDep, address_of
from app.api.errors import KEY_ERRORS, describe_errors
from app.errors import DatabaseUnavailable, PayloadTooLarge, ServerBusy
from app.schemas.tokens import DeviceTokenResponse, IssuedDeviceToken, NewDeviceToken
from app.services.api_keys.key import ADMIN_KEY_ID
from app.services.audit.service import Action

router = APIRouter(prefix="/tokens", tags=["tokens"])


@router.post("", responses=describe_errors(*KEY_ERRORS, PayloadTooLarge, DatabaseUnavailable, ServerBusy))
async def issue_token(
    request: Request,
    response: Response,
    body: NewDeviceToken,
    key: AdminKey,
    tokens: DeviceTokensDep,
    audit: AuditDep,
) -> DeviceTokenResponse:
    """Issue a token with which one device may classify photos, for a limited time."""
    token = tokens.issue(
        body.device_id,
        new_photos_per_day=body.new_photos_per_day,
        lifetime=timedelta(seconds=body.expires_in),
        api_key_id=None if key.id == ADMIN_KEY_ID else key.id,
    )
    details = {"new_photos_per_day": body.new_photos_per_day, "expires_in": body.expires_in}
    await audit.record(Action.DEVICE_TOKEN_ISSUED, key.actor, body.device_id, address_of(request.scope), details)
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
