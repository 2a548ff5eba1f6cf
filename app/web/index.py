"""The address without a path: a browser gets a welcome page, every other client is told what is where."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app import VERSION
from app.web.pages import page

NAME = "Image Classifier"
LINKS = {
    "documentation": "/docs",
    "openapi": "/openapi.json",
    "health": "/api/v1/health",
    "demo": "/demo",
    "dashboard": "/dashboard",
}
# A cache keeps the two answers apart.
_HEADERS = {"Vary": "Accept"}

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
async def index(request: Request) -> Response:
    """Browsers name text/html in Accept; programs name JSON, or take anything."""
    if "text/html" in request.headers.get("accept", ""):
        welcome = page("welcome", {})
        welcome.headers.update(_HEADERS)
        return welcome
    root = request.scope.get("root_path", "")
    links = {name: f"{root}{path}" for name, path in LINKS.items()}
    return JSONResponse({"success": True, "name": NAME, "version": VERSION, "links": links}, headers=_HEADERS)
