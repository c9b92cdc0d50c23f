//! `smidr run` with the caller's terminal as some of its streams.

use std::{fs, path::Path, process::Child};

use super::{
    screen::{Screen, runs_on_terminal},
    support::{World, skip, smidr_bin, tool},
};

/// Looks for a terminal of that number among its streams and behind /dev/tty, switches echo off wherever it can, and reads whatever
/// comes. Leaves what it found in a file.
const ATTACK: &str = r#"
import os, select, stat, sys, termios
theirs, found = int(sys.argv[1]), open(sys.argv[2], "w")
def tell(*words):
    print(*words, file=found, flush=True)
descriptors = [0, 1, 2]
for path in ("/dev/tty", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/proc/1/fd/0"):
    try:
        descriptors.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except OSError:
        pass
for fd in descriptors:
    os.set_blocking(fd, False)
    held = os.fstat(fd)
    if stat.S_ISCHR(held.st_mode) and held.st_rdev == theirs:
        tell("held", fd)
    try:
        modes = termios.tcgetattr(fd)
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(fd, termios.TCSANOW, modes)
    except (termios.error, OSError):
        pass
tell("terminals", *[int(os.isatty(fd)) for fd in (0, 1, 2)])
open(sys.argv[2] + ".ready", "w")
terminals = [fd for fd in descriptors if os.isatty(fd)]
for _ in range(10):
    for fd in select.select(terminals, [], [], 0.1)[0]:
        try:
            typed = os.read(fd, 100)
            if typed:
                tell("read", fd, typed)
        except OSError:
            pass
sys.exit(7)
"#;

/// A shell on a terminal; `$0` is smidr.
fn shell(setsid: &Path, world: &World, script: &str, args: &[&str]) -> (Screen, Child) {
    let smidr = smidr_bin().display().to_string();
    let mut all = vec!["-c", script, &smidr];
    all.extend(args);
    runs_on_terminal(setsid, world, Path::new("/bin/sh"), &all)
}

#[test]
fn a_program_holds_nothing_of_the_callers_terminal() {
    let name = "terminals::a_program_holds_nothing_of_the_callers_terminal";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = World::with_project(name) else { return };
    let found = world.project().join("layers/meta-hello/found");
    let ready = world.project().join("layers/meta-hello/found.ready");
    // What the program's streams are, and whether the next line is the caller's: with `keys` or lines it may be read in there.
    let rows = [
        ("", "1 1 1", false),
        ("2>/dev/null", "1 1 0", false),
        ("</dev/null", "0 1 1", true),
        ("</dev/null 2>/dev/null", "0 1 0", true),
        ("</dev/null >/dev/null", "0 0 1", true),
        ("| cat", "0 0 1", false),
        ("2>&1 | cat", "0 0 0", false),
        (">/dev/null", "0 0 1", false),
        ("</dev/null 2>&1 | cat", "0 0 0", true),
        ("</dev/tty >/dev/tty", "1 1 1", false),
    ];
    for (streams, terminals, kept) in rows {
        let _ = (fs::remove_file(&found), fs::remove_file(&ready));
        let script = format!(
            "before=$(stty -g); \"$0\" run -- python3 -c \"$1\" $(cat number) \"$2\" {streams}; \
             echo \"code $?\"; test \"$before\" = \"$(stty -g)\" && echo the\" \"same; {}",
            if kept { "read line; echo \"line <$line>\"" } else { "echo 'line <mine>'" }
        );
        // The number is known only once there is a terminal: the shell waits for it.
        let script = format!("until test -s number; do sleep 0.02; done; {script}; rm number");
        let (mut screen, mut child) = shell(&setsid, &world, &script, &[ATTACK, &found.display().to_string()]);
        world.write("number", &screen.number.to_string());
        screen.until("the attack", || ready.exists());
        screen.types(if kept { "mine\n" } else { "\n" });
        screen.says("line <mine>");
        screen.until_closed();
        child.wait().expect("it ends");
        let told = fs::read_to_string(&found).expect("what it found");
        assert!(!told.contains("held"), "{streams}: {told}");
        assert!(told.contains(&format!("terminals {terminals}\n")), "{streams}: {told}");
        assert!(!kept || !told.contains("read"), "{streams}: {told}");
        screen.says("the same");
        if !streams.contains('|') {
            screen.says("code 7");
        }
    }
}

#[test]
fn terminal_input_reaches_a_program_before_a_pipe() {
    let name = "terminals::terminal_input_reaches_a_program_before_a_pipe";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = World::with_project(name) else { return };
    let script =
        "\"$0\" run -- sh -c 'echo ready; cat; echo over' | sed 's/^/seen: /'; read line; echo \"line <$line>\"";
    let (mut screen, mut child) = shell(&setsid, &world, script, &[]);
    screen.says("seen: ready\r\n");
    // Erased by the terminal, not by the program.
    screen.types("onx\x7fe\n");
    screen.says("seen: one\r\n");
    screen.types("\x04");
    screen.says("seen: over\r\n");
    screen.types("mine\n");
    screen.says("line <mine>");
    screen.until_closed();
    child.wait().expect("it ends");
    // Ctrl-C goes to the whole pipeline, as usual.
    let script = "trap : INT; \"$0\" run -- sh -c 'trap \"echo caught; exit 3\" INT; echo ready; while :; do sleep 0.05; done' </dev/null; echo \"code $?\"";
    let (mut screen, mut child) = shell(&setsid, &world, script, &[]);
    screen.says("ready");
    screen.types("\x03");
    screen.says("caught");
    screen.says("code 3");
    screen.until_closed();
    child.wait().expect("it ends");
}

#[test]
fn a_pager_gets_the_keys() {
    let name = "terminals::a_pager_gets_the_keys";
    let (Some(setsid), Some(_)) = (tool("setsid"), tool("python3")) else {
        return skip(name, "there is no setsid(1) or no python3");
    };
    let Some(world) = World::with_project(name) else { return };
    let pager = "import os, sys, termios, tty\nassert sys.stdin.readline() == 'ready\\n'\nfd = os.open('/dev/tty', os.O_RDWR)\n\
                 before = termios.tcgetattr(fd)\ntty.setcbreak(fd)\nos.write(fd, b'pager\\n')\nkeys = b''\nwhile len(keys) < 20: keys += os.read(fd, 1)\n\
                 termios.tcsetattr(fd, termios.TCSANOW, before)\nos.write(fd, b'keys ' + keys + b'\\n')\n";
    let script =
        "\"$0\" run -- sh -c 'echo ready; read line; echo \"line <$line>\" >&2' | python3 -c \"$1\"; echo done";
    let (mut screen, mut child) = shell(&setsid, &world, script, &[pager]);
    screen.says("pager");
    for key in "abcdefghijklmnopqrst".chars() {
        screen.types(&key.to_string());
    }
    screen.says("keys abcdefghijklmnopqrst");
    screen.types("after\n");
    screen.says("line <after>");
    screen.until_closed();
    child.wait().expect("it ends");
}

#[test]
fn in_the_background_it_neither_reads_nor_stops() {
    let name = "terminals::in_the_background_it_neither_reads_nor_stops";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = World::with_project(name) else { return };
    let script = "set -m; \"$0\" run -- sh -c 'echo ready; until test -e \"$1\"; do sleep 0.05; done; echo over' sh \"$1\" | cat & \
                  read line; echo \"line <$line>\"; read line; echo \"line <$line>\"; touch \"$1\"; wait; echo all\" \"done";
    let mark = world.project().join("layers/meta-hello/mark");
    let (mut screen, mut child) = shell(&setsid, &world, script, &[&mark.display().to_string()]);
    screen.says("ready");
    screen.types("one\n");
    screen.says("line <one>");
    screen.types("two\n");
    screen.says("line <two>");
    screen.says("over");
    screen.says("all done");
    screen.until_closed();
    child.wait().expect("it ends");
}
