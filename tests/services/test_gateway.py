"""The gateway holds every task's endpoints by inheritance."""

from __future__ import annotations

import services
from services.gateway import Gateway, GatewayEndpoints
from services.routes import extra_routes
from services.separator import SeparatorEndpoints, SeparatorService
from services.service import ConvoyService, TaskEndpoints
from services.settings import Settings
from services.tagger import TaggerEndpoints, TaggerService


def tasks() -> list[type[TaskEndpoints]]:
    return [kind for kind in TaskEndpoints.__subclasses__() if kind.__module__.startswith(f"{services.__name__}.")]


def test_it_inherits_from_every_task_and_has_all_their_routes():
    assert set(tasks()) <= set(GatewayEndpoints.__mro__)
    routes = {method.route for method in Gateway.apis.values()}
    assert routes >= {"/tag", "/separate"}
    calls = {f"/separate/{call}" for call in ("submit", "status", "get", "cancel", "stream")}
    assert {found.path for found in extra_routes(GatewayEndpoints)} >= calls


def test_a_task_can_be_served_alone():
    for service, endpoints, route in (
        (TaggerService, TaggerEndpoints, "/tag"),
        (SeparatorService, SeparatorEndpoints, "/separate"),
    ):
        assert service.inner is endpoints
        assert isinstance(service, ConvoyService)
        assert {method.route for method in service.apis.values()} == {route}


def test_limits_of_routes_come_from_their_tasks():
    limits = GatewayEndpoints.limits(Settings())
    assert limits["/separate"] == limits["/separate/submit"] == Settings().audio_limits
    assert "/tag" not in limits
