"""Routes that FastAPI describes and that are answered without what FastAPI and Starlette do around an endpoint.

Matching, middlewares, dependencies and stacks of what they opened take longer than all else that a request of one text
costs beside the model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from string import Formatter
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, request_response

from amalgam_edge.serving.guard import App, Receive, Send

Told = Callable[[Request, Exception], Awaitable[Response]]


class PlainRoute(APIRoute):
    """An endpoint ``(request, **path parameters) → Response``; all its parameters are strings."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)

        async def answer(request: Request) -> Response:
            return await self.endpoint(request, **request.path_params)

        self.app = request_response(answer)


class PlainRoutes:
    """An ASGI application before another one, which answers what a look-up of the path finds.

    Args:
        app: that all other requests go to, those for plain routes of other parameters among them.
        routes: of which plain ones without parameters, or with ``{name}`` alone, are looked up.
        names: that ``{name}`` may be.
        told: what a request is told of an error that its endpoint raised.
    """

    def __init__(self, app: App, routes: Iterable[BaseRoute], names: Iterable[str], told: Told) -> None:
        self._app = app
        self._told = told
        self._found: dict[tuple[str, str], tuple[PlainRoute, dict[str, str]]] = {}
        names = [*names]
        for route in routes:
            if not isinstance(route, PlainRoute):
                continue
            fields = {field for _, field, _, _ in Formatter().parse(route.path) if field}
            for values in [{"name": name} for name in names] if fields else [{}]:
                if fields <= values.keys():
                    for method in route.methods or ():
                        self._found[method, route.path.format(**values)] = route, values

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        found = self._found.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], values = found
        request = Request(scope, receive)
        try:
            response = await found[0].endpoint(request, **values)
        except ClientDisconnect:
            return
        except Exception as error:  # those that nobody foresaw are told too, and then raised for the log
            response = await self._told(request, error)
            await response(scope, receive, send)
            if response.status_code == 500:
                raise
            return
        await response(scope, receive, send)
