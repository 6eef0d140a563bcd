# The image of every service in compose.yaml: workers and the dashboard alike. Built from a checkout: docker build -t autotune .
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
# Extras to install; the heavy ones (flower, hf) are left out. See docs/install.md for all of them.
ARG EXTRAS=dashboard,gpu-tables,mlflow,optuna-dashboard,parquet,postgres,samplers,tensorboard
# An index of PyTorch's CPU builds. With it the image needs no CUDA libraries, which are several gigabytes.
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/autotune
ENV PATH=/opt/autotune/bin:$PATH
COPY constraints.txt /tmp/constraints.txt
# torch on its own: the layer is kept while the sources change.
RUN pip install -c /tmp/constraints.txt torch
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY autotune autotune
COPY dashboard dashboard
COPY evaluators evaluators
COPY search_spaces search_spaces
RUN pip install -c /tmp/constraints.txt ".[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
# Debian packages beside Python: chromium where pictures are to be written as files.
ARG PACKAGES=
RUN if [ -n "$PACKAGES" ]; then \
        apt-get update && apt-get install -y --no-install-recommends $PACKAGES && rm -rf /var/lib/apt/lists/*; \
    fi
RUN useradd --create-home --uid 1000 autotune \
    && install -d -o autotune -g autotune /work && install -d -m 1777 /var/lib/autotune
COPY --from=build /opt/autotune /opt/autotune
ENV PATH=/opt/autotune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AUTOTUNE_CACHE_DIR=/var/lib/autotune \
    NUMBA_CACHE_DIR=/var/lib/autotune/numba
USER autotune
WORKDIR /work
EXPOSE 8501
# As Ctrl-C: a search keeps every finished trial, and the dashboard ends its server.
STOPSIGNAL SIGINT
# Of the dashboard, which is what the image runs unless told otherwise; compose.yaml turns it off for workers.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]
ENTRYPOINT ["autotune"]
CMD ["dashboard", "--host", "0.0.0.0"]
