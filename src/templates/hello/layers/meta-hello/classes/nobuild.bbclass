# SPDX-License-Identifier: MIT OR Apache-2.0
#
# A recipe that compiles and installs nothing, and has no packages.

PACKAGES = ""

deltask do_prepare_sysroot
deltask do_configure
deltask do_compile
deltask do_install
deltask do_populate_sysroot
deltask do_package
