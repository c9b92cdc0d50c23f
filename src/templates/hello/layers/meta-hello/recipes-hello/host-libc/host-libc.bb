# SPDX-License-Identifier: MIT OR Apache-2.0

SUMMARY = "The build host's C library and dynamic loader, copied"
DESCRIPTION = "hello is linked dynamically, so the image needs the very C library that the compiler linked it with. \
A real project would build its own; this one copies two files of the build host."
LICENSE = "LGPL-2.1-or-later"

# The version of the C library that runs BitBake, which is the build host's.
PV = "${@os.confstr('CS_GNU_LIBC_VERSION').split()[1]}"

inherit cc

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${libdir} ${D}/lib64
    install -m 0755 "$(${CC} -print-file-name=libc.so.6)" ${D}${libdir}/libc.so.6
    install -m 0755 "$(${CC} -print-file-name=ld-linux-x86-64.so.2)" ${D}/lib64/ld-linux-x86-64.so.2
}

# Nothing links with these copies: the compiler brings its own.
do_populate_sysroot[noexec] = "1"
