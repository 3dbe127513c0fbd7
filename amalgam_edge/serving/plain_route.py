"""A route that FastAPI describes and that is answered without what FastAPI does around an endpoint.

Resolving dependencies and keeping stacks of what they opened takes longer than all else that a request of one text
costs beside the model.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import request_response


class PlainRoute(APIRoute):
    """An endpoint ``(request, **path parameters) → Response``; all its parameters are strings."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)

        async def answer(request: Request) -> Response:
            return await self.endpoint(request, **request.path_params)

        self.app = request_response(answer)
