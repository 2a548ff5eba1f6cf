"""The page on which operators review entries: its list and its actions are those of `/api/v1/review`.

`app/api/access.py` wants a key of the scope `admin` as the password of HTTP Basic, with any user name.
"""

import json

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from app.api.dependencies import ResourcesDep
from app.categories import CATEGORY_TEXTS
from app.web.pages import page

router = APIRouter(include_in_schema=False)


@router.head("/review")
@router.get("/review")
async def review(resources: ResourcesDep) -> HTMLResponse:
    """The page."""
    names = {category: {"zh": text.chinese, "en": text.english} for category, text in CATEGORY_TEXTS.items()}
    return page(
        "review",
        {"timezone": resources.settings.statistics.timezone.key, "categories": json.dumps(names, ensure_ascii=False)},
    )
