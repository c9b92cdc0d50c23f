//! The kernel's version, and what smidr lacks on an old one.

/// Features that smidr uses, with the first version that has them, oldest first.
const USES: [((u32, u32), &str); 6] = [
    ((5, 2), "the newer calls for mounts"),
    ((5, 6), "openat2, which resolves paths inside an image"),
    ((5, 8), "whiteouts made by ordinary users"),
    ((5, 11), "overlayfs in user namespaces"),
    ((5, 12), "mount_setattr, which makes mounts read-only"),
    ((6, 12), "Landlock for abstract sockets"),
];

/// The oldest version with a sandbox: mounts are made read-only by mount_setattr(2).
pub const OLDEST: (u32, u32) = (5, 12);

/// The kernel's release, as `uname -r` prints it; empty without /proc.
pub fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The first two numbers of a release.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What a kernel of this version lacks, judged by its number: distributions backport some of it.
pub fn lacks(version: (u32, u32)) -> Vec<String> {
    let newer = USES.iter().filter(|(since, _)| version < *since);
    newer.map(|((major, minor), what)| format!("{what} ({major}.{minor})")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions() {
        let cases = [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("3.10.0-1160.el7.x86_64", Some((3, 10))),
            ("5.15.167.4-microsoft-standard-WSL2", Some((5, 15))),
            ("4.4.0-19041-Microsoft", Some((4, 4))),
            ("6.8-rc1", Some((6, 8))),
            ("", None),
            ("new", None),
        ];
        for (release, expected) in cases {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn an_old_kernel_lacks_what_is_newer() {
        assert_eq!(lacks((6, 12)), Vec::<String>::new());
        assert_eq!(lacks((6, 1)), ["Landlock for abstract sockets (6.12)"]);
        assert_eq!(lacks((5, 4)).len(), 5, "{:?}", lacks((5, 4)));
        assert_eq!(lacks((4, 18)).len(), USES.len());
    }
}
