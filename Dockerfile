# An image with the package and its tested dependencies.
#
#     docker build -t mmssl_ext .
#     docker run --rm -v "$PWD/photos:/photos" -v "$PWD/runs:/runs" mmssl_ext \
#         pretrain /photos --out /runs/photos
#
# With a GPU (and `docker run --gpus all --shm-size 8g`), on a base that has CUDA:
#
#     docker build -t mmssl_ext:cuda --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 .
ARG BASE=python:3.11-slim
FROM ${BASE}

RUN command -v python3 && python3 -m venv --help >/dev/null 2>&1 \
    || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv; }

WORKDIR /opt/mmssl_ext
COPY requirements requirements
COPY mmssl_ext mmssl_ext
COPY configs configs
COPY tools tools
COPY setup.cfg setup.py pyproject.toml README.md LICENSE MANIFEST.in model-index.yml ./

RUN python3 -m venv /opt/venv
RUN /opt/venv/bin/python -m pip install --no-cache-dir -c requirements/pinned.txt torch torchvision
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-deps -r requirements/pinned.txt
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .
RUN /opt/venv/bin/python -m mmssl_ext check-env

ENV PATH=/opt/venv/bin:$PATH
WORKDIR /
ENTRYPOINT ["mmssl-ext"]
CMD ["--help"]
