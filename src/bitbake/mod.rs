//! BitBake's input (conf, arguments) and output (events). Starts nothing and reads no files.

mod conf;
mod console;
mod deep;
pub(crate) mod log;
mod ui_protocol;

use std::path::{Path, PathBuf};

pub(crate) use conf::{assignment, bblayers_conf, local_conf};
pub(crate) use console::Console;
pub(crate) use deep::{Finding, Looked, Source};
pub(crate) use ui_protocol::{Answer, NO_ROOM, UiMessage, parse_line};

use crate::plan::Plan;

/// The folder of smidr's own files in the sandbox. No distribution has it.
pub(crate) const OWN_FOLDER: &str = "/.smidr";

/// smidr's user interface for BitBake, which is GPL-2.0-only, since it imports BitBake, and conf: files under [`OWN_FOLDER`].
pub(crate) const OWN_FILES: [(&str, &str); 7] = [
    ("launch.py", include_str!("ui/launch.py")),
    ("smidr.py", include_str!("ui/smidr.py")),
    ("smidr_ask.py", include_str!("ui/smidr_ask.py")),
    ("smidr_deep.py", include_str!("ui/smidr_deep.py")),
    (FEWER, include_str!("fewer.conf")),
    (FETCH_ALL, include_str!("fetch-all.conf")),
    ("fetch-all.bbclass", include_str!("fetch-all.bbclass")),
];

/// Below [`OWN_FOLDER`]: conf for a second try after memory ran out.
pub(crate) const FEWER: &str = "fewer.conf";

/// Below [`OWN_FOLDER`]: conf that has a recipe's other sources fetched where one cannot be had. With it BitBake parses all recipes again.
const FETCH_ALL: &str = "fetch-all.conf";

/// Below [`OWN_FOLDER`]: programs that wait for BitBake's lock and then run the command of the same name, for a shell beside a running build.
pub(crate) const WAITING: &str = "bin";
/// Their names.
pub(crate) const WAITING_NAMES: [&str; 7] =
    ["bitbake", "bitbake-diffsigs", "bitbake-dumpsig", "bitbake-getvar", "bitbake-layers", "devtool", "recipetool"];
/// Their text.
pub(crate) const WAITING_TEXT: &str = include_str!("wait.sh");

/// The command that runs BitBake with smidr's user interface, which is in `own`.
pub(crate) fn command(plan: &Plan, own: &Path) -> Vec<String> {
    if plan.fetch_only {
        return fetch_command(plan, own);
    }
    with_targets(launcher(own, "smidr"), plan)
}

/// The command that looks what would fail. Runs no task.
pub(crate) fn deep_command(plan: &Plan, own: &Path) -> Vec<String> {
    with_targets(launcher(own, "smidr_deep"), plan)
}

/// The command that fetches all sources of the plan's targets, and of everything that these need.
pub(crate) fn fetch_command(plan: &Plan, own: &Path) -> Vec<String> {
    let mut argv = launcher(own, "smidr");
    // `-c fetch` on an image fetches nothing: its own fetch task is empty.
    argv.push("--runall=fetch".into());
    if plan.fetch_only {
        // All that cannot be had is to be known at once.
        argv.extend(["-k".into(), "-R".into(), own.join(FETCH_ALL).display().to_string()]);
    }
    with_targets(argv, plan)
}

/// A command in the environment that OpenEmbedded's `oe-init-build-env` in the folder `init` makes, as another tool sources it, and the folder to start it in.
/// `passed` are the variables that BitBake takes beside those that the script names.
pub(crate) fn in_environment(argv: Vec<String>, init: &Path, top: &Path, passed: &[String]) -> (Vec<String>, PathBuf) {
    // The script writes into the conf of its build folder, which builds may not: it gets a copy, and what it then names is put right. One that
    // sets neither list means that nothing is to be passed.
    const SCRIPT: &str = r#"smidr_top=$1 smidr_passed=$2; shift 2
smidr_copy=$(mktemp -d) && cp -r "$smidr_top/conf" "$smidr_copy/" || exit
. ./oe-init-build-env "$smidr_copy" >/dev/null || exit
for smidr_name in $(compgen -e); do
    smidr_value=${!smidr_name}
    case $smidr_value in *"$smidr_copy"*) export "$smidr_name=${smidr_value//"$smidr_copy"/"$smidr_top"}";; esac
done
if [ -n "${BB_ENV_EXTRAWHITE+set}" ]; then export BB_ENV_EXTRAWHITE="$BB_ENV_EXTRAWHITE $smidr_passed"
elif [ -n "${BB_ENV_PASSTHROUGH_ADDITIONS+set}" ]; then export BB_ENV_PASSTHROUGH_ADDITIONS="$BB_ENV_PASSTHROUGH_ADDITIONS $smidr_passed"; fi
cd "$smidr_top" && rm -rf "$smidr_copy" && exec "$@""#;
    let words = ["bash", "-c", SCRIPT, "oe-init-build-env", &top.display().to_string(), &passed.join(" ")];
    (words.into_iter().map(String::from).chain(argv).collect(), init.to_path_buf())
}

fn with_targets(mut argv: Vec<String>, plan: &Plan) -> Vec<String> {
    if let Some(task) = plan.task.as_ref().filter(|_| !plan.fetch_only) {
        argv.extend(["-c".into(), task.clone()]);
    }
    argv.extend(plan.bitbake_args.iter().chain(&plan.targets).cloned());
    argv
}

fn launcher(own: &Path, interface: &str) -> Vec<String> {
    // -I would ignore PYTHON* variables, which a config may set on purpose; -B because nothing here can be written.
    let script = own.join("launch.py").display().to_string();
    ["python3", "-B", &script, "-u", interface].map(String::from).into()
}

/// Variables that users set for one command, as in `MACHINE=qemuarm64 bitbake IMAGE` (oe-buildenv-internal).
pub(crate) const TYPED: &str =
    "MACHINE DISTRO SDKMACHINE TCLIBC TCMODE BB_SRCREV_POLICY BB_SETSCENE_ENFORCE BB_LOGCONFIG";

/// The command that cleans recipes.
pub(crate) fn clean_command<'a>(recipes: impl Iterator<Item = &'a String>, own: &Path) -> Vec<String> {
    let mut argv = launcher(own, "smidr");
    argv.extend(["-c", "clean"].map(String::from));
    argv.extend(recipes.cloned());
    argv
}

/// What `oe-init-build-env` sets, for programs that users start by hand: `core` is OpenEmbedded-Core's COREBASE, `template` the folder of
/// conf that its layers start with. BDIR and BITBAKEDIR are for the script itself, should it be sourced.
pub(crate) fn init_environment(
    top: &Path,
    bitbake: Option<&Path>,
    core: Option<&Path>,
    template: Option<&Path>,
) -> Vec<(String, String)> {
    let mut env = Vec::new();
    let mut set = |name: &str, path: &Path| env.push((name.to_owned(), path.display().to_string()));
    ["BUILDDIR", "BBPATH", "BDIR"].iter().for_each(|name| set(name, top));
    if let Some(bitbake) = bitbake {
        set("BITBAKEDIR", bitbake);
        set("PYTHONPATH", &bitbake.join("lib"));
    }
    if let Some(template) = template.filter(|_| core.is_some()) {
        set("TEMPLATECONF", template);
    }
    env
}

/// PATH inside: OpenEmbedded-Core's scripts where users type commands, BitBake's own folder, then the image's PATH.
pub(crate) fn search_path(core: Option<&Path>, bitbake: Option<&Path>, image: Option<&str>) -> String {
    let image = image.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let scripts = core.map(|folder| folder.join("scripts"));
    let bin = bitbake.map(|folder| folder.join("bin"));
    let folders = scripts.into_iter().chain(bin).map(|folder| folder.display().to_string());
    folders.chain([image.to_owned()]).collect::<Vec<_>>().join(":")
}
