# syntax=docker/dockerfile:1
# The image of the program. docs/clusters.md says how to build and run it.
#
# The base is Python on Debian, not a CUDA image, because torch's wheels contain CUDA, cuDNN and NCCL. A second copy in
# the base would add several GB that nothing loads. The host provides the driver. Debian 12 has Python 3.11 too, so a
# base made of Debian's packages (deploy/build_without_docker.sh) gets the same wheels.
ARG BASE_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS requirements
ARG EXTRAS="onnx parquet"
WORKDIR /build
COPY pyproject.toml .
RUN python3 -c "import sys, tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *(r for extra in sys.argv[1:] for r in project['optional-dependencies'][extra]), sep='\n')" \
    ${EXTRAS} > requirements.txt

# This stage is rebuilt only if requirements.txt or constraints.txt changes, not for each edit of the sources.
FROM ${BASE_IMAGE} AS dependencies
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH}
WORKDIR /build
COPY --from=requirements /build/requirements.txt .
COPY deploy/constraints.txt .
# A further index with torch's wheels, such as https://download.pytorch.org/whl/cpu. pip prefers its 2.x.y+cpu to the
# 2.x.y of PyPI. Empty: the wheels of PyPI, with CUDA.
ARG TORCH_INDEX=""
# The secret is a pip.conf (proxy, mirror). It is optional, and never becomes part of a layer.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} --constraint constraints.txt \
    --requirement requirements.txt

FROM ${BASE_IMAGE} AS wheel
WORKDIR /build
COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip wheel --no-deps --wheel-dir /wheel .

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="momentum-rnn" \
    org.opencontainers.image.description="Train and fairly compare recurrent cells" \
    org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 1000 app \
    && useradd --uid 1000 --gid app --home-dir /tmp --no-create-home --shell /usr/sbin/nologin app \
    && install --directory --owner app --group app /work /work/runs /work/data
COPY --from=dependencies /opt/venv /opt/venv
# HOME is for caches only. Besides the volumes, only /tmp needs to be writable.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --chmod=755 deploy/start_or_resume.sh /usr/local/bin/start-or-resume
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --no-index --no-deps /wheel/*.whl && pip check
USER 1000:1000
WORKDIR /work
VOLUME ["/work/data", "/work/runs"]
# No HEALTHCHECK: a training is a job that ends with an exit status.
ENTRYPOINT ["python", "-m", "app"]
CMD ["--help"]
