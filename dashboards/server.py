"""The server of pages: routes, and what keeps it to this machine and to reading.

It answers only requests whose Host is this machine's name, and only GET and HEAD; pages load nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.dashboards.pages import cluster, compare, comparison, dataset, episodes, home, media, run, sweep
from understudy.dashboards.places import Missing
from understudy.dashboards.rendering import STATIC, render
from understudy.dashboards.site import Site
from understudy.errors import StoreAway, UnderstudyError

LOCAL = ("127.0.0.1", "localhost")
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none';"
    " form-action 'self'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


Page = Callable[[Request, Site], Response]


class Guard:
    """Refuse all methods but GET and HEAD, and give every answer the headers that keep pages to themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await Response("pages are read, not written", 405)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self.app(scope, receive, guarded)


def make_app(site: Site, hosts: Sequence[str] = ()) -> Starlette:
    """Return the application that shows a site; `hosts` are names that it answers to besides this machine's own."""

    def page(function: Page) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            def made() -> Response:
                path = str(request.path_params.get("path", ""))
                site.prepare([*request.query_params.getlist("of"), *([path] if path else [])])
                return function(request, site)

            try:
                return await run_in_threadpool(made)
            except StoreAway as error:
                return _sorry(str(error), 503)
            except Missing as error:
                return _sorry(str(error), 404)
            except UnderstudyError as error:
                return _sorry(str(error), 400)

        return answer

    async def icon(request: Request) -> Response:
        return RedirectResponse("/static/icon.svg")

    async def not_found(request: Request, error: Exception) -> Response:
        return _sorry("there is no such page", 404)

    pages: dict[str, Page] = {"/": home.show, "/list": home.rows}
    pages |= {"/sweep/{path:path}": sweep.show, "/live/sweep/{path:path}": sweep.live}
    pages |= {"/data/sweep/{path:path}": sweep.data}
    pages |= {"/run/{path:path}": run.show, "/live/run/{path:path}": run.live}
    pages |= {"/episodes/{path:path}": episodes.show, "/list/episodes/{path:path}": episodes.rows}
    pages |= {"/data/clip/{path:path}": episodes.beside}
    pages |= {"/datasets": dataset.listing, "/dataset/{name:path}": dataset.show}
    pages |= {"/picture/{name:path}": dataset.frame, "/list/verify/{name:path}": dataset.verify}
    pages |= {"/compare": compare.show, "/comparison/{path:path}": comparison.show}
    pages |= {"/cluster": cluster.show, "/live/cluster": cluster.live}
    pages |= {"/file/{path:path}": media.video}
    routes = [Route(path, page(function)) for path, function in pages.items()]
    return Starlette(
        routes=[*routes, Route("/favicon.ico", icon), Mount("/static", StaticFiles(directory=STATIC))],
        middleware=[
            Middleware(Guard),
            Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, *hosts], www_redirect=False),
        ],
        exception_handlers={404: not_found},
    )


def _sorry(reason: str, status: int) -> Response:
    return HTMLResponse(render("sorry.html", reason=reason, title="not here"), status)
