"""The gateway holds every task's endpoints by inheritance."""

from __future__ import annotations

import services
from services.gateway import Gateway, GatewayEndpoints
from services.service import ConvoyService, TaskEndpoints
from services.tagger import TaggerEndpoints, TaggerService


def tasks() -> list[type[TaskEndpoints]]:
    return [kind for kind in TaskEndpoints.__subclasses__() if kind.__module__.startswith(f"{services.__name__}.")]


def test_it_inherits_from_every_task_and_has_all_their_routes():
    assert set(tasks()) <= set(GatewayEndpoints.__mro__)
    routes = {method.route for method in Gateway.apis.values()}
    assert routes >= {"/tag"}


def test_a_task_can_be_served_alone():
    assert TaggerService.inner is TaggerEndpoints
    assert isinstance(TaggerService, ConvoyService)
    assert {method.route for method in TaggerService.apis.values()} == {"/tag"}


def test_the_description_can_be_made():
    description = Gateway.openapi_spec.asdict()
    schema = description["components"]["schemas"]["TagRequest"]
    assert schema["required"] == ["texts"]
    assert set(schema["properties"]) == {"texts", "model"}
