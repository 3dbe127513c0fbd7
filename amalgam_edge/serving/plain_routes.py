"""Routes that FastAPI describes and that are answered without what FastAPI and Starlette do around an endpoint.

Matching, middlewares, dependencies and stacks of what they opened take longer than all else that a request of one text
costs beside the model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from amalgam_edge.serving.guard import App, Receive, Send

Told = Callable[[Request, Exception], Awaitable[Response]]


class PlainRoute(APIRoute):
    """An endpoint ``(request, **path parameters) → Response``; all its parameters are strings."""


class PlainRoutes:
    """An ASGI application before another one, which answers requests for plain routes.

    Args:
        app: that all other requests go to.
        routes: the plain ones of which are answered here.
        told: what a request is told of an error that its endpoint raised.
    """

    def __init__(self, app: App, routes: Iterable[BaseRoute], told: Told) -> None:
        self._app = app
        self._routes = [route for route in routes if isinstance(route, PlainRoute)]
        self._told = told

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], parameters = found
        request = Request(scope, receive)
        try:
            response = await found[0].endpoint(request, **parameters)
        except Exception as error:
            await (await self._told(request, error))(scope, receive, send)
            if not isinstance(error, HTTPException):  # nobody foresaw it: that is for the log
                raise
        else:
            await response(scope, receive, send)

    def _find(self, scope: MutableMapping[str, Any]) -> tuple[PlainRoute, dict[str, str]] | None:
        """The route of a request, and the parameters in its path."""
        for route in self._routes:
            if scope["method"] in (route.methods or ()) and (match := route.path_regex.match(scope["path"])):
                return route, match.groupdict()
        return None
