#!/bin/bash
# Runs edgebcnn on a real V4L2 camera: the kernel's vivid, in a virtual machine of one core and 1 GB.
#
#     bash tests/v4l2_camera.sh BUNDLE
#
# For x86-64 with Debian 12 or newer. Nothing is installed: kernel, QEMU, udev and v4l-utils are unpacked into .v4l2-camera
# and kept there, beside an environment with the base package. The machine reads this one's files and writes none. What
# was seen comes as JSON on stdout; the exit code is 1 where something is wrong. PYTHON may name another python3.
set -euo pipefail

bundle="$(realpath -e -- "${1:?give the bundle that is to run}")"
cd "$(dirname "$0")/.."
cache="$PWD/.v4l2-camera"
layer="$cache/layer"
libraries="$layer/usr/lib/x86_64-linux-gnu"
mkdir -p "$cache"

unpack_packages() {
    local part="$cache/part" packages kernel each
    rm -rf "$part" && mkdir -p "$part"/usr/{bin,lib,lib64,sbin}
    for each in bin lib lib64 sbin; do ln -s "usr/$each" "$part/$each"; done
    kernel="$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p')"
    mapfile -t packages < <(apt-get -s install --no-install-recommends busybox-static qemu-system-x86 udev v4l-utils |
        awk '/^Inst/ { print $2 }')
    (cd "$part" && apt-get download "$kernel" "${packages[@]}" >&2)
    for each in "$part"/*.deb; do dpkg --fsys-tarfile "$each" | tar -x --keep-directory-symlink -C "$part"; done
    rm "$part"/*.deb
    PATH="$part/bin:$PATH" busybox depmod -b "$part" "$(basename "$part"/lib/modules/*)"
    mv "$part" "$layer"
}

make_environment() {
    "${PYTHON:-python3}" -m venv --clear "$cache/venv"
    touch "$cache/venv/.created"
}

# The first files that the kernel sees: they lay the packages over this machine's root, and go on there.
make_initrd() {
    local initrd="$cache/initrd" guest
    printf -v guest '%q ' "$cache/venv/bin/python" "$PWD/tests/v4l2_guest.py" "$bundle"
    rm -rf "$initrd" && mkdir -p "$initrd"/{bin,dev,host,layer,proc,root,rw,sys}
    cp "$(command -v busybox)" "$initrd/bin"
    (cd "$layer" && find lib/modules/ -regextype egrep -regex \
        '.*/(virtio|virtio_ring|virtio_pci\w*|netfs|fscache|9p|9pnet|9pnet_virtio|overlay)\.ko(\.xz)?' \
        -exec cp --parents -t "$initrd" {} +)
    "$initrd/bin/busybox" depmod -b "$initrd" "$kernel"
    cat >"$initrd/init" <<EOF
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev && mount -t proc proc /proc && mount -t sysfs sys /sys
modprobe -a virtio_pci 9pnet_virtio 9p overlay
for each in host layer; do
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose \$each /\$each
done
mount -t tmpfs rw /rw && mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/layer:/host,upperdir=/rw/upper,workdir=/rw/work overlay /root
for each in dev proc sys; do mount --move /\$each /root/\$each; done
mount -t tmpfs run /root/run
exec switch_root /root /bin/sh -c 'cd /run; /lib/systemd/systemd-udevd --daemon; $guest >/dev/ttyS1; busybox poweroff -f'
EOF
    chmod +x "$initrd/init"
    (cd "$initrd" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$cache/initrd.gz"
}

[ -e "$layer" ] || unpack_packages
[ -e "$cache/venv/.created" ] || make_environment
rm -rf build
"$cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check . >&2
export PATH="$layer/usr/bin:$PATH"
kernel="$(basename "$layer"/lib/modules/*)"
make_initrd

# There is a /dev/kvm without either of these that runs no kernel which does not know of it.
if [ -w /dev/kvm ] && { [ -d /sys/module/kvm_intel ] || [ -d /sys/module/kvm_amd ]; }; then
    processor=(-accel kvm -cpu host)
else
    # By this clock an instruction takes 4 ns: other work on this machine makes the run longer, not the camera late.
    processor=(-accel tcg -cpu max -icount shift=2)
fi
share=security_model=none,readonly=on,multidevs=remap
LD_LIBRARY_PATH="$libraries" QEMU_MODULE_DIR="$libraries/qemu" timeout --foreground 1h qemu-system-x86_64 \
    -L "$layer/usr/share/qemu" -L "$layer/usr/share/seabios" "${processor[@]}" -smp 1 -m 1G -nodefaults -display none \
    -no-reboot -kernel "$layer/boot/vmlinuz-$kernel" -initrd "$cache/initrd.gz" \
    -append "console=ttyS0 quiet panic=-1 accelerator=${processor[1]}" \
    -virtfs "local,path=/,mount_tag=host,$share" -virtfs "local,path=$layer,mount_tag=layer,$share" \
    -serial stdio -serial "file:$cache/seen.json" >&2 </dev/null
tr -d '\r' <"$cache/seen.json"
grep -q '"passed": true' "$cache/seen.json"
