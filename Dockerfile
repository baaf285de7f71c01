# syntax=docker/dockerfile:1
FROM rust:1.95.0-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libssl-dev make pkg-config && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# PROFILE=dev builds in about ten minutes on two cores; production in about half an hour.
ARG PROFILE=production
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --profile "$PROFILE" && \
    cp "target/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")/fleetscore" /usr/local/bin/fleetscore

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g && \
    rm -rf /var/lib/apt/lists/* && useradd --system --create-home --home-dir /var/lib/fleetscore fleetscore
COPY --from=build /usr/local/bin/fleetscore /usr/local/bin/fleetscore
COPY deploy/healthcheck.sh /usr/local/bin/healthcheck
USER fleetscore
WORKDIR /var/lib/fleetscore
ENV FLEETSCORE_HTTP=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["healthcheck"]
ENTRYPOINT ["fleetscore"]
CMD ["up"]
