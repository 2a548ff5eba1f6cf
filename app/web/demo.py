"""The demo: what a client does with a photo, in the browser, step by step."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from app.api.access import Area, policy_of
from app.api.dependencies import ResourcesDep
from app.web.pages import page

router = APIRouter(include_in_schema=False)


@router.head("/demo")
@router.get("/demo")
async def demo(request: Request, resources: ResourcesDep) -> HTMLResponse:
    """The page; it knows what a call costs, to say what a hit saves, and whether to ask for an API key."""
    settings = resources.settings
    is_paid = resources.models.service_client.is_paid
    return page(
        "demo",
        {
            "cost_per_call": str(settings.spending.cost_per_call if is_paid else 0),
            "currency": settings.spending.currency,
            "needs_key": str(policy_of(request.scope).needs_key(Area.CLASSIFICATION, resources.api_keys)).lower(),
            "max_image_bytes": str(settings.image.max_size_bytes),
        },
    )
