"""All tasks behind one port. A new task is a file like `services.tagger` and one more base class here."""

from __future__ import annotations

import bentoml

from services.segmenter import SegmenterEndpoints
from services.separator import SeparatorEndpoints
from services.service import ConvoyService
from services.settings import service_config
from services.tagger import TaggerEndpoints


class GatewayEndpoints(TaggerEndpoints, SeparatorEndpoints, SegmenterEndpoints):
    """Every task's endpoints, found by BentoML on the base classes."""


Gateway = bentoml.service(name="convoy", service_class=ConvoyService, **service_config())(GatewayEndpoints)
