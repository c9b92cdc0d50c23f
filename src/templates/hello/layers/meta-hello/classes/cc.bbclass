# SPDX-License-Identifier: MIT OR Apache-2.0
#
# A program or library in C, built by its Makefile with the build host's compiler, against the recipe's sysroot only
# as far as this project's own libraries go.

CC = "gcc"
AR = "ar"
CPPFLAGS = "-I${RECIPE_SYSROOT}${includedir}"
CFLAGS = "-O2 -Wall -Wextra -Werror -ffile-prefix-map=${WORKDIR}=/usr/src/${P}"
LDFLAGS = "-L${RECIPE_SYSROOT}${libdir} -Wl,--build-id=none -Wl,-rpath-link,${RECIPE_SYSROOT}${libdir}"

# Each library or program takes its version from here.
do_configure() {
    {
        echo "/* Made by do_configure. */"
        echo "#define PACKAGE_VERSION \"${PV}\""
    } > config.h
    ${CC} --version
}

run_make() {
    make ${PARALLEL_MAKE} CC="${CC}" AR="${AR}" CPPFLAGS="${CPPFLAGS}" CFLAGS="${CFLAGS}" LDFLAGS="${LDFLAGS}" \
        prefix="${prefix}" bindir="${bindir}" libdir="${libdir}" includedir="${includedir}" "$@"
}

do_compile() {
    run_make
}

do_install() {
    run_make install DESTDIR="${D}"
}
