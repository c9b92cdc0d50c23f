//! Whether the kernel killed processes because memory ran out: counters before and after, and its messages about the victims.
//!
//! [`Watch`] reads; the parsers are pure.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use super::{
    cgroup::{Place, field},
    files,
};

/// The longest record of /dev/kmsg, in bytes (Documentation/ABI/testing/dev-kmsg).
const RECORD: usize = 8192;

/// How many records are read at most, so that a kernel that logs without end is not waited for.
const RECORDS: usize = 20_000;

/// A process that the kernel killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The first 15 bytes of its program's name.
    pub name: String,
    /// Its memory that was in no file, in bytes.
    pub memory: u64,
    /// Its uid, outside of all user namespaces (Linux 5.3).
    pub uid: Option<u32>,
}

/// What was seen between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Kills in the build's own cgroup.
    pub build: u64,
    /// Kills in the cgroup of this process.
    pub session: u64,
    /// Kills on the whole machine.
    pub machine: u64,
    /// The victims, where the kernel's messages may be read; the last is the latest.
    pub victims: Vec<Victim>,
}

/// The first look.
pub struct Watch {
    build: Option<PathBuf>,
    session: Vec<PathBuf>,
    before: (u64, u64),
    messages: Option<File>,
}

impl Watch {
    /// Looks for the first time. `build` is the build's own cgroup, where it has one; nothing was killed in it yet.
    pub fn begin(place: &Place, build: Option<PathBuf>) -> Self {
        let v2 = place.v2.as_ref().map(|folder| folder.join("memory.events"));
        let v1 = place.memory_v1.as_ref().map(|folder| folder.join("memory.oom_control"));
        let session: Vec<PathBuf> = [v2, v1].into_iter().flatten().collect();
        let before = (kills(&session), kills_of_machine());
        Self { build: build.map(|folder| folder.join("memory.events")), session, before, messages: open_messages() }
    }

    /// Looks again.
    pub fn end(mut self) -> Seen {
        let (session, machine) = self.before;
        Seen {
            build: kills(self.build.as_slice()),
            session: kills(&self.session).saturating_sub(session),
            machine: kills_of_machine().saturating_sub(machine),
            victims: self.messages.as_mut().map(read_victims).unwrap_or_default(),
        }
    }
}

/// `memory.events` of v2 and `memory.oom_control` of v1 (Linux 4.13) call it the same.
fn kills(files: &[PathBuf]) -> u64 {
    files.iter().filter_map(|file| field(&fs::read_to_string(file).ok()?, "oom_kill")).sum()
}

fn kills_of_machine() -> u64 {
    fs::read_to_string("/proc/vmstat").ok().and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
}

/// The kernel's messages from now on. Many systems keep them from ordinary users (kernel.dmesg_restrict).
fn open_messages() -> Option<File> {
    let mut file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    file.seek(SeekFrom::End(0)).ok().map(|_| file)
}

fn read_victims(messages: &mut File) -> Vec<Victim> {
    let mut victims = Vec::new();
    let mut record = [0; RECORD];
    for _ in 0..RECORDS {
        match files::read_part(messages, &mut record) {
            Ok([]) => break,
            Ok(record) => victims.extend(victim(&String::from_utf8_lossy(record))),
            // Some were overwritten before they were read; the next one is there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EINTR)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => break,
        }
    }
    victims
}

/// Parses `Out of memory: Killed process 4711 (cc1plus) total-vm:…kB, anon-rss:…kB, … UID:1000 …` (mm/oom_kill.c), also as
/// older kernels and those of RHEL 8 write it. The name is the program's own choice and may hold anything.
fn victim(record: &str) -> Option<Victim> {
    let line = record.lines().next()?;
    let (_, rest) = line.split_once("Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    let (head, figures) = rest.rsplit_once("total-vm:")?;
    if pid.is_empty() || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (name, between) = head.rsplit_once(')')?;
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    let after = |text: &str, key: &str| text.split_once(key).and_then(|(_, rest)| number(rest));
    let uid = after(figures, "UID:").or_else(|| after(between, "UID "));
    Some(Victim {
        name: name.into(),
        memory: after(figures, "anon-rss:")?.saturating_mul(1024),
        uid: uid.and_then(|uid| u32::try_from(uid).ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_names_whom_it_killed() {
        let rows = [
            (
                "3,1402,98765432,-;Out of memory: Killed process 4711 (cc1plus) total-vm:3812340kB, anon-rss:3250312kB, file-rss:128kB, shmem-rss:0kB, UID:1000 pgtables:7480kB oom_score_adj:0\n SUBSYSTEM=memory\n",
                Some(("cc1plus", 3_250_312, Some(1000))),
            ),
            (
                "3,77,5,-;Memory cgroup out of memory: Killed process 99 (python3) total-vm:1kB, anon-rss:2kB, file-rss:3kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0",
                Some(("python3", 2, Some(0))),
            ),
            // Linux 4.9, and RHEL 8.
            (
                "3,9,5,-;Killed process 5123 (ld.gold) total-vm:2048kB, anon-rss:1024kB, file-rss:0kB, shmem-rss:0kB",
                Some(("ld.gold", 1024, None)),
            ),
            (
                "3,9,5,-;Killed process 25521 (stress), UID 1001, total-vm:1056800kB, anon-rss:1023456kB, file-rss:268kB, shmem-rss:0kB",
                Some(("stress", 1_023_456, Some(1001))),
            ),
            // A program chooses its own name.
            (
                "3,9,5,-;Out of memory: Killed process 7 (a) (b total-vm:) total-vm:10kB, anon-rss:20kB, UID:5 x",
                Some(("a) (b total-vm:", 20, Some(5))),
            ),
            ("6,1,2,-;Killed process (x) total-vm:1kB", None),
            ("6,1,2,-;cc1plus invoked oom-killer: gfp_mask=0x140cca", None),
            ("6,1,2,-;Killed process 12 (half", None),
            ("", None),
        ];
        for (record, expected) in rows {
            let found = victim(record);
            let found = found.as_ref().map(|victim| (victim.name.as_str(), victim.memory / 1024, victim.uid));
            assert_eq!(found, expected, "{record}");
        }
    }

    #[test]
    fn counters_of_both_versions() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
        let place = Place { v2: Some(folder.path().into()), memory_v1: Some(folder.path().into()), ..Place::default() };
        write("memory.events", "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n");
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n");
        let build = folder.path().join("leaf");
        fs::create_dir(&build).expect("a folder");
        let watch = Watch::begin(&place, Some(build.clone()));
        fs::write(build.join("memory.events"), "oom 3\noom_kill 2\n").expect("a file");
        write("memory.events", "oom 2\noom_kill 3\n");
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n");
        let seen = watch.end();
        assert_eq!((seen.build, seen.session), (2, 3));
        assert_eq!(Watch::begin(&Place::default(), None).end().session, 0);
    }
}
