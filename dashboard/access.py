"""Who may see the pages: everyone who reaches them, who knows the password, or whom a reverse proxy names.

The gate stands before Streamlit, so that neither a page, nor a file, nor the connection that pages are drawn through is
reached without. A visitor who gave the password holds a cookie until the browser or the server ends; it is signed with a key
that is made anew with every server.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from hashlib import sha256
from http import HTTPStatus
from urllib.parse import parse_qs, urlencode

from markupsafe import Markup
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

_COOKIE = "autotune_visitor"
_OPEN = "/_stcore/health"  # tells that the server is up, and nothing else
_LOGIN = "/login"
_WRONG_PAUSE_S = 1.0  # after a wrong password, so that it cannot be guessed quickly
_LONGEST = 4096  # bytes of a form
_VIOLATION = 1008  # the code of a connection that is closed for reasons of policy

_PAGE = Markup("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>autotune</title><meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }}
main {{ max-width: 22rem; margin: 18vh auto; padding: 0 1rem; }}
input, button {{ font: inherit; padding: .5rem .7rem; width: 100%; box-sizing: border-box; margin: .4rem 0; }}
</style></head>
<body><main><h1>autotune</h1>
<form method="post" action="{action}"><label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<button type="submit">Open</button></form><p role="alert">{told}</p></main></body></html>
""")


class Gate:
    """ASGI middleware that lets visitors in.

    Args:
        app: what stands behind it.
        password: that visitors must know; None for none.
        user_header: that requests must carry, not empty; None for none. Whoever reaches the server past the proxy can write
            it, so the server must be reachable through the proxy alone.
    """

    def __init__(self, app: ASGIApp, password: str | None = None, user_header: str | None = None) -> None:
        self.app = app
        self.password = password
        self.user_header = user_header
        self._key = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] not in ("http", "websocket") or scope["path"].endswith(_OPEN):
            await self.app(scope, receive, send)
            return
        visitor = HTTPConnection(scope)
        if self.user_header is not None and not visitor.headers.get(self.user_header):
            told = f"This page is reached through a proxy that names its visitor in the header {self.user_header}."
            await self._refuse(scope, receive, send, HTMLResponse(Markup.escape(told), HTTPStatus.FORBIDDEN))
        elif self.password is None or self._knows(visitor):
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith(_LOGIN):
            await (await self._login(Request(scope, receive)))(scope, receive, send)
        else:
            await self._refuse(scope, receive, send, self._page(scope))

    def _token(self) -> str:
        return hmac.new(self._key, b"visitor", sha256).hexdigest()

    def _knows(self, visitor: HTTPConnection) -> bool:
        return hmac.compare_digest(visitor.cookies.get(_COOKIE, "").encode(), self._token().encode())

    async def _login(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST:
                return self._page(request.scope, "That is no password.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        assert self.password is not None
        if not hmac.compare_digest(given.encode(), self.password.encode()):
            await asyncio.sleep(_WRONG_PAUSE_S)
            return self._page(request.scope, "That is not the password.", HTTPStatus.UNAUTHORIZED)
        wanted = parse_qs(request.url.query).get("to", ["/"])[0]
        # Only pages of this server: a link with another address must lead nowhere else.
        local = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
        answer = RedirectResponse(wanted if local else "/", HTTPStatus.SEE_OTHER)
        secure = request.url.scheme == "https"
        answer.set_cookie(_COOKIE, self._token(), httponly=True, samesite="strict", secure=secure)
        return answer

    def _page(self, scope: Scope, told: str = "", status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> Response:
        request = HTTPConnection(scope)
        wanted = parse_qs(request.url.query).get("to", ["/"])[0]
        if not scope["path"].endswith(_LOGIN):
            wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return HTMLResponse(_PAGE.format(action=f"{_LOGIN}?{urlencode({'to': wanted})}", told=told), status)

    @staticmethod
    async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
        if scope["type"] == "websocket":
            await receive()  # the request to connect
            await send({"type": "websocket.close", "code": _VIOLATION})
        else:
            await answer(scope, receive, send)
