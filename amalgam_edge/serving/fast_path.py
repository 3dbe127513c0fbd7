"""A short path from a request to its endpoint, past what FastAPI and Starlette do around one.

For a request of one text their matching, middlewares, dependencies and exit stacks take longer than everything else but
the model. FastAPI still describes these routes in the API's description.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

ErrorHandler = Callable[[Request, Exception], Awaitable[Response]]


class FastPathRoute(APIRoute):
    """A route whose endpoint is ``(request, **path parameters) → Response``, all path parameters being strings."""


class FastPathMiddleware:
    """ASGI middleware that answers requests for fast-path routes and passes all others on.

    Args:
        app: The application that answers all other requests.
        routes: Routes of which the :class:`FastPathRoute` ones are answered here.
        handle_error: Turns an endpoint's exception into a response.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], handle_error: ErrorHandler) -> None:
        self._app = app
        self._routes = [route for route in routes if isinstance(route, FastPathRoute)]
        self._handle_error = handle_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        match = self._match(scope) if scope["type"] == "http" else None
        if match is None:
            await self._app(scope, receive, send)
            return
        route, parameters = match
        scope["route"] = route
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request, **parameters)
        except Exception as error:
            await (await self._handle_error(request, error))(scope, receive, send)
            if not isinstance(error, HTTPException):  # an unexpected error goes to the log as well
                raise
        else:
            await response(scope, receive, send)

    def _match(self, scope: Scope) -> tuple[FastPathRoute, dict[str, Any]] | None:
        """The route of a request with the parameters in its path; None if no fast-path route matches."""
        for route in self._routes:
            if scope["method"] in (route.methods or ()) and (match := route.path_regex.match(scope["path"])):
                return route, match.groupdict()
        return None
