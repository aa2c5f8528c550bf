# docker build -t engram . && docker run -d --name engram -v engram:/data engram && docker exec engram engram put work hello
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --prefix=/engram .

FROM python:3.13-slim
COPY --from=build /engram /usr/local
RUN useradd --system --uid 7411 --home-dir /data engram \
  && install --directory --owner engram --mode 0700 /data /run/engram
USER 7411
ENV ENGRAM_DATA_DIR=/data ENGRAM_SOCKET=/run/engram/engramd.sock
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=10s CMD ["engram", "daemon", "status"]
ENTRYPOINT ["engramd"]
