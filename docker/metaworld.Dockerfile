# The sandbox of Meta-World: Python, the benchmark, both OpenGL libraries that render offscreen, and our worker.
# Built by `lerobot-ops images build metaworld`, or by hand in the repository's root:
#   docker build -f docker/metaworld.Dockerfile -t lerobot-ops/metaworld .
# Where python:3.11 cannot be pulled, docker/make-base.sh makes a base from Debian packages.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS made
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 libopengl0 libgl1-mesa-dri libosmesa6 \
    && apt-get clean
# `host-*` are the certificates and pip settings of the machine that builds, where it has its own. This stage is left behind.
COPY docker/requirements/metaworld.txt docker/host-* /build/
RUN if [ -e /build/host-ca.crt ]; then export PIP_CERT=/build/host-ca.crt SSL_CERT_FILE=/build/host-ca.crt; fi \
    && if [ -e /build/host-pip.conf ]; then export PIP_CONFIG_FILE=/build/host-pip.conf; fi \
    && python3 -m venv /opt/worker \
    && /opt/worker/bin/pip install --quiet --no-cache-dir --no-deps --only-binary=:all: -r /build/metaworld.txt \
    && /opt/worker/bin/pip uninstall --quiet -y pip setuptools
# Nothing that the worker does not need, no way to become another user, and nothing of the machine that built it.
RUN find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
    && rm -rf /build /root/.cache /var/lib/apt/lists /var/cache/apt /var/cache/debconf /var/log /etc/apt \
        /etc/ssl /usr/share/ca-certificates /usr/local/share/ca-certificates \
        /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info

FROM scratch
COPY --from=made / /
COPY lerobot_ops/__init__.py lerobot_ops/errors.py /opt/guest/lerobot_ops/
COPY lerobot_ops/envs/*.py /opt/guest/lerobot_ops/envs/
COPY lerobot_ops/evaluation/__init__.py lerobot_ops/evaluation/protocol.py lerobot_ops/evaluation/worker.py \
    /opt/guest/lerobot_ops/evaluation/
ENV PATH=/opt/worker/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 HOME=/tmp \
    PYTHONPATH=/opt/guest PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 LP_NUM_THREADS=1
WORKDIR /tmp
USER 65534:65534
ENTRYPOINT ["python", "-s", "-P", "-m", "lerobot_ops.evaluation.worker"]
