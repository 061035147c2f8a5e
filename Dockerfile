# JupyterLab with everything installed: docker build -t snetlib . && docker run --rm -p 127.0.0.1:8888:8888 snetlib
FROM python:3.11-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 student
WORKDIR /srv/snetlib
COPY --chown=student . .
RUN chown student . && su student -c "make install"
USER 1000
EXPOSE 8888
CMD [".venv/bin/jupyter", "lab", "--ip", "0.0.0.0", "--no-browser", "--notebook-dir", "nbs"]
