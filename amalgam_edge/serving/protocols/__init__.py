"""The HTTP protocols that clients can use, one module each.

In: requests with texts. Out: the models' labels and scores, in the protocol's own format.

To add a protocol, write a module here with a function ``create_router(models, limits)`` that returns its routes, and
add that function to :data:`PROTOCOLS`. Its endpoints call :mod:`amalgam_edge.serving.request_handling` to find the
model, read the body and run the texts. A route of class :class:`amalgam_edge.serving.fast_path.FastPathRoute` is
answered with less overhead.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.models import ModelRegistry
from amalgam_edge.serving.protocols import hugging_face, open_inference

CreateRouter = Callable[[ModelRegistry, Limits], APIRouter]

# What the application mounts, in the order of the API's description.
PROTOCOLS: tuple[CreateRouter, ...] = (hugging_face.create_router, open_inference.create_router)
