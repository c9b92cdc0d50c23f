//! Output of builds never acts on a terminal or a CI system, wherever it is shown.

use std::path::Path;

use super::{
    screen::on_kind_of_terminal,
    support::{World, skip, tool},
};

/// Escape sequences and the like: clipboard, window title, clear screen, text direction, a command to a CI system, and a forged error.
const HOSTILE: &str = r"\033]52;c;eA==\007\033]0;title\007\033[2J\302\233 1m\342\200\256\r";

/// A recipe that prints it in every way that a build has.
fn hostile(world: &World) {
    world.write(
        "layers/meta-hello/recipes-hello/hostile/hostile.bb",
        &format!(
            r#"SUMMARY = "says what it should not"
LICENSE = "CLOSED"
inherit nobuild
python do_speak() {{
    text = b'{HOSTILE}'.decode() + chr(10) + '::add-mask::x' + chr(10) + 'error: forged ##vso[a.b]c'
    bb.plain(text)
    bb.warn(text)
    print(text)
    os.makedirs(d.expand('${{DEPLOY_DIR_IMAGE}}'), exist_ok=True)
    open(d.expand('${{DEPLOY_DIR_IMAGE}}/') + text.replace('/', ''), 'w').close()
    if d.getVar('FAILS') == '1':
        bb.error(text)
        bb.fatal(text)
}}
do_speak[nostamp] = "1"
addtask speak before do_build
FAILS ?= "0"
"#
        ),
    );
}

/// What was printed holds nothing raw but colours and, on a terminal, what draws the line of progress.
fn expect_shown(what: &str, printed: &str) {
    for raw in ["\x1b]", "\x1b[2J", "\x07", "\u{9b}", "\u{202e}", "\n::", "\n  ::", "##vso["] {
        assert!(!printed.contains(raw), "{what}: {raw:?} in\n{printed:?}");
    }
    // A log stands alone; everything else stands among lines of smidr's own.
    assert!(what.contains("--task") || !printed.contains("\nerror: forged"), "{what}:\n{printed:?}");
    assert!(!printed.starts_with("::") && printed.contains("add-mask"), "{what} does not say it:\n{printed:?}");
}

fn on_screen(setsid: &Path, world: &World, args: &[&str]) -> String {
    let (mut screen, mut child) = on_kind_of_terminal("xterm-256color", setsid, world, args);
    screen.until_closed();
    child.wait().expect("smidr ends");
    screen.seen().replace("\r\n", "\n")
}

#[test]
fn build_output_reaches_no_terminal_unfiltered() {
    let name = "foreign::build_output_reaches_no_terminal_unfiltered";
    let Some(setsid) = tool("setsid") else { return skip(name, "there is no setsid(1)") };
    let Some(world) = World::with_project(name) else { return };
    hostile(&world);
    expect_shown("build on a terminal", &on_screen(&setsid, &world, &["build", "--target", "hostile"]));
    let piped = world.smidr().args(["build", "--target", "hostile"]).run();
    piped.expect_code(0);
    expect_shown("build", &piped.err);
    assert!(!piped.err.contains('\x1b'), "{:?}", piped.err);
    let views: [&[&str]; 5] = [
        &["logs"],
        &["artifacts", "list"],
        &["artifacts", "show"],
        &["artifacts", "list", "--json"],
        &["logs", "--task", "hostile:do_speak"],
    ];
    for view in views {
        expect_shown(&view.join(" "), &on_screen(&setsid, &world, view));
        if view.contains(&"--task") {
            let raw = world.smidr().args(view).run();
            assert!(raw.out.contains("\x1b[2J"), "a pipe gets a log as it is: {:?}", raw.out);
        } else {
            expect_shown(&view.join(" "), &world.smidr().args(view).run().out);
        }
    }
    world.edit("layers/meta-hello/recipes-hello/hostile/hostile.bb", "FAILS ?= \"0\"", "FAILS ?= \"1\"");
    let failed = world.smidr().args(["build", "--target", "hostile"]).run();
    expect_shown("a build that fails", failed.expect_code(1).err.as_str());
    expect_shown("a build that fails, on a terminal", &on_screen(&setsid, &world, &["build", "--target", "hostile"]));
    expect_shown("the log of a build that failed", &on_screen(&setsid, &world, &["logs"]));
}

#[test]
fn control_characters_in_names_and_configs_are_escaped() {
    let world = World::new();
    let hostile = "a\x1b[2J\u{9b}\n::add-mask::x\nerror: forged ##vso[a.b]c";
    let wrong = world.smidr().args(["status", "b", hostile]).run();
    expect_shown("a command line", wrong.expect_code(2).err.as_str());
    let missing = world.smidr().args(["--config", hostile, "check"]).run();
    expect_shown("a name", missing.err.as_str());
    let config = world.work.join("smidr.yaml");
    let key = "a\\e[2J\\x9b\\u202e\\n::add-mask::x\\nerror: forged ##vso[a.b]c";
    // Such characters may be written in YAML as escapes; raw ones stop its parser, which quotes them.
    std::fs::write(&config, format!("\"{key}\": 1\nbase: \u{202e}x\n")).expect("a config");
    expect_shown("a config", world.smidr().arg("check").run().expect_code(2).err.as_str());
    std::fs::write(&config, "add-mask: 1\nbase: \u{9b}x\n").expect("a config");
    let raw = world.smidr().arg("check").run();
    assert!(!raw.expect_code(2).err.contains('\u{9b}') && raw.err.contains("\\u{9b}"), "{raw:?}");
}
