#!/usr/bin/env bash
# Build the Dockerfile on a Debian machine without a Docker engine and without access to a registry of images.
#
#   deploy/build_without_docker.sh [IMAGE] [further options of buildah build]
#
# IMAGE is momentum-rnn by default. The script needs root and Debian's packages buildah and debootstrap. podman and runc
# run the image. debootstrap makes the base image, Debian with Python, once; the Dockerfile gets it as BASE_IMAGE. buildah
# runs the steps in a chroot. Environment variables:
#
#   DEBIAN_MIRROR   source of debootstrap's packages; default: https://deb.debian.org/debian
#   DEBIAN_SUITE    default: bookworm
#   PIP_CONF        a pip.conf (mirror, proxy), passed to the build as a secret; default: /etc/pip.conf if it exists
#   CA_BUNDLE       certificates to trust during the build instead of Debian's
set -euo pipefail
cd "$(dirname "$0")/.."

image=${1:-momentum-rnn}
shift || true
suite=${DEBIAN_SUITE:-bookworm}
base=localhost/debian-python:$suite
pip_conf=${PIP_CONF:-/etc/pip.conf}

for program in buildah debootstrap; do
    if ! command -v "$program" > /dev/null; then
        echo "$0: $program is not installed. Run: apt-get install buildah debootstrap" >&2
        exit 2
    fi
done
if [ "$(id -u)" != 0 ]; then
    echo "$0: the user must be root, got user $(id -u). debootstrap and the chroot need it" >&2
    exit 2
fi

if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        "$suite" "$root/debian" "${DEBIAN_MIRROR:-https://deb.debian.org/debian}"
    rm -rf "$root"/debian/var/cache/apt/* "$root"/debian/var/lib/apt/lists/*
    tar --directory "$root/debian" --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' \
        --create --file "$root/debian.tar" .
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$root/debian.tar" / > /dev/null
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
    buildah commit --quiet --rm --format docker "$container" "$base" > /dev/null
    rm -rf "$root"
fi

options=(--isolation chroot --network host --pull=never --format docker --layers --build-arg "BASE_IMAGE=$base")
[ -f "$pip_conf" ] && options+=(--secret "id=pip,src=$pip_conf")
[ -n "${CA_BUNDLE:-}" ] && options+=(--volume "$CA_BUNDLE:/etc/ssl/certs/ca-certificates.crt:ro")
buildah build "${options[@]}" --tag "$image" "$@" .
buildah images "$image"
