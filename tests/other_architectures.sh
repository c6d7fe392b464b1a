#!/usr/bin/env bash
# Runs tests/test_other_architectures.py: a bundle on aarch64 and on 32-bit ARM, both played by QEMU, and on this machine.
# Nothing is installed: packages of Debian 12 and wheels are unpacked into .other-architectures. The first argument is a
# bundle; without one the test makes a small one. Further arguments go to pytest; another PYTHON may be given, and a
# MIRROR of Debian where apt knows none of Debian 12.
set -euo pipefail
BUNDLE="${1:+$(realpath "$1")}"
shift $(($# > 0))
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-.venv/bin/python}"
machines="$PWD/.other-architectures"

debian() { # FOLDER ARCHITECTURE PACKAGE...: unpacks these and all that they need into FOLDER, once
    local folder="$machines/$1" apt="$machines/$1.apt" architecture="$2" package
    [ ! -e "$folder" ] || return 0
    if [ -z "${MIRROR:-}" ]; then
        MIRROR="$(apt-get update --print-uris | sed -n "s|^'\(.*\)/dists/bookworm/InRelease'.*|\1|p" | head -n 1)"
        [ "$MIRROR" ] || { echo "apt knows no mirror of Debian 12: give one as MIRROR" >&2; exit 1; }
    fi
    rm -rf "$folder.part" "$apt"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/status" # as if nothing were installed
    printf "deb $MIRROR %s main\n" bookworm bookworm-backports >"$apt/sources.list"
    cat >"$apt/apt.conf" <<END
APT { Architecture "$architecture"; Architectures "$architecture"; Sandbox::User "root"; };
Dir { State "$apt"; State::status "$apt/status"; Cache "$apt"; };
Dir::Etc { SourceList "$apt/sources.list"; SourceParts "-"; };
END
    apt-get -q -c "$apt/apt.conf" update
    apt-get -q -c "$apt/apt.conf" install --yes --no-install-recommends --download-only "${@:3}"
    for package in "$apt"/archives/*.deb; do dpkg -x "$package" "$folder.part"; done
    rm -r "$apt"
    mv "$folder.part" "$folder"
}

wheels() { # MACHINE ARGUMENT...: what pip would install there
    "$PYTHON" -m pip --disable-pip-version-check install --quiet --upgrade --target "$machines/$1/packages" \
        --python-version 3.11 --only-binary=:all: "--platform=manylinux_2_"{17..36}"_$1" "${@:2}"
}

launcher() { # MACHINE QEMU: writes its Python, and what that starts as sys.executable is this file again
    cat >"$machines/$1/python" <<END
#!/bin/sh
export PYTHONHOME="$machines/$1/root/usr" PYTHONPATH="\${PYTHONPATH:+\$PYTHONPATH:}$machines/$1/packages"
exec "$machines/qemu/usr/bin/$2" -L "$machines/$1/root" -0 "\$0" "\$PYTHONHOME/bin/python3.11" "\$@"
END
    chmod +x "$machines/$1/python"
}

debian qemu "$(dpkg --print-architecture)" qemu-user/bookworm-backports # Debian 12's own QEMU crashes in XNNPACK
debian aarch64/root arm64 python3 libstdc++6
debian armv7l/root armhf python3 python3-opencv # PyPI has neither OpenCV nor NumPy for it
ln -sf lapack/liblapack.so.3 blas/libblas.so.3 "$machines/armv7l/root/usr/lib/arm-linux-gnueabihf" # dpkg -x does not
launcher aarch64 qemu-aarch64
launcher armv7l qemu-arm

if [ ! "$machines/ready" -nt setup.py ]; then
    wheels aarch64 .
    wheels armv7l click pydantic rich
    wheels armv7l --no-deps tflite-runtime==2.14.0
    touch "$machines/ready"
fi
export BUNDLE
exec "$PYTHON" -m pytest tests/test_other_architectures.py -m "slow or not slow" -rPs "$@"
