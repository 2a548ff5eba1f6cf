# The service, its task worker and its migrations in one image: docs/deployment.md.
#
# A tag without the last digit: `docker build --pull` brings Python's and Debian's security fixes.
FROM docker.io/library/python:3.11-slim-bookworm AS python

FROM python AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
RUN python -m venv /opt/venv
COPY requirements.txt /tmp/
# Nothing is built: a package without a wheel for this platform stops here.
RUN /opt/venv/bin/python -m pip install --require-hashes --only-binary=:all: --no-compile \
    --requirement /tmp/requirements.txt
# Before the rest of the code, so that a change of it does not fetch the weights again.
COPY scripts/make_model scripts/make_model
COPY app/clients/local/weights.sha256 app/clients/local/weights.sha256
RUN /opt/venv/bin/python -m scripts.make_model \
    && rm -rf scripts \
    && /opt/venv/bin/python -m pip uninstall --yes pip setuptools
COPY LICENSE gunicorn_config.py ./
COPY sql sql
COPY app app
# The root file system may be read-only, so bytecode is written now. Not by the times of the files, which copying from
# stage to stage may round: each process would compile again what it imports. -f: pip and make_model have written some.
# Ours is compared with its source, so that a file which an image of yours replaces is the one that runs.
RUN /opt/venv/bin/python -m compileall -f -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib \
    && /opt/venv/bin/python -m compileall -f -q -j 0 --invalidation-mode checked-hash app sql gunicorn_config.py

FROM python
# A number of its own, since Kubernetes' runAsNonRoot looks at numbers only. pip has done its work. Python's own modules
# come without bytecode in this image; a file among them that is no Python is skipped.
RUN groupadd --gid 10001 classifier \
    && useradd --uid 10001 --gid classifier --home-dir /data --no-create-home --shell /usr/sbin/nologin classifier \
    && install --directory --owner classifier --group classifier /data \
    && python -m pip uninstall --yes --no-cache-dir pip setuptools wheel \
    && { python -m compileall -f -q -j 0 --invalidation-mode unchecked-hash \
        "$(python -c 'import os; print(os.path.dirname(os.__file__))')" || true; }
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/data
WORKDIR /app
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 CMD ["python", "-m", "app.runtime.healthcheck"]
CMD ["gunicorn", "-c", "gunicorn_config.py", "app.main:app"]
