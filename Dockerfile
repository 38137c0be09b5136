# docker build -t crysmetrics .
# docker run --rm -v "$PWD":/work crysmetrics crysmetrics evaluate samples/ mp20-test-bt -o results/
FROM python:3.11-slim

# Arguments of pip, such as the index of a PyTorch build for CPUs.
ARG PIP_ARGS=""

COPY . /source
RUN pip install --no-cache-dir ${PIP_ARGS} -c /source/constraints.txt "/source[torch,relax]" \
    && rm -rf /source

# Compiled kernels and features are kept here: mount a volume to keep them between runs.
ENV CRYSMETRICS_CACHE=/cache
VOLUME /cache
WORKDIR /work
CMD ["crysmetrics", "--help"]
