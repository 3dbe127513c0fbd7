"""``/health`` for whatever starts servers, ``/metrics`` for Prometheus, ``/info`` for people."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi import APIRouter, HTTPException, Response

from amalgam_edge import __version__
from amalgam_edge.browser.site import describe_heads
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import CONTENT_TYPE, ServerMetrics
from amalgam_edge.serving.models import ModelRegistry
from amalgam_edge.serving.request_handling import find_model


def monitoring_router(models: ModelRegistry, limits: Limits, metrics: ServerMetrics) -> APIRouter:
    """The routes ``/health``, ``/metrics`` and ``/info``; metrics include each model's queue from now on."""
    for name in models.names:
        metrics.watch_queue(name, partial(_n_queued, models, name))
    router = APIRouter(tags=["monitoring"])

    @router.get("/health")
    async def read_health() -> dict[str, str]:
        """Whether all models are loaded and answer."""
        if models.fault:
            raise HTTPException(503, models.fault, {"retry-after": "1"})
        return {"status": "ok"}

    @router.get("/metrics", response_class=Response)
    async def read_metrics() -> Response:
        """Counters and histograms, for Prometheus."""
        return Response(metrics.exposition(), headers={"content-type": CONTENT_TYPE})

    @router.get("/info")
    async def read_info() -> dict[str, Any]:
        """The models that are served, and the limits."""
        return {
            "version": __version__,
            "models": [_model_info(models, name) for name in models.names],
            "limits": asdict(limits),
        }

    return router


def _model_info(models: ModelRegistry, name: str) -> dict[str, Any]:
    model = find_model(models, name)
    return {
        "name": name,
        "version": model.version,
        "labels": [*model.labels],
        "precision": model.classifier.precision,
        "max_length": model.classifier.max_length,
        **describe_heads(model.heads),
        "fault": model.fault,
        "reload_error": models.reload_error(name),
    }


def _n_queued(models: ModelRegistry, name: str) -> int:
    model = models.get(name)
    return model.n_queued if model else 0
