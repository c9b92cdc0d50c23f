# SPDX-License-Identifier: MIT OR Apache-2.0
#
# An image: a root filesystem made of packages, as ext4 and as tar.gz. Two tasks run under pseudo, which keeps the
# owners and device nodes that an unprivileged build cannot have for real.

inherit nobuild

LICENSE = "MIT OR Apache-2.0"
IMAGE_INSTALL ?= ""
IMAGE_ROOTFS = "${WORKDIR}/rootfs"
IMAGE_OUTPUT = "${WORKDIR}/images"
IMAGE_FILE = "${PN}-${MACHINE}"
IMAGE_ROOTFS_SIZE ?= "16384"
IMAGE_FSTYPES ?= "ext4 tar.gz"
IMAGE_UUID ?= "6d656c6c-6f21-4d69-a064-726f6f746673"

# FEATURE_PACKAGES_name: the packages that the feature `name` of IMAGE_FEATURES brings.
FEATURE_PACKAGES_dev-pkgs ?= "libgreet-dev"
IMAGE_PACKAGES = "${IMAGE_INSTALL} ${@feature_packages(d)}"
RDEPENDS = "${IMAGE_PACKAGES}"

def feature_packages(d):
    features = sorted(set((d.getVar("IMAGE_FEATURES") or "").split()))
    return " ".join(d.getVar("FEATURE_PACKAGES_" + feature) or "" for feature in features)

addtask rootfs after do_patch
do_rootfs[recrdeptask] = "do_package do_populate_lic"
do_rootfs[cleandirs] = "${IMAGE_ROOTFS} ${IMAGE_OUTPUT}"
do_rootfs[umask] = "022"
do_rootfs[doc] = "Assemble the root filesystem"
fakeroot python do_rootfs() {
    installed = closure((d.getVar("IMAGE_PACKAGES") or "").split(), d)
    for package in installed:
        bb.note("Installing %(name)s %(version)s" % package)
        bb.process.run(["tar", "-C", d.getVar("IMAGE_ROOTFS"), "-xpf", package["tar"]])
    bb.build.exec_func("finish_rootfs", d)
    write_list("manifest", "%(name)s %(version)s", installed, d)
    write_list("licenses", "%(name)s: %(licence)s", installed, d)
}

def closure(names, d):
    """The packages, and those that they need at run time, by name."""
    import glob, json
    found, wanted = {}, list(names)
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        files = glob.glob(os.path.join(d.getVar("PACKAGES_DIR"), "*", name + ".json"))
        if not files:
            bb.fatal("No package %s was built: it may have no files" % name)
        with open(files[0]) as file:
            found[name] = json.load(file)
        found[name]["tar"] = files[0].removesuffix(".json") + ".tar"
        wanted += found[name]["rdepends"]
    return [found[name] for name in sorted(found)]

def write_list(kind, line, packages, d):
    with open(d.expand("${IMAGE_OUTPUT}/${IMAGE_FILE}." + kind), "w") as file:
        file.writelines(line % package + "\n" for package in packages)

do_rootfs[vardeps] += "finish_rootfs"
finish_rootfs() {
    cd ${IMAGE_ROOTFS}
    install -d dev etc proc root run sys tmp
    chmod 0700 root
    chmod 1777 tmp
    echo "${MACHINE}" > etc/hostname
    echo "root:x:0:0:root:/root:/bin/sh" > etc/passwd
    echo "root:x:0:" > etc/group
    {
        echo "ID=${DISTRO}"
        echo "NAME=\"${DISTRO_NAME}\""
        echo "VERSION_ID=${DISTRO_VERSION}"
    } > etc/os-release
    mknod -m 600 dev/console c 5 1
    mknod -m 666 dev/null c 1 3
    chown -hR 0:0 .
    find . -exec touch -h -d @${SOURCE_DATE_EPOCH} {} +
}

addtask image after do_rootfs
do_image[dirs] = "${IMAGE_OUTPUT}"
do_image[doc] = "Make filesystem images of the root filesystem"
fakeroot do_image() {
    for type in ${IMAGE_FSTYPES}; do
        rm -f ${IMAGE_OUTPUT}/${IMAGE_FILE}.$type
        case $type in
        ext4) image_ext4 ${IMAGE_OUTPUT}/${IMAGE_FILE}.ext4 ;;
        tar.gz) image_tar_gz ${IMAGE_OUTPUT}/${IMAGE_FILE}.tar.gz ;;
        *) echo "IMAGE_FSTYPES: $type is none of ext4, tar.gz" >&2; exit 1 ;;
        esac
    done
}

# With a fixed time, order and owners, equal contents make equal files.
image_tar_gz() {
    tar -C ${IMAGE_ROOTFS} --sort=name --numeric-owner --mtime=@${SOURCE_DATE_EPOCH} --format=gnu -cf - . |
        gzip -9 -n > $1
}

# mke2fs takes ctime and atime from the files, and a build cannot set ctime: debugfs does, in the image.
image_ext4() {
    export E2FSPROGS_FAKE_TIME=${SOURCE_DATE_EPOCH}
    mke2fs -q -t ext4 -L ${PN} -U ${IMAGE_UUID} -E hash_seed=${IMAGE_UUID},root_owner=0:0 -m 0 \
        -d ${IMAGE_ROOTFS} $1 ${IMAGE_ROOTFS_SIZE}
    (cd ${IMAGE_ROOTFS} && find . | LC_ALL=C sort) | while read -r path; do
        for field in ctime atime mtime crtime; do
            echo "set_inode_field \"/${path#./}\" $field @${SOURCE_DATE_EPOCH}"
            echo "set_inode_field \"/${path#./}\" ${field}_extra 0"
        done
    done > ${WORKDIR}/times
    debugfs -w -f ${WORKDIR}/times $1 > ${WORKDIR}/times.log 2>&1
}

addtask deploy after do_image before do_build
do_deploy[dirs] = "${DEPLOY_DIR_IMAGE}"
do_deploy[doc] = "Put the images, with their lists of packages and licences, in the deploy folder"
do_deploy() {
    for file in ${IMAGE_OUTPUT}/*; do
        install -m 0644 "$file" ${DEPLOY_DIR_IMAGE}/
    done
}
