//! Whether this machine has enough for a build: memory, processes, files, watches.

use std::path::Path;

use super::finding::Finding;
use crate::{
    cli::output::bytes,
    model::SystemFacts,
    system::{filesystem::FileSystem, limits::Limits},
};

/// What a C++ compiler needs; BitBake starts as many as there are processors.
const PER_THREAD: u64 = 1_500_000_000;

/// BitBake itself, its parsers and servers.
const FEW_FILES: u64 = 4096;

/// BitBake before 2.6 watches each folder with recipes.
const FEW_WATCHES: u64 = 8192;
const FEW_WATCHERS: u64 = 16;

/// All findings about limits of this machine.
pub(super) fn machine(limits: &Limits, facts: &SystemFacts) -> Vec<Finding> {
    let mut findings = vec![memory(limits, facts), processes(limits, facts), open_files(limits)];
    findings.extend(watches(limits));
    findings.push(umask(limits));
    findings.extend(tmp());
    findings
}

fn memory(limits: &Limits, facts: &SystemFacts) -> Finding {
    let (cpus, whole) = (u64::from(facts.cpus.max(1)), facts.memory);
    let memory = limits.memory.map_or(whole, |limit| limit.min(whole));
    let of = if memory < whole { format!(" of {} (memory.max)", bytes(whole)) } else { String::new() };
    let text =
        format!("{}{of} for {cpus} processors, {} for each of BitBake's threads", bytes(memory), bytes(memory / cpus));
    if memory / cpus < PER_THREAD {
        let fit = (memory / PER_THREAD).max(1);
        return Finding::doubtful("memory", text).hint(format!(
            "C++ compilers take 1.5 GB each; in smidr.yaml:  build: {{threads: {fit}, parallel_make: {fit}}}"
        ));
    }
    Finding::good("memory", text)
}

fn processes(limits: &Limits, facts: &SystemFacts) -> Finding {
    // A task runs `make -j`, and each of its jobs a shell, a driver and a compiler.
    let need = 1000.max(50 * u64::from(facts.cpus));
    let (own, group) = (limits.processes, limits.tasks);
    let least = own.into_iter().chain(group).min();
    match least {
        None => Finding::good("processes", "as many as there is memory for"),
        Some(least) if least >= need => Finding::good("processes", format!("{least} processes and threads at once")),
        Some(least) if own == Some(least) => {
            Finding::doubtful("processes", format!("only {least} processes and threads at once (ulimit -u)"))
                .hint("as administrator, in /etc/security/limits.d/smidr.conf:  * - nproc 16384")
        }
        Some(least) => {
            Finding::doubtful("processes", format!("only {least} processes and threads at once (pids.max of the cgroup)"))
                .hint("as administrator:  systemctl set-property user-$(id -u).slice TasksMax=infinity  (a container:  --pids-limit -1 )")
        }
    }
}

fn open_files(limits: &Limits) -> Finding {
    match limits.open_files {
        None => Finding::good("open files", "as many as a program asks for"),
        Some(limit) if limit >= FEW_FILES => Finding::good("open files", format!("{limit} in each process")),
        Some(limit) => Finding::doubtful("open files", format!("only {limit} in each process (ulimit -Hn)"))
            .hint("as administrator, in /etc/security/limits.d/smidr.conf:  * hard nofile 16384"),
    }
}

fn watches(limits: &Limits) -> Option<Finding> {
    let (watches, watchers) = (limits.watches?, limits.watchers?);
    let text = format!("{watches} watches, {watchers} watchers; BitBake watches folders with recipes");
    let raise = |name: &str, to: u32| format!("as administrator:  sysctl -w fs.inotify.{name}={to}");
    Some(if watches < FEW_WATCHES {
        Finding::doubtful("inotify", text).hint(raise("max_user_watches", 524_288))
    } else if watchers < FEW_WATCHERS {
        Finding::doubtful("inotify", text).hint(raise("max_user_instances", 512))
    } else {
        Finding::good("inotify", text)
    })
}

fn umask(limits: &Limits) -> Finding {
    let umask = limits.umask;
    if umask & 0o700 != 0 {
        return Finding::doubtful("umask", format!("{umask:04o} denies you access to files that you make"))
            .hint("before smidr:  umask 022");
    }
    Finding::good("umask", format!("{umask:04o} here, 0022 in builds"))
}

/// Builds have a `/tmp` of their own in memory; apt and dpkg-deb unpack rootfs recipes in this one.
fn tmp() -> Option<Finding> {
    let system = FileSystem::of(Path::new("/tmp")).ok()?;
    let name = &system.name;
    Some(if system.noexec {
        Finding::doubtful("tmp", format!("no program may run from /tmp (noexec, {name}); builds have one of their own"))
            .hint("for programs of this machine that smidr starts:  export TMPDIR=DIR")
    } else {
        Finding::good("tmp", format!("programs may run from /tmp ({name}); builds have one of their own"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    fn facts(cpus: u32, memory: u64) -> SystemFacts {
        SystemFacts { cpus, memory, ..crate::system::facts::gather(Vec::new()) }
    }

    #[test]
    fn memory_is_shared_by_threads() {
        let much = memory(&Limits::default(), &facts(8, 32_000_000_000));
        assert_eq!(
            (much.verdict, much.text.as_str()),
            (Verdict::Good, "32.0 GB for 8 processors, 4.0 GB for each of BitBake's threads")
        );
        let little = memory(&Limits { memory: Some(6_000_000_000), ..Limits::default() }, &facts(8, 32_000_000_000));
        assert_eq!(little.verdict, Verdict::Doubtful);
        assert!(little.text.starts_with("6.0 GB of 32.0 GB (memory.max) for 8"), "{}", little.text);
        let hint = little.hint.expect("a hint");
        assert!(hint.ends_with("in smidr.yaml:  build: {threads: 4, parallel_make: 4}"), "{hint}");
        let none = memory(&Limits::default(), &facts(64, 0));
        assert!(none.hint.expect("a hint").contains("threads: 1,"), "at least one");
    }

    #[test]
    fn limits_that_are_too_low() {
        let few = |limits: Limits| processes(&limits, &facts(4, 1));
        assert_eq!(few(Limits::default()).verdict, Verdict::Good);
        assert_eq!(
            few(Limits { processes: Some(90_000), tasks: Some(10_000), ..Limits::default() }).verdict,
            Verdict::Good
        );
        let own = few(Limits { processes: Some(200), tasks: Some(500), ..Limits::default() });
        assert!(
            own.verdict == Verdict::Doubtful && own.text.contains("only 200") && own.text.contains("ulimit"),
            "{}",
            own.text
        );
        let group = few(Limits { processes: Some(90_000), tasks: Some(500), ..Limits::default() });
        assert!(group.text.contains("only 500") && group.text.contains("pids.max"), "{}", group.text);
        assert_eq!(open_files(&Limits { open_files: Some(1024), ..Limits::default() }).verdict, Verdict::Doubtful);
        assert_eq!(open_files(&Limits { open_files: Some(4096), ..Limits::default() }).verdict, Verdict::Good);
        assert_eq!(umask(&Limits { umask: 0o777, ..Limits::default() }).verdict, Verdict::Doubtful);
        assert_eq!(umask(&Limits { umask: 0o077, ..Limits::default() }).verdict, Verdict::Good);
    }

    #[test]
    fn watches_and_watchers() {
        let found = |watches, watchers| watches_of(Some(watches), Some(watchers)).expect("told");
        assert_eq!(found(192_000, 128).verdict, Verdict::Good);
        assert!(found(100, 128).hint.expect("a hint").contains("fs.inotify.max_user_watches="));
        assert!(found(192_000, 4).hint.expect("a hint").contains("fs.inotify.max_user_instances="));
        assert!(watches_of(None, Some(1)).is_none(), "a kernel without inotify, or no /proc");
    }

    fn watches_of(watches: Option<u64>, watchers: Option<u64>) -> Option<Finding> {
        super::watches(&Limits { watches, watchers, ..Limits::default() })
    }
}
