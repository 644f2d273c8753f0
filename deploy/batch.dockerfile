# A machine of a Ray cluster that works on batches: the same code and bundles as the gateway's image, and Ray beside them.
#
#   docker build -f deploy/batch.dockerfile -t convoy-batch .
#   docker run --rm -v /data:/data convoy-batch convoy separate /data/talks --out /data/voices
#
# deploy/kubernetes/batch.yaml starts a job on a cluster of them with KubeRay, which needs a shell and wget in its images.
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS packages
COPY requirements/batch.lock /batch.lock
# Wheels alone, each by its hash: nothing is built, so no compiler is needed.
RUN python -m venv --without-pip /opt/convoy \
    && python -m pip --python /opt/convoy/bin/python install --no-cache-dir --only-binary :all: --require-hashes -r /batch.lock

FROM ${PYTHON}
# Debian keeps the newest version of a package alone, so none can be pinned.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --home-dir /var/lib/convoy --shell /bin/bash convoy \
    && python -m pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel \
    && printf '#!/bin/sh\nexec python -m convoy "$@"\n' > /usr/local/bin/convoy && chmod 755 /usr/local/bin/convoy
COPY --from=packages /opt/convoy /opt/convoy
WORKDIR /convoy
COPY LICENSE convoy.py convoy_batch.py convoy_options.py ./
COPY models models
COPY services services
COPY pretrained pretrained
ENV PATH=/opt/convoy/bin:$PATH PYTHONPATH=/convoy \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    BENTOML_DO_NOT_TRACK=True BENTOML_HOME=/tmp/bentoml RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["convoy", "--help"]
