# The engram binary on a small Debian. Build: docker build -t engram .
FROM rust:1.95-bookworm AS builder
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake g++ libclang-dev libcurl4-openssl-dev libssl-dev pkg-config zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin engram && install -D target/release/engram /out/engram

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libcurl4 libssl3 libstdc++6 zlib1g \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data --create-home engram
COPY --from=builder /out/engram /usr/local/bin/engram
COPY LICENSE /usr/share/doc/engram/LICENSE
USER engram
WORKDIR /data
VOLUME /data
ENV ENGRAM_DATA=/data ENGRAM_HTTP=0.0.0.0:8099
EXPOSE 8099
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 CMD ["engram", "services"]
ENTRYPOINT ["engram"]
CMD ["up"]
