# Stages with a world, where Isaac Sim's Kit lives: the image that ZPRL_CONTAINER names (docs/isaac-sim.md).
#
# Never built by this repository's tests: the base is NVIDIA's, behind its licence, and wants an RTX GPU.  From the repository's root:
#
#   docker build -f infra/docker/isaacsim.Dockerfile --build-arg ISAACLAB=<NVIDIA's image of Isaac Lab 3.0> -t zprl-isaacsim .
#
# Name the base by digest (image@sha256:...) where it must not change under you.
# Neither Prefect nor DVC nor MLflow is in it.  The code that runs is the project's own, mounted; what is installed here is what it needs,
# and the names of its tasks (entry points): build anew after adding one.
ARG ISAACLAB
FROM ${ISAACLAB}

USER root
# Isaac Sim's Python is a script that sets its paths first.
RUN printf '#!/bin/sh\nexec /isaac-sim/python.sh "$@"\n' > /usr/local/bin/python && chmod 755 /usr/local/bin/python
# The engine `isaacsim` needs both, and only NVIDIA's image brings both: from PyPI they exclude each other.
RUN python -c "from importlib.util import find_spec; assert find_spec('isaacsim') and find_spec('isaaclab'), 'this is not an image of Isaac Lab'"
COPY infra/docker/isaacsim.txt /tmp/isaacsim.txt
RUN python -m pip install --no-cache-dir -r /tmp/isaacsim.txt
COPY pyproject.toml README.md /opt/zprl/
COPY zprl /opt/zprl/zprl
COPY pipelines /opt/zprl/pipelines
RUN python -m pip install --no-cache-dir --no-deps /opt/zprl
ENTRYPOINT []
CMD ["python", "--version"]
