# SPDX-License-Identifier: MIT OR Apache-2.0

SUMMARY = "A root filesystem with hello in it"

inherit image

IMAGE_INSTALL = "hello"

# Each image is also a proof that its tasks had no network.
do_rootfs[depends] += "network-probe:do_probe"
