# understudy on a node of a cluster. The code of a job is sent with the job; this image has the packages that it needs.
#
#   docker build -t understudy:cpu .
#   docker build -t understudy:cuda --build-arg DEVICE=cuda .
#
# The CUDA build of torch brings CUDA's libraries itself: the node needs NVIDIA's driver and container toolkit, no more.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG DEVICE=cpu
ARG EXTRAS=envs
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN case "$DEVICE" in cpu|cuda) ;; *) echo "DEVICE=$DEVICE: allowed are cpu, cuda" >&2; exit 2;; esac
RUN python -m venv /opt/understudy
ENV PATH=/opt/understudy/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The packages first: they change seldom.
COPY constraints.txt ./
RUN index=https://download.pytorch.org/whl/cpu; [ "$DEVICE" = cpu ] || index=https://pypi.org/simple; \
    pip install -c constraints.txt --index-url "$index" --extra-index-url https://pypi.org/simple torch
COPY pyproject.toml README.md LICENSE ./
COPY platform platform
COPY envs envs
COPY trainables trainables
COPY search_spaces search_spaces
COPY cluster cluster
COPY dashboards dashboards
RUN pip install -c constraints.txt ".[$EXTRAS]"

FROM python:${PYTHON}-slim-bookworm
# Software GL draws videos without a screen; Ray's launchers and KubeRay's probes use the rest.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libegl1 libopengl0 libgl1-mesa-dri openssh-client procps rsync wget \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/understudy /opt/understudy
RUN useradd --create-home --uid 1000 understudy
USER understudy
WORKDIR /home/understudy
ENV PATH=/opt/understudy/bin:$PATH MUJOCO_GL=egl RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
CMD ["understudy", "doctor"]
