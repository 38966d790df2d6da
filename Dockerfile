# One image for every process; compose.yaml and k8s/ say which command each container runs.

FROM python:3.13-slim AS build
# A virtual environment, since it can be copied whole; without pip, which nothing needs at run time.
RUN python -m venv --without-pip /venv
# --build-arg REQUIREMENTS=gevent: an image that can run workers with --pool gevent.
ARG REQUIREMENTS=runtime
COPY requirements/${REQUIREMENTS}.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv/bin/python install --require-hashes --only-binary :all: -r /tmp/requirements.txt
COPY api /app/api
COPY scheduler /app/scheduler
COPY shared /app/shared
COPY worker /app/worker
COPY pyproject.toml /app/pyproject.toml
# The root file system is read-only later, so what Python would cache is made here.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Invigil" \
      org.opencontainers.image.description="Timed exams and background tasks: API, workers and scheduler" \
      org.opencontainers.image.licenses="MIT"
# A new named volume takes owner and mode from the folder it is mounted on.
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/invigil /run/invigil \
 && install -d -o 10001 -g 10001 -m 0770 /run/redis
COPY --from=build /venv /venv
COPY --from=build /app /app
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001
CMD ["gunicorn", "-c", "api/gunicorn.conf.py", "api.asgi:app"]
