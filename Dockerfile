FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --create-home --uid 10001 thoughtgear

COPY pyproject.toml README.md LICENSE /src/
COPY thoughtgear /src/thoughtgear
RUN pip install '/src[postgres,codec,uvloop]' && rm -r /src

WORKDIR /app
COPY examples /app/examples
USER thoughtgear

ENTRYPOINT ["thoughtgear"]
CMD ["--help"]
