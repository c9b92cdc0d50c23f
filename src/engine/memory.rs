//! Whether memory ran out, judged by what the kernel counted and named and by what failed tasks say. Pure.
//!
//! A build that succeeds had enough. One that failed while something else of this machine was killed did not fail for that.

use crate::{
    model::{Hint, TaskName},
    system::oom::Seen,
};

/// What a line of a failed task's log says about memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// A compiler was killed; its driver names it.
    CompilerKilled(String),
    /// A program was refused memory and gave up.
    Refused(Option<String>),
    /// Something was killed, for whatever reason.
    Killed,
}

/// What speaks for it, at the end of a build that failed.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    /// What the kernel counted and named while the build ran.
    pub seen: &'a Seen,
    /// The most telling sign, and the task whose log has it.
    pub sign: Option<&'a (TaskName, Sign)>,
    /// The first task that failed.
    pub failed: Option<&'a TaskName>,
    /// Whether a signal that smidr did not send ended BitBake.
    pub killed: bool,
    /// Whether another build of this user ran meanwhile: what the session and the machine counted may be its.
    pub shared: bool,
    /// Whose processes the build's are, outside.
    pub uid: u32,
}

/// The most telling sign in a log.
pub(super) fn sign_of(log: &[String]) -> Option<Sign> {
    log.iter().filter_map(|line| sign_in(line)).max_by_key(weight)
}

/// How much a sign tells.
pub(super) fn weight(sign: &Sign) -> u8 {
    match sign {
        Sign::CompilerKilled(_) => 3,
        Sign::Refused(Some(_)) => 2,
        Sign::Refused(None) => 1,
        Sign::Killed => 0,
    }
}

fn sign_in(line: &str) -> Option<Sign> {
    // gcc.c, "Killed signal terminated program"; older ones: "internal compiler error: Killed (program cc1plus)".
    if let Some((_, rest)) = line.split_once("Killed signal terminated program ") {
        return Some(Sign::CompilerKilled(first_word(rest)));
    }
    if let Some((_, rest)) = line.split_once("internal compiler error: Killed (program ") {
        return Some(Sign::CompilerKilled(first_word(rest)));
    }
    let lower = line.to_ascii_lowercase();
    let refused =
        ["virtual memory exhausted", "cannot allocate memory", "out of memory allocating", "memory exhausted"];
    if let Some(at) = refused.iter().filter_map(|words| lower.find(words)).min() {
        return Some(Sign::Refused(speaker(line.get(..at).unwrap_or_default())));
    }
    // What shells, make and ninja say of a child that got SIGKILL; BitBake says the exit status.
    let killed = line.ends_with(" Killed")
        || line.contains(" Killed  ")
        || line.ends_with("] Error 137")
        || line.contains("exit code 137")
        || line.contains("signal: 9, SIGKILL");
    killed.then_some(Sign::Killed)
}

/// Who speaks: `cc1plus` in `cc1plus: out of memory allocating …`, `ld` in `/usr/bin/ld: …`.
fn speaker(before: &str) -> Option<String> {
    let name = before.trim_end().strip_suffix(':')?.rsplit([' ', '/', ':']).next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    (name.contains(|c: char| c.is_ascii_alphabetic()) && name.chars().all(plain)).then(|| name.into())
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| !c.is_whitespace() && !matches!(c, ')' | '\'')).collect()
}

/// One sentence that says so, if memory did run out.
pub(super) fn verdict(evidence: &Evidence<'_>) -> Option<String> {
    let Evidence { seen, sign, failed, killed, shared, uid } = evidence;
    let told = sign.map(|(_, sign)| sign);
    let task = sign.map(|(task, _)| task).or(*failed);
    let during = task.map_or_else(|| "while BitBake ran".into(), |task| format!("while {task} ran"));
    let named = match told {
        Some(Sign::CompilerKilled(name)) => Some(name.as_str()),
        _ => None,
    };
    let ours = |victim: &&crate::system::oom::Victim| victim.uid.is_none_or(|owner| owner == *uid);
    let same = |victim: &&crate::system::oom::Victim| named.is_none_or(|name| victim.name == name);
    let victims = || seen.victims.iter().rev().filter(ours);
    let victim = victims().find(same).or_else(|| victims().next());
    // Among several builds only the name of the program tells whose it was.
    let is_ours = match shared {
        true => named.is_some_and(|name| victims().any(|victim| victim.name == name)),
        false => told.is_some() || *killed,
    };
    let by_kernel = seen.build > 0 || seen.session + seen.machine > 0 && is_ours;
    if by_kernel && !matches!(told, Some(Sign::Refused(_))) {
        let whom = match (victim, named) {
            (Some(victim), _) => format!("{} ({})", victim.name, size(victim.memory)),
            (None, Some(name)) => name.into(),
            (None, None) => "a process".into(),
        };
        return Some(format!("memory ran out: the kernel killed {whom} {during}"));
    }
    match told? {
        Sign::CompilerKilled(name) => Some(format!("memory ran out, most likely: {name} was killed {during}")),
        Sign::Refused(Some(name)) => Some(format!("memory ran out: {name} was refused more {during}")),
        Sign::Refused(None) => Some(format!("memory ran out: a program was refused more {during}")),
        Sign::Killed => None,
    }
}

/// What to do about it. `limit` is the build's own, in bytes.
pub(super) fn hint(limit: Option<u64>) -> Hint {
    let less = "let less run at once (build.parallel_make, build.bb_number_threads)";
    Hint::new(match limit {
        Some(limit) => format!("{less}, or raise host.memory, which is {}", size(limit)),
        None => format!("{less}; C++ compilers and linkers take 1.5 GiB each and more"),
    })
}

/// Memory for people, in the units of the config.
pub(super) fn size(bytes: u64) -> String {
    const MIB: f64 = 1_048_576.0;
    let mib = bytes as f64 / MIB;
    match mib {
        1023.5.. if (mib / 1024.0).fract() < 0.05 => format!("{:.0} GiB", mib / 1024.0),
        1023.5.. => format!("{:.1} GiB", mib / 1024.0),
        _ => format!("{mib:.0} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::oom::Victim;

    fn task(name: &str) -> TaskName {
        TaskName { recipe: name.into(), task: "do_compile".into() }
    }

    #[test]
    fn what_logs_say() {
        let compiler = |name: &str| Some(Sign::CompilerKilled(name.into()));
        let refused = |name: &str| Some(Sign::Refused(Some(name.into())));
        let rows = [
            ("x86_64-poky-linux-g++: fatal error: Killed signal terminated program cc1plus", compiler("cc1plus")),
            ("g++: internal compiler error: Killed (program cc1plus)", compiler("cc1plus")),
            ("x86_64-poky-linux-gcc: internal compiler error: Killed (program cc1)", compiler("cc1")),
            ("cc1plus: out of memory allocating 65536 bytes after a total of 158720000 bytes", refused("cc1plus")),
            ("virtual memory exhausted: Cannot allocate memory", Some(Sign::Refused(None))),
            ("/usr/lib/gcc/x86_64-linux-gnu/12/../../ld: memory exhausted", refused("ld")),
            ("fatal: Out of memory, malloc failed", None),
            ("OSError: [Errno 12] Cannot allocate memory", Some(Sign::Refused(None))),
            ("make[2]: *** [Makefile:12: big.o] Killed", Some(Sign::Killed)),
            ("make[2]: *** [Makefile:12: big.o] Error 137", Some(Sign::Killed)),
            ("/w/temp/run.do_act.77: 119: Killed", Some(Sign::Killed)),
            ("/w/temp/run.do_act.77: line 119:    81 Killed                  python3 -c 'x'", Some(Sign::Killed)),
            ("WARNING: exit code 137 from a shell command.", Some(Sign::Killed)),
            ("warning: process (signal: 9, SIGKILL: kill)", Some(Sign::Killed)),
            ("hello.c:14:15: error: 'txt' undeclared", None),
            ("Killed by Death", None),
        ];
        for (line, expected) in rows {
            assert_eq!(sign_in(line), expected, "{line}");
        }
        let log = ["make: *** [x] Error 137", "gcc: fatal error: Killed signal terminated program cc1", "end"];
        assert_eq!(sign_of(&log.map(String::from)), compiler("cc1"));
    }

    #[test]
    fn one_sentence_or_none() {
        let victim = |name: &str, uid| Victim { name: name.into(), memory: 3_328_319_488, uid };
        let seen =
            |build, session, machine, victims: &[Victim]| Seen { build, session, machine, victims: victims.into() };
        let mine = victim("cc1plus", Some(1000));
        let browser = victim("firefox", Some(1001));
        let sign = |sign: Sign| Some((task("gcc"), sign));
        let compiler = || sign(Sign::CompilerKilled("cc1plus".into()));
        let rows = [
            (
                seen(1, 0, 1, std::slice::from_ref(&mine)),
                compiler(),
                false,
                Some("memory ran out: the kernel killed cc1plus (3.1 GiB) while gcc:do_compile ran"),
            ),
            (
                seen(1, 0, 1, &[]),
                None,
                false,
                Some("memory ran out: the kernel killed a process while a:do_compile ran"),
            ),
            (
                seen(0, 0, 1, std::slice::from_ref(&mine)),
                sign(Sign::Killed),
                false,
                Some("memory ran out: the kernel killed cc1plus (3.1 GiB) while gcc:do_compile ran"),
            ),
            (
                seen(0, 1, 0, &[]),
                compiler(),
                false,
                Some("memory ran out: the kernel killed cc1plus while gcc:do_compile ran"),
            ),
            (
                seen(0, 0, 1, &[victim("x", None)]),
                None,
                true,
                Some("memory ran out: the kernel killed x (3.1 GiB) while a:do_compile ran"),
            ),
            // Not counted by the kernel: a daemon of this machine may have killed it.
            (
                seen(0, 0, 0, &[]),
                compiler(),
                false,
                Some("memory ran out, most likely: cc1plus was killed while gcc:do_compile ran"),
            ),
            (
                seen(0, 0, 0, &[]),
                sign(Sign::Refused(None)),
                false,
                Some("memory ran out: a program was refused more while gcc:do_compile ran"),
            ),
            (
                seen(0, 0, 0, &[]),
                sign(Sign::Refused(Some("ld".into()))),
                false,
                Some("memory ran out: ld was refused more while gcc:do_compile ran"),
            ),
            // A task failed, and a browser was killed: these are two things.
            (seen(0, 3, 3, std::slice::from_ref(&browser)), None, false, None),
            (
                seen(0, 0, 1, &[browser]),
                sign(Sign::Killed),
                false,
                Some("memory ran out: the kernel killed a process while gcc:do_compile ran"),
            ),
            // Killed, but not for memory.
            (seen(0, 0, 0, &[]), sign(Sign::Killed), true, None),
            (seen(0, 0, 0, &[]), None, false, None),
        ];
        for (seen, sign, killed, expected) in rows {
            let failed = task("a");
            let shared = false;
            let evidence =
                Evidence { seen: &seen, sign: sign.as_ref(), failed: Some(&failed), killed, shared, uid: 1000 };
            assert_eq!(verdict(&evidence).as_deref(), expected, "{seen:?} {sign:?}");
        }
    }

    #[test]
    fn a_kill_in_another_build_explains_nothing() {
        let victim = |name: &str| Victim { name: name.into(), memory: 1 << 30, uid: Some(1000) };
        let seen = |build, victims: &[Victim]| Seen { build, session: 1, machine: 1, victims: victims.into() };
        let compiler = Sign::CompilerKilled("cc1plus".into());
        for (seen, sign, expected) in [
            (seen(0, &[victim("ld")]), Some(Sign::Killed), None),
            (seen(0, &[victim("ld")]), None, None),
            (seen(0, &[victim("ld")]), Some(compiler.clone()), Some("memory ran out, most likely: cc1plus")),
            (
                seen(0, &[victim("ld"), victim("cc1plus")]),
                Some(compiler),
                Some("memory ran out: the kernel killed cc1plus"),
            ),
            (seen(1, &[victim("ld")]), None, Some("memory ran out: the kernel killed ld")),
        ] {
            let (failed, sign) = (task("a"), sign.map(|sign| (task("a"), sign)));
            let evidence = Evidence {
                seen: &seen,
                sign: sign.as_ref(),
                failed: Some(&failed),
                killed: true,
                shared: true,
                uid: 1000,
            };
            let found = verdict(&evidence);
            assert!(found.as_deref().unwrap_or_default().starts_with(expected.unwrap_or_default()), "{found:?}");
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_config() {
        let rows =
            [(8 << 30, "8 GiB"), (3_328_319_488, "3.1 GiB"), (512 << 20, "512 MiB"), (1 << 20, "1 MiB"), (0, "0 MiB")];
        for (bytes, text) in rows {
            assert_eq!(size(bytes), text);
        }
    }
}
