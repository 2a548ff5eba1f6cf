"""ReDoc without a third party: its script is served without the address of the logo that it loads from another host."""

from functools import cache
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html
from starlette.responses import HTMLResponse, Response

from app.web.pages import HEADERS

# Where fastapi-offline serves the files of Swagger UI and ReDoc.
FILES = "/static-offline-docs"
# ReDoc styles its elements one by one, and searches in a worker that it makes itself.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# ReDoc takes its logo out of the page when the picture cannot be loaded; an empty address makes no request.
_LOGO = b'"https://cdn.redoc.ly/redoc/logo-mini.svg"'
_SCRIPT_PATH = "/redoc.js"
_SCRIPT_HEADERS = {"Cache-Control": "max-age=3600", "X-Content-Type-Options": "nosniff"}


def add_redoc(app: FastAPI) -> None:
    """Serve /redoc and its script."""

    @app.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        response = get_redoc_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - ReDoc",
            redoc_js_url=f"{root}{_SCRIPT_PATH}",
            redoc_favicon_url=f"{root}{FILES}/favicon.png",
            with_google_fonts=False,
        )
        response.headers.update(HEADERS | {"Content-Security-Policy": CONTENT_SECURITY_POLICY})
        return response

    @app.get(_SCRIPT_PATH, include_in_schema=False)
    def script() -> Response:
        return Response(_script(), media_type="text/javascript", headers=_SCRIPT_HEADERS)


@cache
def _script() -> bytes:
    path = Path(fastapi_offline.__file__).parent / "static" / "redoc.standalone.js"
    return path.read_bytes().replace(_LOGO, b'""')
