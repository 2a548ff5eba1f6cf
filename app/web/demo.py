"""The demo: what a client does with a photo, in the browser, step by step."""

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from app.api.dependencies import ResourcesDep
from app.web.pages import page

router = APIRouter(include_in_schema=False)


@router.head("/demo")
@router.get("/demo")
async def demo(resources: ResourcesDep) -> HTMLResponse:
    """The page; it knows what a call costs, to say what a hit saves."""
    settings = resources.settings
    return page(
        "demo",
        {
            "cost_per_call": str(settings.spending.cost_per_call),
            "max_image_bytes": str(settings.image.max_size_bytes),
        },
    )
