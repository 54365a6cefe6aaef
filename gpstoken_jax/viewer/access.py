"""Admission to the server: hosts, origins, and a token if other machines can reach it."""

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_COOKIE = "gpstoken_viewer"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """The rule.

    Attributes:
      host: address that the server listens on.
      token: what the URL must hold; None on loopback, where only this machine's users come.
    """

    host: str = "127.0.0.1"
    token: str | None = None

    def refusal(self, scope: Scope) -> str | None:
        """Says why a request is refused; None if it is not.

        A page of another site can send requests here, but with its own Origin; a name of another
        site can be made to lead here, but then it is the Host. Both are looked at.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(_without_port(host)):
            return f"this server does not answer to the name {host[:100]!r}"
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope.get('scheme', 'http')}://{host}":
            return "requests of other sites are not answered"
        if headers.get("sec-fetch-site") == "cross-site" and scope["path"] != "/":
            return "requests of other sites are not answered"
        if self.token and not self._has_token(scope, headers):
            return "open the whole address that the program printed, with its token"
        return None

    def _is_ours(self, name: str) -> bool:
        if not self.token:
            return name in _LOOPBACK
        # Listening on all addresses: any of them, but no name except this machine's own.
        return name in (*_LOOPBACK, self.host, socket.gethostname()) or _is_address(name)

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        cookie = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
        given = [cookie.value if cookie else "", *_url_tokens(scope)]
        return any(hmac.compare_digest(text.encode(), self.token.encode()) for text in given)


class Guard:
    """The rule as middleware, with the headers that keep the page to itself."""

    def __init__(self, app: ASGIApp, access: Access):
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what is refused, hands on the rest."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        response = self._app
        if reason := self._access.refusal(scope):
            response = PlainTextResponse(f"refused: {reason}\n", 403)
        elif self._access.token and _url_tokens(scope):
            # From the address bar, where it could be seen, into a cookie.
            response = RedirectResponse("/", 303)
            response.set_cookie(_COOKIE, self._access.token, httponly=True, samesite="strict")
        await response(scope, receive, send_with_headers)


def _url_tokens(scope: Scope) -> list[str]:
    return parse_qs(scope["query_string"].decode("latin-1")).get("token", [])


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
