//! Recorded facts of real machines, and their diagnoses.

use std::collections::BTreeMap;

use super::{diagnose, remedy::Remedy};
use crate::sandbox::signs::{Container, Signs};

/// Steps as the helper names them.
const ENTER: &str = "enter new namespaces (unshare)";
const SETGROUPS: &str = "write /proc/self/setgroups of its user namespace";
const TMPFS: &str = "mount a tmpfs";
const PROC: &str = "mount /proc of its PID namespace";
const PIVOT: &str = "change the root (pivot_root)";

const ROOT: &str =
    "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n22 27 0:21 / /proc rw shared:2 - proc proc rw\n";
const USER: &str = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0\n";

/// What a file of /proc, or a mark somewhere, holds.
type Files = &'static [(&'static str, &'static str)];

/// An ordinary user on an ordinary machine, unless `own` says otherwise. An own file `-` is taken away.
fn signs(own: Files) -> Signs {
    let mut files = BTreeMap::from([
        ("/proc/self/status", USER),
        ("/proc/self/mountinfo", ROOT),
        ("/proc/1/mountinfo", ROOT),
        ("/proc/self/cgroup", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn.scope\n"),
        ("/proc/self/uid_map", "         0          0 4294967295\n"),
        ("/proc/self/gid_map", "         0          0 4294967295\n"),
        ("/proc/self/attr/current", "unconfined\n"),
        ("/proc/sys/user/max_user_namespaces", "63241\n"),
        ("/proc/sys/kernel/osrelease", "6.1.0-28-amd64\n"),
    ]);
    for name in ["user", "mnt", "pid", "ipc", "uts", "cgroup"] {
        files.insert(["/proc/self/ns/", name].concat().leak(), "");
    }
    files.extend(own.iter().copied());
    Signs::read(
        &|path| files.get(path).filter(|text| **text != "-").map(|text| (*text).to_owned()),
        "/opt/my tools/smidr".into(),
    )
}

/// A process in a container of Docker's, with its usual filter.
const DOCKER_STATUS: &str =
    "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\n";
const DOCKER_MOUNTS: &str = "1203 1102 0:293 / / rw,relatime master:501 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A\n\
    1204 1203 0:296 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
    1221 1203 254:1 /var/lib/docker/containers/0f3c/hosts /etc/hosts rw,relatime - ext4 /dev/vda1 rw\n\
    1104 1204 0:296 /bus /proc/bus ro,nosuid,nodev,noexec,relatime - proc proc rw\n\
    1105 1204 0:296 /fs /proc/fs ro,nosuid,nodev,noexec,relatime - proc proc rw\n\
    1108 1204 0:301 / /proc/acpi ro,relatime - tmpfs tmpfs ro\n";
const PODMAN_MOUNTS: &str = "812 790 0:61 / / rw,relatime - overlay overlay rw,lowerdir=/home/u/.local/share/containers/storage/overlay/l/B\n\
    813 812 0:64 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
    829 813 0:70 / /proc/acpi ro,relatime - tmpfs tmpfs ro\n\
    830 813 0:62 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw\n";
const FILTERED_USER: &str = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
const IN_A_USERNS: &str = "         0       1000          1\n         1     100000      65536\n";

/// A machine, the step that fails there and its errno; what the cause says, what its user can type, and its administrator.
struct Case {
    machine: &'static str,
    files: Files,
    failed: (&'static str, i32),
    cause: &'static str,
    user: Option<&'static str>,
    admin: Option<&'static str>,
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case {
        machine: "root of a container that has dropped every capability",
        files: &[("/proc/self/status", "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0\n")],
        failed: ("write /proc/self/uid_map of its user namespace", libc::EPERM),
        cause: "root without CAP_SETFCAP",
        user: Some("podman run --cap-add SETFCAP IMAGE"),
        admin: None,
    },
    Case {
        machine: "Debian with user namespaces switched off",
        files: &[("/proc/sys/kernel/unprivileged_userns_clone", "0\n")],
        failed: (ENTER, libc::EPERM),
        cause: "kernel.unprivileged_userns_clone is 0",
        user: None,
        admin: Some("sysctl -w kernel.unprivileged_userns_clone=1"),
    },
    Case {
        machine: "RHEL 7, and any hardened as CIS advises",
        files: &[("/proc/sys/user/max_user_namespaces", "0\n"), ("/proc/sys/kernel/osrelease", "3.10.0-1160.el7.x86_64\n")],
        failed: (ENTER, libc::ENOSPC),
        cause: "switched off here (user.max_user_namespaces is 0)",
        user: None,
        admin: Some("sysctl -w user.max_user_namespaces=15000"),
    },
    Case {
        machine: "RHEL 7 before 7.4",
        files: &[("/proc/sys/user/max_user_namespaces", "-"), ("/proc/sys/kernel/osrelease", "3.10.0-514.el7.x86_64\n")],
        failed: (ENTER, libc::EINVAL),
        cause: "only with a boot option",
        user: None,
        admin: Some("grubby --args=user_namespace.enable=1"),
    },
    Case {
        machine: "Ubuntu 24.04: entering works, the first map is refused",
        files: &[
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_unconfined", "1\n"),
            ("/proc/sys/kernel/unprivileged_userns_clone", "1\n"),
        ],
        failed: (SETGROUPS, libc::EACCES),
        cause: "AppArmor keeps user namespaces from programs without a profile",
        user: None,
        admin: Some("profile smidr \"/opt/my tools/smidr\" flags=(unconfined) {"),
    },
    Case {
        machine: "Ubuntu 24.04 with a kernel that refuses the uid map",
        files: &[("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")],
        failed: ("write /proc/self/uid_map of its user namespace", libc::EPERM),
        cause: "AppArmor keeps",
        user: None,
        admin: Some("userns,"),
    },
    Case {
        machine: "Ubuntu 23.10: already entering is refused",
        files: &[("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")],
        failed: (ENTER, libc::EACCES),
        cause: "AppArmor keeps",
        user: None,
        admin: Some("apparmor_parser -r /etc/apparmor.d/smidr"),
    },
    Case {
        machine: "Ubuntu 24.04, inside a namespace that AppArmor has closed",
        files: &[
            ("/proc/self/attr/current", "unprivileged_userns (enforce)\n"),
            ("/proc/self/uid_map", "      1000       1000          1\n"),
            ("/proc/self/gid_map", "      1000       1000          1\n"),
        ],
        failed: (TMPFS, libc::EACCES),
        cause: "in which AppArmor allows nothing",
        user: Some("run smidr outside of it"),
        admin: Some("apparmor_parser -r"),
    },
    Case {
        machine: "Docker's defaults",
        files: &[
            ("/.dockerenv", ""),
            ("/proc/self/status", DOCKER_STATUS),
            ("/proc/self/mountinfo", DOCKER_MOUNTS),
            ("/proc/1/mountinfo", DOCKER_MOUNTS),
            ("/proc/self/cgroup", "0::/\n"),
            ("/proc/self/attr/current", "docker-default (enforce)\n"),
        ],
        failed: (ENTER, libc::EPERM),
        cause: "container's seccomp filter",
        user: Some("docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"),
        admin: None,
    },
    Case {
        machine: "Docker without its filter, on Ubuntu 24.04",
        files: &[
            ("/.dockerenv", ""),
            ("/proc/self/mountinfo", DOCKER_MOUNTS),
            ("/proc/1/mountinfo", DOCKER_MOUNTS),
            ("/proc/self/attr/current", "docker-default (enforce)\n"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"),
        ],
        failed: (TMPFS, libc::EACCES),
        cause: "AppArmor's profile docker-default refuses it",
        user: Some("--security-opt apparmor=unconfined"),
        admin: None,
    },
    Case {
        machine: "rootless podman: everything works but /proc",
        files: &[
            ("/run/.containerenv", ""),
            ("/proc/self/status", DOCKER_STATUS),
            ("/proc/self/mountinfo", PODMAN_MOUNTS),
            ("/proc/1/mountinfo", PODMAN_MOUNTS),
            ("/proc/self/uid_map", IN_A_USERNS),
            ("/proc/self/gid_map", IN_A_USERNS),
        ],
        failed: (PROC, libc::EPERM),
        cause: "parts of /proc are covered, as containers do (/proc/acpi and 1 more)",
        user: Some("--security-opt unmask=ALL"),
        admin: None,
    },
    Case {
        machine: "podman on a machine with SELinux",
        files: &[
            ("/run/.containerenv", ""),
            ("/proc/self/mountinfo", PODMAN_MOUNTS),
            ("/proc/1/mountinfo", PODMAN_MOUNTS),
            ("/proc/self/attr/current", "system_u:system_r:container_t:s0:c312,c644\0"),
        ],
        failed: (TMPFS, libc::EACCES),
        cause: "SELinux refuses it to programs of the domain container_t",
        user: Some("--security-opt label=disable"),
        admin: None,
    },
    Case {
        machine: "a confined user of RHEL",
        files: &[("/proc/self/attr/current", "user_u:user_r:user_t:s0\0")],
        failed: (ENTER, libc::EACCES),
        cause: "SELinux refuses it to programs of the domain user_t",
        user: None,
        admin: Some("audit2allow -M smidr"),
    },
    Case {
        machine: "a job of GitLab's runner",
        files: &[
            ("/.dockerenv", ""),
            ("/proc/self/status", DOCKER_STATUS),
            ("/proc/self/mountinfo", concat!(
                "901 870 0:80 / / rw - overlay overlay rw\n902 901 0:81 / /proc rw - proc proc rw\n",
                "930 901 8:1 /var/lib/docker/volumes/runner-t1_a9-project-77-concurrent-0-cache-c33b/_data /builds rw - ext4 /dev/sda1 rw\n",
            )),
            ("/proc/1/mountinfo", "-"),
        ],
        failed: (ENTER, libc::EPERM),
        cause: "container's seccomp filter",
        user: None,
        admin: Some("security_opt = [\"seccomp=unconfined\", \"apparmor=unconfined\"]"),
    },
    Case {
        machine: "a job of GitLab's runner without a filter: Docker's daemon cannot uncover /proc when it is asked by the runner",
        files: &[
            ("/proc/self/mountinfo", concat!(
                "901 870 0:80 / / rw - overlay overlay rw\n902 901 0:81 / /proc rw - proc proc rw\n",
                "903 902 0:81 /bus /proc/bus ro - proc proc rw\n",
                "930 901 8:1 /var/lib/docker/volumes/runner-t1_a9-project-77-concurrent-0-cache-c33b/_data /builds rw - ext4 /dev/sda1 rw\n",
            )),
            ("/proc/1/mountinfo", "-"),
        ],
        failed: (PROC, libc::EPERM),
        cause: "parts of /proc are covered, as containers do (/proc/bus)",
        user: None,
        admin: Some("privileged = true"),
    },
    Case {
        machine: "a pod",
        files: &[
            ("/proc/self/status", DOCKER_STATUS),
            ("/proc/self/cgroup", "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-9f.scope\n"),
            ("/proc/self/mountinfo", DOCKER_MOUNTS),
            ("/proc/1/mountinfo", DOCKER_MOUNTS),
        ],
        failed: (ENTER, libc::EPERM),
        cause: "container's seccomp filter",
        user: Some("procMount: Unmasked"),
        admin: None,
    },
    Case {
        machine: "LXC without nesting",
        files: &[("/run/systemd/container", "lxc\n"), ("/proc/self/mountinfo", DOCKER_MOUNTS), ("/proc/1/mountinfo", "-")],
        failed: (PROC, libc::EPERM),
        cause: "parts of /proc are covered",
        user: None,
        admin: Some("security.nesting=true"),
    },
    Case {
        machine: "a chroot, as schroot and mock make it",
        files: &[("/proc/self/mountinfo", "301 27 0:21 / /proc rw - proc proc rw\n")],
        failed: (ENTER, libc::EPERM),
        cause: "this is a chroot",
        user: Some("bwrap --dev-bind DIR /"),
        admin: None,
    },
    Case {
        machine: "a chroot into a mount point",
        files: &[
            ("/proc/self/mountinfo", "300 27 0:77 / / rw - tmpfs tmpfs rw\n301 300 0:21 / /proc rw - proc proc rw\n"),
            ("/proc/1/mountinfo", concat!(
                "27 1 254:0 / / rw - ext4 /dev/vda rw\n300 27 0:77 / /srv/chroot/sid rw - tmpfs tmpfs rw\n",
                "301 300 0:21 / /srv/chroot/sid/proc rw - proc proc rw\n",
            )),
        ],
        failed: (ENTER, libc::EPERM),
        cause: "this is a chroot",
        user: Some("bwrap --dev-bind DIR /"),
        admin: None,
    },
    Case {
        machine: "namespaces that are all in use",
        files: &[],
        failed: (ENTER, libc::ENOSPC),
        cause: "used up (user.max_user_namespaces is 63241), or 32 of them are inside each other already",
        user: Some("lsns -t user"),
        admin: Some("sysctl -w user.max_user_namespaces=126482"),
    },
    Case {
        machine: "sandboxes 32 deep",
        files: &[("/proc/sys/user/max_user_namespaces", "2147483647\n"), ("/proc/self/uid_map", "         0          0          1\n"), ("/proc/self/status",
            "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n")],
        failed: (ENTER, libc::EUSERS),
        cause: "here or in a user namespace around this one), or 32 of them are inside each other already",
        user: Some("lsns -t user"),
        admin: None,
    },
    Case {
        machine: "a kernel built without user namespaces",
        files: &[("/proc/self/ns/user", "-"), ("/proc/self/uid_map", "-"), ("/proc/self/gid_map", "-"),
            ("/proc/sys/user/max_user_namespaces", "-")],
        failed: (ENTER, libc::EINVAL),
        cause: "this kernel was built without user namespaces",
        user: None,
        admin: Some("/boot/config-$(uname -r)"),
    },
    Case {
        machine: "WSL 1",
        files: &[("/proc/sys/kernel/osrelease", "4.4.0-19041-Microsoft\n")],
        failed: (ENTER, libc::EINVAL),
        cause: "this is WSL 1",
        user: Some("wsl --set-version NAME 2"),
        admin: None,
    },
    Case {
        machine: "RHEL 8",
        files: &[("/proc/sys/kernel/osrelease", "4.18.0-553.el8_10.x86_64\n")],
        failed: ("restrict the mount at /workspace", libc::ENOSYS),
        cause: "Linux 4.18.0-553.el8_10.x86_64 is too old: smidr needs 5.12",
        user: None,
        admin: Some("uname -r"),
    },
    Case {
        machine: "distrobox on Ubuntu 24.04",
        files: &[
            ("/run/.containerenv", ""),
            ("/proc/self/mountinfo", "812 790 0:61 / / rw - overlay overlay rw\n850 812 8:2 /usr/bin/distrobox-host-exec /usr/bin/distrobox-host-exec rw - ext4 /dev/sda2 rw\n"),
            ("/proc/1/mountinfo", "-"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"),
            ("/proc/self/uid_map", IN_A_USERNS),
            ("/proc/self/gid_map", IN_A_USERNS),
        ],
        failed: (SETGROUPS, libc::EACCES),
        cause: "AppArmor keeps",
        user: Some("distrobox-host-exec '/opt/my tools/smidr' doctor"),
        admin: Some("profile smidr"),
    },
    Case {
        machine: "toolbox",
        files: &[("/run/.toolboxenv", ""), ("/run/.containerenv", ""), ("/proc/self/status", FILTERED_USER)],
        failed: (ENTER, libc::EPERM),
        cause: "container's seccomp filter",
        user: Some("flatpak-spawn --host"),
        admin: None,
    },
    Case {
        machine: "an agent that systemd has locked down",
        files: &[("/proc/self/status", FILTERED_USER), ("/proc/self/cgroup", "0::/system.slice/jenkins.service\n")],
        failed: (ENTER, libc::EPERM),
        cause: "which systemd installs for jenkins.service",
        user: None,
        admin: Some("/etc/systemd/system/jenkins.service.d/smidr.conf"),
    },
    Case {
        machine: "the same with ProtectKernelTunables=yes alone",
        files: &[
            ("/proc/self/cgroup", "0::/system.slice/jenkins.service\n"),
            ("/proc/self/mountinfo", concat!(
                "27 1 254:0 / / rw - ext4 /dev/vda rw\n22 27 0:21 / /proc rw - proc proc rw\n",
                "31 22 0:21 /sys /proc/sys ro - proc proc rw\n",
            )),
        ],
        failed: (PROC, libc::EPERM),
        cause: "parts of /proc are covered, as containers do (/proc/sys)",
        user: None,
        admin: Some("ProtectKernelTunables=no"),
    },
    Case {
        machine: "a terminal in an editor that is a snap",
        files: &[("/proc/self/attr/current", "snap.code.code (enforce)\n")],
        failed: (ENTER, libc::EACCES),
        cause: "AppArmor's profile snap.code.code refuses it",
        user: Some("not part of the snap code"),
        admin: None,
    },
    Case {
        machine: "a user namespace without a map",
        files: &[
            ("/proc/self/status", "Uid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nCapEff:\t0\nSeccomp:\t0\n"),
            ("/proc/self/uid_map", ""),
            ("/proc/self/gid_map", ""),
        ],
        failed: (ENTER, libc::EPERM),
        cause: "your uid or gid has no number",
        user: Some("unshare --user --map-current-user"),
        admin: None,
    },
    Case {
        machine: "the first root of a small system",
        files: &[("/proc/self/mountinfo", "1 1 0:2 / / rw - rootfs rootfs rw\n"), ("/proc/1/mountinfo", "1 1 0:2 / / rw - rootfs rootfs rw\n")],
        failed: (PIVOT, libc::EINVAL),
        cause: "the kernel's first one",
        user: None,
        admin: Some("switch_root"),
    },
    Case {
        machine: "too many processes",
        files: &[],
        failed: ("fork", libc::EAGAIN),
        cause: "no more processes",
        user: Some("ulimit -u"),
        admin: None,
    },
    Case {
        machine: "too many mounts",
        files: &[],
        failed: (TMPFS, libc::ENOSPC),
        cause: "fs.mount-max",
        user: None,
        admin: Some("sysctl -w fs.mount-max=200000"),
    },
    Case {
        machine: "a kernel without filters",
        files: &[],
        failed: ("forbid system calls that no build needs (seccomp)", libc::EINVAL),
        cause: "CONFIG_SECCOMP_FILTER",
        user: None,
        admin: Some("grep SECCOMP"),
    },
    Case {
        machine: "an unknown obstacle",
        files: &[],
        failed: ("set the host name", libc::EIO),
        cause: "found no setting of this machine that explains it",
        user: Some("strace -f '/opt/my tools/smidr' doctor"),
        admin: Some("journalctl -k"),
    },
];

#[test]
fn machines_as_they_were_met() {
    for case in CASES {
        let Case { machine, files, failed: (step, errno), cause, user, admin } = case;
        let found = diagnose(step, *errno, &signs(files));
        assert!(found.cause.contains(cause), "{machine}: {}", found.cause);
        for (expected, remedy) in [(user, &found.remedy_user), (admin, &found.remedy_admin)] {
            let text = remedy.as_ref().map(|Remedy { how, lines }| format!("{how}\n{}", lines.join("\n")));
            match expected {
                None => assert_eq!(text, None, "{machine}"),
                Some(expected) => {
                    assert!(text.as_ref().is_some_and(|text| text.contains(expected)), "{machine}: {text:?}")
                }
            }
        }
        assert!(!found.hint().to_string().contains('\n'), "{machine}: a hint is one line");
    }
}

#[test]
fn the_complete_profile_for_apparmor() {
    let found =
        diagnose(SETGROUPS, libc::EACCES, &signs(&[("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")]));
    let remedy = found.remedy_admin.expect("a profile");
    let expected = "cat > /etc/apparmor.d/smidr <<'EOF'\nabi <abi/4.0>,\ninclude <tunables/global>\n\
        profile smidr \"/opt/my tools/smidr\" flags=(unconfined) {\n  userns,\n  include if exists <local/smidr>\n}\nEOF";
    assert_eq!(remedy.lines, [expected, "apparmor_parser -r /etc/apparmor.d/smidr"]);
}

#[test]
fn root_is_not_held_by_what_holds_users() {
    let root = signs(&[
        ("/proc/self/status", "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0\n"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"),
    ]);
    assert!(root.sys_admin && root.is_restricted_by_apparmor());
    let found = diagnose(ENTER, libc::EPERM, &root);
    assert!(found.cause.contains("namespaces are forbidden here"), "{}", found.cause);
}

#[test]
fn signs_of_an_ordinary_machine() {
    let found = signs(&[]);
    let expected = Signs {
        max_user_namespaces: Some(63_241),
        label: Some("unconfined".into()),
        chroot: Some(false),
        kernel: "6.1.0-28-amd64".into(),
        mapped: true,
        binary: "/opt/my tools/smidr".into(),
        ..Signs::default()
    };
    assert_eq!(found, expected);
    // PID 1's mounts prove nothing if they differ or are hidden.
    for first in ["-", "99 1 0:9 / / rw - ext4 /dev/vdb rw\n"] {
        let first: Files = vec![("/proc/1/mountinfo", first)].leak();
        assert_eq!(signs(first).chroot, None);
    }
}

#[test]
fn services_of_the_system_alone() {
    let cases: [(Files, Option<&str>); 3] = [
        (&[("/proc/self/cgroup", "0::/system.slice/system-runner.slice/runner@2.service\n")], Some("runner@2.service")),
        (&[("/proc/self/cgroup", "0::/user.slice/user@1000.service/app.slice/gnome-terminal-server.service\n")], None),
        (&[("/proc/self/cgroup", "0::/user.slice/user-0.slice/session-1.scope\n")], None),
    ];
    for (files, expected) in cases {
        assert_eq!(signs(files).service.as_deref(), expected, "{files:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_mark_all_the_same() {
    assert_eq!(signs(&[("/run/.containerenv", "")]).container, Some(Container::Podman));
    assert_eq!(signs(&[("/proc/sys/kernel/unprivileged_userns_clone", "")]).userns_clone, None);
}
