//! Gathers [`SystemFacts`].

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, User};

use crate::model::{SubordinateIds, SystemFacts};

/// The variables of BitBake's fetchers (bb.fetch2, FETCH_EXPORT_VARS) about how the network is reached. Not credentials: a config names
/// those that it needs.
const FETCH_VARIABLES: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "GIT_PROXY_COMMAND",
];

/// Where distributions keep their bundle of CA certificates.
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Looks at this machine. `environment` is the caller's.
pub fn gather(environment: Vec<(String, String)>) -> SystemFacts {
    let get = |name: &str| {
        environment.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.clone())
    };
    let fetch_env = FETCH_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), get(name)?))).collect();
    let ca_bundle = get("SSL_CERT_FILE")
        .map(PathBuf::from)
        .into_iter()
        .chain(CA_BUNDLES.map(PathBuf::from))
        .find(|path| path.is_file());
    SystemFacts {
        uid: Uid::effective().as_raw(),
        gid: Gid::effective().as_raw(),
        subordinate: subordinate_ids(),
        home: get("HOME").map_or_else(|| "/".into(), PathBuf::from),
        cpus: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
        memory: memory().unwrap_or(0),
        // BitBake reads all three, whichever is limited.
        has_pressure: ["cpu", "io", "memory"]
            .iter()
            .all(|name| fs::read_to_string(format!("/proc/pressure/{name}")).is_ok()),
        fetch_env,
        ca_bundle,
        // Content, not a path: it is usually a link into /run, and replaced by rename when the network changes.
        resolv_conf: fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        time_zone: time_zone(get("TZ")),
        remote: None,
        environment,
    }
}

/// From the files only, not from a directory service.
fn subordinate_ids() -> Option<SubordinateIds> {
    let uid = Uid::effective();
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let read = |path: &str| range(&fs::read_to_string(path).ok()?, uid.as_raw(), name.as_deref());
    Some(SubordinateIds { uids: read("/etc/subuid")?, gids: read("/etc/subgid")? })
}

/// The first range of a user, listed by name or by number (subuid(5)).
fn range(text: &str, uid: u32, name: Option<&str>) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let own = Some(owner) == name || owner.parse() == Ok(uid);
        let (first, count) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
        (own && count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    })
}

fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim().parse::<u64>();
    kib.ok().map(|kib| kib * 1024)
}

fn time_zone(variable: Option<String>) -> String {
    let plain = |name: &str| !name.is_empty() && !name.starts_with([':', '/']) && !name.contains("..");
    let link = || {
        let target = fs::canonicalize("/etc/localtime").ok()?;
        Some(target.strip_prefix(Path::new("/usr/share/zoneinfo")).ok()?.display().to_string())
    };
    variable.filter(|name| plain(name)).or_else(link).filter(|name| plain(name)).unwrap_or_else(|| "UTC".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_user() {
        let text = "root:1:2\n# none\nann:100000:65536\n1001:200000:10\nann:300000:5\nbad:x:1\nend:4294967295:2\n";
        assert_eq!(range(text, 1000, Some("ann")), Some((100_000, 65_536)));
        assert_eq!(range(text, 1001, Some("bob")), Some((200_000, 10)));
        assert_eq!(range(text, 1001, None), Some((200_000, 10)));
        for other in ["bob", "bad", "end", ""] {
            assert_eq!(range(text, 1002, Some(other)), None);
        }
    }
}
