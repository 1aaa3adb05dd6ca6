# For the CPU: `docker build -t art-sensreg .`, then `docker run --rm art-sensreg` does what `make bench` does, and
# `docker run --rm -v "$PWD/results:/art_sensreg/results" art-sensreg art-sensreg bench --defences none,sr+jr` another run.
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /art_sensreg
# The CPU build of torch, as in CI: the default one brings several GB of CUDA libraries.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu PIP_NO_CACHE_DIR=1 PATH=/art_sensreg/.venv/bin:$PATH
COPY . .
RUN make .venv/installed
CMD ["make", "bench"]
