# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Every recipe names its licence, by SPDX identifier, or it does not parse.

python () {
    if (d.getVar("LICENSE") or "INVALID") == "INVALID":
        bb.fatal("%s: LICENSE is not set" % d.getVar("FILE"))
}

addtask populate_lic after do_patch before do_build
do_populate_lic[cleandirs] = "${DEPLOY_DIR}/licenses/${PN}"
do_populate_lic[doc] = "Put the recipe's licence, and the texts that it names, in the deploy folder"
python do_populate_lic() {
    import shutil
    folder = d.expand("${DEPLOY_DIR}/licenses/${PN}")
    with open(os.path.join(folder, "recipeinfo"), "w") as file:
        file.write(d.expand("LICENSE: ${LICENSE}\nPV: ${PV}\nPR: ${PR}\n"))
    for name in (d.getVar("LICENSE_FILES") or "").split():
        shutil.copy(os.path.join(d.getVar("S"), name), folder)
}
