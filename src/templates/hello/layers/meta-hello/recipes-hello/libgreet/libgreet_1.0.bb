# SPDX-License-Identifier: MIT OR Apache-2.0

SUMMARY = "A C library that greets"
LICENSE = "MIT OR Apache-2.0"
LICENSE_FILES = "greet.h"

SRC_URI = "file://Makefile file://greet.c file://greet.h"

inherit cc

RDEPENDS:${PN} = "host-libc"
