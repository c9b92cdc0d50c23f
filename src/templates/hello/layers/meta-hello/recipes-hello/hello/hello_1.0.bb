# SPDX-License-Identifier: MIT OR Apache-2.0

SUMMARY = "A C program that greets, with libgreet's help"
LICENSE = "MIT OR Apache-2.0"
LICENSE_FILES = "hello.c"

DEPENDS = "libgreet"
SRC_URI = "file://Makefile file://hello.c file://0001-Makefile-say-who-builds.patch"

inherit cc

RDEPENDS:${PN} = "libgreet host-libc"
