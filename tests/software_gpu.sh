#!/bin/sh
# Runs tests/test_gpu.py on a GPU that the CPU plays: SwiftShader, of Debian's chromium-common. Nothing is installed; the
# packages are unpacked into .software-gpu. Further arguments go to pytest, another PYTHON may be given.
set -eu
cd "$(dirname "$0")/.."
drivers="$PWD/.software-gpu"
if [ ! -e "$drivers/usr/lib/chromium/vk_swiftshader_icd.json" ]; then
    packages="$(mktemp -d)"
    (cd "$packages" && apt-get download chromium-common libvulkan1)
    for package in "$packages"/*.deb; do dpkg -x "$package" "$drivers"; done
    rm -r "$packages"
fi
export VK_ICD_FILENAMES="$drivers/usr/lib/chromium/vk_swiftshader_icd.json"
export LD_LIBRARY_PATH="$(dirname "$(find "$drivers/usr/lib" -path '*-linux-gnu*/libvulkan.so.1')")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "${PYTHON:-.venv/bin/python}" -m pytest tests/test_gpu.py -m "slow or not slow" "$@"
