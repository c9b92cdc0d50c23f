//! The variables of `local.conf` and of BitBake's environment.

use super::folders::Folders;
use crate::{
    config::{Config, Isolation, Network, Text},
    model::SystemFacts,
};

/// BitBake stops before a disk is full, rather than in the middle of writing.
const DISK_MONITOR: &str = "STOPTASKS,${TMPDIR},1G,100K STOPTASKS,${DL_DIR},1G,100K STOPTASKS,${SSTATE_DIR},1G,100K HALT,${TMPDIR},100M,1K HALT,${DL_DIR},100M,1K HALT,${SSTATE_DIR},100M,1K";

/// The variables of `local.conf` in their order.
pub(super) fn variables(
    config: &Config,
    facts: &SystemFacts,
    folders: &Folders,
    machine: &str,
) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| out.push((name.into(), value));
    set("MACHINE", machine.into());
    if let Some(distro) = &config.base.distro {
        set("DISTRO", distro.text.clone());
    }
    // The rest is said by another tool's conf.
    if config.as_is.is_some() {
        return out;
    }
    set("TMPDIR", path(&folders.tmp));
    set("DL_DIR", path(&folders.downloads));
    set("SSTATE_DIR", path(&folders.sstate));
    set("DEPLOY_DIR", path(&folders.deploy));
    // Beside its sstate, so that builds can use each other's (BitBake warns otherwise).
    set("BB_HASHSERVE_DB_DIR", path(&folders.hash_equivalence));
    let cpus = config.host.cpus.map_or(facts.cpus, |limit| limit.min(facts.cpus)).max(1);
    set("BB_NUMBER_THREADS", config.build.threads.unwrap_or(cpus).to_string());
    set("PARALLEL_MAKE", format!("-j {}", config.build.parallel_make.unwrap_or(cpus)));
    let mut list = |name: &str, values: &[Text], append: bool| {
        if !values.is_empty() {
            let joined = values.iter().map(|text| text.text.as_str()).collect::<Vec<_>>().join(" ");
            set(name, if append { format!(" {joined}") } else { joined });
        }
    };
    list("PACKAGE_CLASSES", &config.package_classes, false);
    list("EXTRA_IMAGE_FEATURES", &config.image_features, false);
    list("USER_CLASSES", &config.user_classes, false);
    list("INHERIT:append", &config.inherit_classes, true);
    list("IMAGE_INSTALL:append", &config.build.extra_packages, true);
    let advanced = &config.advanced;
    list("SSTATE_MIRRORS", &advanced.sstate_mirrors, false);
    list("PREMIRRORS", &advanced.premirrors, false);
    list("LICENSE_FLAGS_ACCEPTED", &advanced.license_flags, false);
    let switches = [
        ("BB_NO_NETWORK", advanced.no_network),
        ("BB_FETCH_PREMIRRORONLY", advanced.premirror_only),
        ("ACCEPT_FSL_EULA", advanced.accept_fsl_eula),
    ];
    for (name, value) in switches {
        if let Some(value) = value {
            set(name, if value { "1" } else { "0" }.into());
        }
    }
    let texts = [("BB_HASHSERVE", &advanced.hashserve), ("BB_SIGNATURE_HANDLER", &advanced.signature_handler)];
    for (name, value) in texts {
        if let Some(value) = value {
            set(name, value.text.clone());
        }
    }
    match advanced.disk_monitoring.as_ref().map(|text| text.text.as_str()) {
        None | Some("true" | "yes" | "on") => set("BB_DISKMON_DIRS", DISK_MONITOR.into()),
        Some("false" | "no" | "off") => {}
        Some(dirs) => set("BB_DISKMON_DIRS", dirs.into()),
    }
    out
}

/// What one build does in another way than the next comes by the environment: BitBake parses everything anew when a conf file changes.
pub const BY_ENVIRONMENT: [&str; 6] = [
    "BB_NUMBER_THREADS",
    "PARALLEL_MAKE",
    "BB_NO_NETWORK",
    "BB_PRESSURE_MAX_CPU",
    "BB_PRESSURE_MAX_IO",
    "BB_PRESSURE_MAX_MEMORY",
];

/// Beyond this much of each second in which some program waits for a processor, a disk or memory, BitBake starts no further task, in
/// microseconds (PSI, Documentation/accounting/psi.rst).
const PRESSURE: [&str; 3] = ["500000", "300000", "100000"];

/// Lowers the number of tasks and jobs to a share of the processors. What the project sets by the environment stays.
pub(super) fn take_share(conf: &[(String, String)], env: &mut Vec<(String, String)>, cpus: u32) {
    let number = |name: &str| {
        let (_, value) = conf.iter().find(|(known, _)| known == name)?;
        value.trim_start_matches("-j ").parse::<u32>().ok()
    };
    let [threads, make, ..] = BY_ENVIRONMENT;
    put_new(env, threads, number(threads).unwrap_or(cpus).min(cpus).to_string());
    put_new(env, make, format!("-j {}", number(make).unwrap_or(cpus).min(cpus)));
}

fn put_new(env: &mut Vec<(String, String)>, name: &str, value: String) {
    if env.iter().all(|(known, _)| known != name) {
        env.push((name.into(), value));
    }
}

/// BitBake's environment, except for PATH, which depends on where BitBake is.
pub(super) fn environment(
    config: &Config,
    facts: &SystemFacts,
    folders: &Folders,
    offline: bool,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let fixed = [
        ("HOME", path(&folders.home)),
        // Otherwise modules that a task puts into HOME would run in every later Python.
        ("PYTHONNOUSERSITE", "1".into()),
        ("USER", "builder".into()),
        ("LOGNAME", "builder".into()),
        ("SHELL", "/bin/sh".into()),
        // BitBake requires it (oe.sanity, bb.utils.check_system_locale).
        ("LANG", "en_US.UTF-8".into()),
        ("LC_ALL", "en_US.UTF-8".into()),
        ("TZ", facts.time_zone.clone()),
    ];
    env.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
    env.extend(proxies(config, facts).iter().cloned());
    let bundle = facts.ca_bundle.as_ref().filter(|_| config.host.inputs.certificates);
    if let Some(bundle) = bundle {
        // Without namespaces it stays in its own place.
        let inside = if config.host.isolation == Isolation::None { path(bundle) } else { CA_BUNDLE.to_owned() };
        env.extend(CA_VARIABLES.map(|name| (name.to_owned(), inside.clone())));
    }
    for (name, value) in &config.env {
        put(&mut env, name, value.text.clone());
    }
    for name in &config.host.env {
        if let Some(value) = facts.variable(&name.text) {
            put(&mut env, name, value);
        }
    }
    // Last, since files that the caller's own variables name are not in the sandbox.
    let inputs = super::inputs::variables(config);
    for (name, value) in &inputs {
        put(&mut env, name, (*value).into());
    }
    if config.as_is.is_some() {
        // As if they were the caller's, who may have set them.
        for (name, folder) in [
            ("DL_DIR", &folders.downloads),
            ("SSTATE_DIR", &folders.sstate),
            ("BB_HASHSERVE_DB_DIR", &folders.hash_equivalence),
        ] {
            put_new(&mut env, name, path(folder));
        }
    } else {
        put(&mut env, "BB_ENV_PASSTHROUGH_ADDITIONS", passed(config, facts).join(" "));
    }
    // Builds that begin later, and other programs, are counted by the kernel only.
    let [_, _, no_network, pressure @ ..] = BY_ENVIRONMENT;
    if offline {
        put(&mut env, no_network, "1".into());
    }
    for (name, most) in pressure.into_iter().zip(PRESSURE).filter(|_| facts.has_pressure) {
        put_new(&mut env, name, most.into());
    }
    env
}

/// Without a network they are of no use, and reveal names and passwords.
fn proxies<'a>(config: &Config, facts: &'a SystemFacts) -> &'a [(String, String)] {
    let wanted = config.host.inputs.proxies && config.host.network != Network::None;
    if wanted { &facts.fetch_env } else { &[] }
}

/// The variables of the environment that kas has BitBake take, whatever the project (`libkas.py`), before those that the project names.
const OF_KAS: [&str; 7] = [
    "SSTATE_DIR",
    "SSTATE_MIRRORS",
    "BB_HASHSERVE_DB_DIR",
    "BB_HASHSERVE",
    "BB_HASHSERVE_UPSTREAM",
    "DL_DIR",
    "TMPDIR",
];

/// BB_ENV_PASSTHROUGH_ADDITIONS: BitBake drops unknown variables. Fetchers get those of them that bb.fetch2 lists (FETCH_EXPORT_VARS); other tasks get
/// none, unless a recipe exports them.
pub(super) fn passed(config: &Config, facts: &SystemFacts) -> Vec<String> {
    let bundle = facts.ca_bundle.as_ref().filter(|_| config.host.inputs.certificates);
    let of_kas = config
        .as_is
        .iter()
        .flat_map(|as_is| OF_KAS.into_iter().chain(as_is.env.iter().map(|(name, _)| name.text.as_str())));
    let all = of_kas
        .chain(proxies(config, facts).iter().map(|(name, _)| name.as_str()))
        .chain(CA_VARIABLES.into_iter().filter(|_| bundle.is_some()))
        .chain(super::inputs::variables(config).into_iter().map(|(name, _)| name))
        .chain(config.env.iter().map(|(name, _)| name.text.as_str()))
        .chain(config.host.env.iter().map(|name| name.text.as_str()))
        .chain(BY_ENVIRONMENT)
        .chain(["BB_HASHSERVE"]);
    let mut passed: Vec<String> = Vec::new();
    for name in all {
        // Others may depend on the list as it was.
        if config.as_is.is_none() || !passed.iter().any(|known| known == name) {
            passed.push(name.to_owned());
        }
    }
    passed
}

/// The path of the host's CA certificates inside, as Debian's tools expect.
pub const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What curl, git, OpenSSL, Python's requests and Node.js read.
const CA_VARIABLES: [&str; 5] =
    ["SSL_CERT_FILE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"];

fn put(env: &mut Vec<(String, String)>, name: &str, value: String) {
    env.retain(|(known, _)| known != name);
    env.push((name.into(), value));
}

fn path(path: &std::path::Path) -> String {
    path.display().to_string()
}
