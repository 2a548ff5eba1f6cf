"""Swagger UI and ReDoc without a third party, each under a policy that lets it load nothing else.

Swagger UI's page starts its script inline: the policy names that script by its hash. ReDoc's script is served without
the address of the logo that it loads from another host. Above both is a line of links to the other pages.
"""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from starlette.responses import HTMLResponse, Response

from app.api.access import AccessPolicy, area_of
from app.api.dependencies import TAKES_KEY_SCHEME
from app.resources import Resources
from app.web.pages import HEADERS

# Where fastapi-offline serves the files of Swagger UI and ReDoc.
FILES = "/static-offline-docs"
DOCS_PATH = "/docs"
_REDIRECT_PATH = f"{DOCS_PATH}/oauth2-redirect"
# Both style their elements one by one; ReDoc searches in a worker that it makes itself.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# ReDoc takes its logo out of the page when the picture cannot be loaded; an empty address makes no request.
_LOGO = b'"https://cdn.redoc.ly/redoc/logo-mini.svg"'
_SCRIPT_PATH = "/redoc.js"
_SCRIPT_HEADERS = {"Cache-Control": "max-age=3600"}
# An operation's "security": an API key, or (by the empty object) that or nothing.
_KEY: list[dict[str, list[str]]] = [{TAKES_KEY_SCHEME: []}]
_KEY_OR_NONE: list[dict[str, list[str]]] = [{}, *_KEY]
# Not the layout of our own pages, whose style sheet would change these two.
_STYLE = '<link rel="stylesheet" href="assets/docs.css">'
_THEME = '<script src="assets/docs-theme.js"></script>'
_WAYS_BACK = """<nav class="ways-back">
<a href="./">Image Classifier</a>
<a href="demo">Demo <span lang="zh-CN">演示</span></a>
<a href="dashboard">Dashboard <span lang="zh-CN">仪表盘</span></a>
</nav>"""
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

router = APIRouter(include_in_schema=False)


def tell_who_needs_a_key(app: FastAPI, policy: AccessPolicy) -> None:
    """Have the document say of each operation whether, by the policy, it needs an API key at this moment."""
    document_of_routes = app.openapi

    def document() -> dict[str, Any]:
        resources: Resources | None = getattr(app.state, "resources", None)
        keys = None if resources is None else resources.api_keys
        made = document_of_routes()
        paths = {
            path: {
                method: {**operation, "security": _KEY_OR_NONE}
                if operation.get("security") == _KEY and not policy.needs_key(area_of(path), keys)
                else operation
                for method, operation in operations.items()
            }
            for path, operations in made["paths"].items()
        }
        return {**made, "paths": paths}

    # As FastAPI's documentation says it: https://fastapi.tiangolo.com/how-to/extending-openapi/
    app.openapi = document  # type: ignore[method-assign]


@router.get(DOCS_PATH)
async def docs(request: Request) -> HTMLResponse:
    """The document as Swagger UI shows it."""
    app, root = request.app, request.scope.get("root_path", "")
    page = get_swagger_ui_html(
        openapi_url=f"{root}{app.openapi_url}",
        title=f"{app.title} - Swagger UI",
        oauth2_redirect_url=_REDIRECT_PATH,
        swagger_js_url=f"{root}{FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{FILES}/swagger-ui.css",
        swagger_favicon_url=f"{root}{FILES}/favicon.png",
        swagger_ui_parameters=app.swagger_ui_parameters,
    )
    return _with_policy(_with_ways_back(page, _STYLE + _THEME))


@router.get(_REDIRECT_PATH)
async def docs_redirect() -> HTMLResponse:
    """Where the log-in by OAuth2 of Swagger UI comes back to."""
    return _with_policy(get_swagger_ui_oauth2_redirect_html())


@router.get("/redoc")
async def redoc(request: Request) -> HTMLResponse:
    """The document as ReDoc shows it."""
    app, root = request.app, request.scope.get("root_path", "")
    page = get_redoc_html(
        openapi_url=f"{root}{app.openapi_url}",
        title=f"{app.title} - ReDoc",
        redoc_js_url=f"{root}{_SCRIPT_PATH}",
        redoc_favicon_url=f"{root}{FILES}/favicon.png",
        with_google_fonts=False,
    )
    return _with_policy(_with_ways_back(page, _STYLE))


@router.get(_SCRIPT_PATH)
def script() -> Response:
    """ReDoc itself."""
    return Response(_script(), media_type="text/javascript", headers=_SCRIPT_HEADERS)


def _with_ways_back(page: HTMLResponse, head: str) -> HTMLResponse:
    """Return the page with `head` in its head, and with the links to the other pages above the rest."""
    text = bytes(page.body).decode()
    return HTMLResponse(text.replace("</head>", f"{head}</head>", 1).replace("<body>", f"<body>{_WAYS_BACK}", 1))


def _with_policy(page: HTMLResponse) -> HTMLResponse:
    """Return the page with our headers; what it has inline, and nothing else, may run."""
    hashes = [hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(bytes(page.body))]
    scripts = "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes)
    page.headers.update(HEADERS | {"Content-Security-Policy": CONTENT_SECURITY_POLICY.format(scripts=scripts)})
    return page


@cache
def _script() -> bytes:
    path = Path(fastapi_offline.__file__).parent / "static" / "redoc.standalone.js"
    return path.read_bytes().replace(_LOGO, b'""')
