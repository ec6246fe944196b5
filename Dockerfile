# A static binary on nothing. Build:  docker build -t cleversocks .
# Run:  docker run -p 1080:1080 -v ./cleversocks.toml:/etc/cleversocks/cleversocks.toml:ro cleversocks
ARG GO_IMAGE=docker.io/library/golang:1.26
FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
ARG COMMIT=unknown
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=${VERSION} -X main.commit=${COMMIT}" \
    -o /out/usr/bin/cleversocks ./cmd/cleversocks \
 && mkdir -p /out/etc/ssl/certs /out/etc/cleversocks /out/var/lib/cleversocks /out/tmp /out/usr/share \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
 && cp "$(go env GOROOT)/lib/time/zoneinfo.zip" /out/usr/share/zoneinfo.zip \
 && cp dist/container/cleversocks.toml /out/etc/cleversocks/cleversocks.toml \
 && cp dist/container/passwd dist/container/group /out/etc/

FROM scratch
COPY --from=build --chown=0:0 /out/usr /usr
COPY --from=build --chown=0:0 /out/etc /etc
COPY --from=build --chown=65532:65532 /out/var/lib/cleversocks /var/lib/cleversocks
COPY --from=build --chown=65532:65532 /out/tmp /tmp
ENV ZONEINFO=/usr/share/zoneinfo.zip
USER 65532:65532
EXPOSE 1080
# docker stop gives 10 s, and Kubernetes 30: give it more than drain.timeout
# (25 s), or set that lower, as the configuration in this image does.
STOPSIGNAL SIGTERM
VOLUME ["/var/lib/cleversocks"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=2s CMD ["/usr/bin/cleversocks", "healthcheck", "--config", "/etc/cleversocks/cleversocks.toml"]
ENTRYPOINT ["/usr/bin/cleversocks"]
CMD ["--config", "/etc/cleversocks/cleversocks.toml"]
