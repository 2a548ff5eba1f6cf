"""ReDoc without a third party: its script asks another host for a logo, which only a policy keeps it from."""

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html
from starlette.responses import HTMLResponse

from app.web.pages import HEADERS

# Where fastapi-offline serves the files of Swagger UI and ReDoc.
FILES = "/static-offline-docs"
# ReDoc styles its elements one by one, and searches in a worker that it makes itself.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_redoc(app: FastAPI) -> None:
    """Serve /redoc."""

    @app.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        response = get_redoc_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - ReDoc",
            redoc_js_url=f"{root}{FILES}/redoc.standalone.js",
            redoc_favicon_url=f"{root}{FILES}/favicon.png",
            with_google_fonts=False,
        )
        response.headers.update(HEADERS | {"Content-Security-Policy": CONTENT_SECURITY_POLICY})
        return response
