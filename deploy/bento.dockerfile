# What `bentoml containerize` builds from a bento (docker.dockerfile_template in bentofile.yaml): deploy/Dockerfile over the bento's
# own folder. BentoML's template has compilers, git and two package managers in what runs.
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS packages
COPY src/requirements/base.lock /base.lock
# Wheels alone, each by its hash: nothing is built, so no compiler is needed.
RUN python -m venv --without-pip /opt/convoy \
    && python -m pip --python /opt/convoy/bin/python install --no-cache-dir --only-binary :all: --require-hashes -r /base.lock

FROM ${PYTHON}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/convoy --shell /usr/sbin/nologin convoy \
    && install -d -o convoy -g convoy /var/lib/convoy /var/lib/convoy/jobs /var/lib/convoy/temporary \
    && python -m pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel
COPY --from=packages /opt/convoy /opt/convoy
WORKDIR /convoy
COPY . ./
# What is written lies in /var/lib/convoy (uploads and accepted tasks: a volume) and /tmp; all else may be read-only.
ENV PATH=/opt/convoy/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    BENTOML_DO_NOT_TRACK=True BENTOML_HOME=/tmp/bentoml \
    CONVOY_JOBS=/var/lib/convoy/jobs CONVOY_TEMPORARY=/var/lib/convoy/temporary CONVOY_LOG=json \
    CONVOY_SERVICE=/convoy
VOLUME /var/lib/convoy
USER 10001:10001
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
CMD ["sh", "-c", "exec bentoml serve \"$CONVOY_SERVICE\" --host 0.0.0.0 --port 3000"]
