//! `local.conf` and `bblayers.conf` exactly as kas writes them.

use std::{
    fmt::Write as _,
    path::{Component, Path, PathBuf},
};

use super::project::Kas;

/// `local.conf`.
pub fn local_conf(kas: &Kas) -> String {
    let mut text = headers(&kas.local_conf);
    let Kas { machine, distro, .. } = kas;
    let multiconfigs = kas.multiconfigs().join(" ");
    let _ = write!(text, "MACHINE ??= \"{machine}\"\nDISTRO ??= \"{distro}\"\nBBMULTICONFIG ?= \"{multiconfigs}\"\n");
    text
}

/// `bblayers.conf` for a build in the folder `build`.
pub fn bblayers_conf(kas: &Kas, build: &Path) -> String {
    let layers = kas.layers();
    let layers: Vec<String> =
        layers.iter().map(|layer| format!("${{TOPDIR}}/{}", relative(build, layer).display())).collect();
    let mut text = headers(&kas.bblayers_conf);
    let _ = write!(text, "BBLAYERS ?= \" \\\n    {}\"\n", layers.join(" \\\n    "));
    text.push_str("BBPATH ?= \"${TOPDIR}\"\nBBFILES ??= \"\"\n");
    text
}

fn headers(headers: &[(String, String)]) -> String {
    headers.iter().fold(String::new(), |mut text, (key, value)| {
        let _ = write!(text, "# {key}\n{value}\n");
        text
    })
}

/// The way from one folder to another; both are absolute and without dots.
pub(super) fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(one, other)| one == other).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}
