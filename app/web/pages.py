"""How pages and their assets are served: from files of ours, under a policy that lets a page load nothing else.

Pages and assets name each other and the API by relative addresses, so that they work behind any path prefix.
"""

from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent
ASSETS_PATH = "/assets"
PAGES = ("dashboard", "review", "demo")
# No script, style or request that is not ours, and nothing inline. Pictures are also made by the page itself: from a
# chosen file (blob:) and in style sheets (data:).
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    # Asked for again each time, mostly answered by 304: a page and its modules are always of one version.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Assets(StaticFiles):
    """The files of `assets/`, with an ETag and our headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def mount_assets(app: FastAPI) -> None:
    """Serve the assets of all pages."""
    app.mount(ASSETS_PATH, Assets(directory=FOLDER / "assets"), name="assets")


def page(name: str, values: Mapping[str, str]) -> HTMLResponse:
    """The page `name` of this folder in the layout of all; `$key` in it stands for a value, which is escaped.

    Its style sheet and its module have the same name.

    Raises:
        KeyError: a value is missing.
    """
    main = _template(name).substitute({key: escape(value) for key, value in values.items()})
    here = {f"on_{each}": ' aria-current="page"' if each == name else "" for each in PAGES}
    return HTMLResponse(_template("layout").substitute(here, name=name, main=main), headers=HEADERS)


def login_page() -> HTMLResponse:
    """What a browser shows that has been refused a page, after its dialog for name and password was cancelled."""
    return page("login", {})


@cache
def _template(name: str) -> Template:
    return Template((FOLDER / f"{name}.html").read_text(encoding="utf-8"))
