# syntax=docker/dockerfile:1
# The three images for people with a registry:
#   docker build --target sidecar  -t REGISTRY/testimony-sidecar:VERSION .
#   docker build --target operator -t REGISTRY/testimony-operator:VERSION .
#   docker build --target cli      -t REGISTRY/testimony-cli:VERSION .
# `cargo xtask image` writes the same images without Docker.

FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake libcap2-bin && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
# A target triple of its own: build scripts and macros are linked dynamically, as they must be.
# The file capability is permitted only: with the effective bit, a container without NET_ADMIN could not start the binary.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --locked --release --target "$target" -p testimony-sidecar \
 && RUSTFLAGS="$RUSTFLAGS -C force-unwind-tables=no" \
    cargo build --locked --profile operator --target "$target" -p testimony-operator -p testimony-cli \
 && mkdir /out \
 && cp "target/$target/release/testimony-sidecar" "target/$target/operator/testimony-operator" \
       "target/$target/operator/testimony" /out/ \
 && setcap cap_net_admin+p /out/testimony-sidecar

FROM scratch AS sidecar
COPY --from=build /out/testimony-sidecar /testimony-sidecar
USER 62819:62820
ENTRYPOINT ["/testimony-sidecar"]

FROM scratch AS operator
COPY --from=build /out/testimony-operator /testimony-operator
USER 65532:65532
ENTRYPOINT ["/testimony-operator"]

FROM scratch AS cli
COPY --from=build /out/testimony /testimony
USER 65532:65532
ENTRYPOINT ["/testimony"]
