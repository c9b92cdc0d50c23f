# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Every recipe's tasks: fetch, unpack, patch, configure, compile, install, populate_sysroot, package, build.

addtask listtasks
do_listtasks[nostamp] = "1"
python do_listtasks() {
    tasks = sorted(key for key in d.keys() if d.getVarFlag(key, "task", False))
    width = max(len(task) for task in tasks)
    for task in tasks:
        bb.plain(("%s  %s" % (task.ljust(width), d.getVarFlag(task, "doc") or "")).rstrip())
}
do_listtasks[doc] = "List the tasks of this recipe"

addtask clean
do_clean[nostamp] = "1"
do_clean[doc] = "Remove what was built"
python do_clean() {
    # The folder of this task's own log stays.
    workdir, logs = d.getVar("WORKDIR"), os.path.basename(d.getVar("T"))
    for name in os.listdir(workdir):
        if name != logs:
            bb.utils.remove(os.path.join(workdir, name), recurse=True)
    for folder in ("SYSROOT_COMPONENTS", "PACKAGES_DIR"):
        bb.utils.remove(os.path.join(d.getVar(folder), d.getVar("PN")), recurse=True)
    bb.utils.remove(d.getVar("STAMP") + ".*")
}

addtask cleanall after do_clean
do_cleanall[nostamp] = "1"
do_cleanall[doc] = "Remove what was built and what was downloaded"
python do_cleanall() {
    bb.fetch2.Fetch(d.getVar("SRC_URI").split(), d).clean()
}

addtask fetch
do_fetch[dirs] = "${DL_DIR}"
do_fetch[network] = "1"
do_fetch[file-checksums] = "${@bb.fetch.get_checksum_file_list(d)}"
do_fetch[vardeps] += "SRC_URI"
do_fetch[doc] = "Download the sources"
python do_fetch() {
    bb.fetch2.Fetch(d.getVar("SRC_URI").split(), d).download()
}

addtask unpack after do_fetch
do_unpack[cleandirs] = "${S}"
do_unpack[doc] = "Put the sources in place"
python do_unpack() {
    bb.fetch2.Fetch(d.getVar("SRC_URI").split(), d).unpack(d.getVar("S"))
}

addtask patch after do_unpack
do_patch[dirs] = "${S}"
do_patch[doc] = "Apply the patches among the sources"
do_patch() {
    for patch in *.patch; do
        [ -e "$patch" ] || continue
        echo "Applying $patch"
        patch --batch --fuzz=0 -p1 < "$patch"
    done
}

addtask prepare_sysroot after do_patch
do_prepare_sysroot[deptask] = "do_populate_sysroot"
do_prepare_sysroot[cleandirs] = "${RECIPE_SYSROOT}"
do_prepare_sysroot[doc] = "Collect headers and libraries of all that this recipe depends on"
python do_prepare_sysroot() {
    import shutil
    for recipe in dependencies(d):
        bb.note("Taking the files of %s" % recipe)
        component = os.path.join(d.getVar("SYSROOT_COMPONENTS"), recipe)
        shutil.copytree(component, d.getVar("RECIPE_SYSROOT"), symlinks=True, dirs_exist_ok=True)
}

def dependencies(d):
    """Recipes whose do_populate_sysroot this task comes after, those behind them included."""
    return sorted({entry[0] for entry in d.getVar("BB_TASKDEPDATA", False).values()
                   if entry[1] == "do_populate_sysroot"})

addtask configure after do_prepare_sysroot
do_configure[dirs] = "${B}"
do_configure() {
    :
}

addtask compile after do_configure
do_compile[dirs] = "${B}"
do_compile() {
    :
}

addtask install after do_compile
do_install[dirs] = "${B}"
do_install[cleandirs] = "${D}"
do_install[umask] = "022"
do_install() {
    :
}

addtask populate_sysroot after do_install
do_populate_sysroot[cleandirs] = "${SYSROOT_COMPONENTS}/${PN}"
do_populate_sysroot[doc] = "Offer headers and libraries to the recipes that depend on this one"
python do_populate_sysroot() {
    import shutil
    for name in ("includedir", "libdir"):
        source = d.expand("${D}${%s}" % name)
        if os.path.isdir(source):
            shutil.copytree(source, d.expand("${SYSROOT_COMPONENTS}/${PN}${%s}" % name), symlinks=True)
}

addtask build after do_populate_sysroot
do_build[noexec] = "1"
do_build[doc] = "Do all that a build of this recipe means"
do_build() {
    :
}

