"""Files in, files out: ten thousand of them on a laptop or a cluster, none lost and none done twice.

    from services.batch import Cluster, run

    for record in run("separate", ["s3://talks/2026"], "voices", bundles=["pretrained/separator-2speakers"]):
        print(record.input, record.status, record.outputs)

`sources` says what there is to do, `work` does one item, `local` and `cluster` do all, `records` and `storage` keep what became
of them, and `runs` puts these together.
"""

from services.batch.cluster import Cluster
from services.batch.records import Record
from services.batch.runs import Plan, Run, plan, run

__all__ = ["Cluster", "Plan", "Record", "Run", "plan", "run"]
