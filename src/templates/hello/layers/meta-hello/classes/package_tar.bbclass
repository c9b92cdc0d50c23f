# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Packages: a tar of the files that FILES:NAME picks, and a JSON file with version, licence and runtime dependencies.

addtask package after do_install before do_build
do_package[cleandirs] = "${PACKAGES_DIR}/${PN}"
do_package[rdeptask] = "do_package"
do_package[vardeps] += "${@' '.join('FILES:%s RDEPENDS:%s' % (p, p) for p in d.getVar('PACKAGES').split())}"
do_package[doc] = "Divide what was installed into packages"
python do_package() {
    import json
    left = installed_files(d.getVar("D"))
    for package in d.getVar("PACKAGES").split():
        picked = [path for path in left if matches(path, (d.getVar("FILES:" + package) or "").split())]
        left = [path for path in left if path not in picked]
        if picked:
            target = d.expand("${PACKAGES_DIR}/${PN}/" + package)
            write_tar(target + ".tar", d.getVar("D"), picked, int(d.getVar("SOURCE_DATE_EPOCH")))
            with open(target + ".json", "w") as file:
                json.dump(describe(package, d), file, indent=1, sort_keys=True)
    if left:
        bb.fatal("Installed, but in no package: %s" % " ".join(left))
}

def installed_files(root):
    """Files and links under a folder, as paths that begin with a slash."""
    found = []
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        found += [os.path.join(folder, name)[len(root):] for name in files + links]
    return sorted(found)

def matches(path, patterns):
    import fnmatch
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

def describe(package, d):
    return {
        "name": package,
        "version": d.expand("${PV}-${PR}"),
        "licence": d.getVar("LICENSE"),
        "rdepends": sorted(bb.utils.explode_deps(d.getVar("RDEPENDS:" + package) or "")),
    }

def write_tar(target, root, paths, mtime):
    import tarfile
    def root_owned(info):
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = mtime
        return info
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in paths:
            tar.add(root + path, arcname="." + path, filter=root_owned)
