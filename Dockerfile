# The relay, alone: docker build -t lockstep-relay . && docker run --rm lockstep-relay version
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/relay ./cmd/relay

# CA certificates, time zones and a user without rights; no shell.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/relay /usr/bin/relay
USER nonroot:nonroot
ENTRYPOINT ["/usr/bin/relay"]
CMD ["run"]
