"""What answers over HTTP: one BentoML service per task, and the gateway that holds them all behind one port.

Importing this package switches BentoML's usage counter off: nothing leaves the machine.
"""

import os
import sys

os.environ["BENTOML_DO_NOT_TRACK"] = "True"
# `bentoml serve` asked before it imported us, and remembers the answer.
if (_usage := sys.modules.get("bentoml._internal.utils.analytics.usage_stats")) is not None:
    _usage.do_not_track.cache_clear()
