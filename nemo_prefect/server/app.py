"""The embedded server's process: ``python -m nemo_prefect.server.app FD``, FD being its listening socket.

It is Prefect's own server with one page more, which signs the browser in.
"""

from __future__ import annotations

import base64
import gc
import os
import socket
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

from nemo_prefect.server.sign_in import COOKIE, PAGE, PATH, check_key

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send


async def sign_in(request: Request) -> Response:
    """GET gives the page; POST takes its key and gives what Prefect's UI keeps as the password."""
    from starlette.responses import HTMLResponse, PlainTextResponse

    if request.method == "GET":
        return HTMLResponse(PAGE, headers={"Cache-Control": "no-store"})
    auth = os.environ["PREFECT_SERVER_API_AUTH_STRING"]
    if not check_key(auth, (await request.body()).decode(errors="replace")):
        return PlainTextResponse("expired", status_code=403)
    return PlainTextResponse(base64.b64encode(auth.encode()).decode(), headers={"Cache-Control": "no-store"})


class SendToSignIn:
    """A browser that was never signed in and asks for a page gets the one that signs in: Prefect's own pages show such a
    visitor that the run was not found."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(("/api", PATH)):
            from starlette.requests import Request
            from starlette.responses import RedirectResponse

            request = Request(scope)
            wants_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
            if wants_page and COOKIE not in request.cookies:
                await RedirectResponse(f"{PATH}?next={quote(request.url.path)}")(scope, receive, send)
                return
        await self._app(scope, receive, send)


def main() -> None:
    """Serve until TERM."""
    gc.disable()  # until it is up: its imports and migrations make a million objects, nearly all of which stay
    import uvicorn
    from prefect.server.api.server import create_app
    from starlette.routing import Route

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            gc.enable()

    app = create_app()
    app.router.routes.insert(0, Route(PATH, sign_in, methods=["GET", "POST"]))
    app.add_middleware(SendToSignIn)
    server = Server(uvicorn.Config(app, log_level="warning", timeout_keep_alive=5, timeout_graceful_shutdown=3))
    server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
