//! `smidr init`: a project that builds as it is. Writes a new folder, whole or not at all, or into this one.

use std::{ffi::OsString, fs, path::Path, process::ExitCode};

use include_dir::{Dir, include_dir};

use super::{
    args::Init,
    context,
    output::{say, talk, talk_lines},
    report::{Done, Failure, Refused},
    template, trust,
};
use crate::{
    config::provider,
    model::{BuildId, Hint, InvalidName},
    project::OtherTool,
    system::files::{FileError, remove_tree},
};

static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/templates/hello");

/// What is the user's own and not to be committed.
const IGNORED: &str = "/smidr.local.*\n";

/// Runs the command.
pub(super) fn init(args: &Init) -> Done {
    let is_here = args.name == ".";
    if let Some(other) = OtherTool::find_in(Path::new(".")).filter(|_| is_here) {
        let what =
            format!("there is a project of another tool here, {}, and nothing is written", other.file().display());
        return Err(Refused::new(what, [other.hint()]).into());
    }
    let name = if is_here { name_of_this_folder()? } else { args.name.clone() };
    if !BuildId::is_valid_name(&name) {
        return Err(InvalidName(name).into());
    }
    let target = Path::new(&args.name);
    if !is_here && target.symlink_metadata().is_ok() {
        let what = format!("`{}` exists already, and is left as it is", target.display());
        return Err(Refused::new(what, [Hint::new("choose another name, or remove it yourself")]).into());
    }
    // What is no provider is `hello`: the command line takes nothing else.
    let provider = provider::find(&args.template);
    let half = Path::new(".").join(format!(".smidr-init-{}", std::process::id()));
    let written = match &provider {
        Some(provider) => write_config(&half, &template::config(provider, &name)),
        None => write(&FILES, &half, &name),
    };
    let ignore = half.join(".gitignore");
    let written = written.and_then(|()| fs::write(&ignore, IGNORED).map_err(FileError::new("write", &ignore)));
    let written = written.map_err(Failure::from).and_then(|()| match is_here {
        true => settle_here(&half),
        false => Ok(fs::rename(&half, target).map_err(FileError::new("make visible", target))?),
    });
    let _ = remove_tree(&half);
    written?;
    trust_own(&target.join("smidr.yaml"));
    say(target.display().to_string());
    talk(if is_here { "next:  smidr build".into() } else { format!("next:  cd {} && smidr build", target.display()) });
    for warning in provider.iter().flat_map(template::warnings) {
        talk_lines(format!("warning: {warning}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn name_of_this_folder() -> Result<String, FileError> {
    let here = std::env::current_dir().map_err(FileError::new("find", Path::new(".")))?;
    Ok(here.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Moves what was written into this folder, the config last. What is there stays: a README, and a `.gitignore`, which gets a line more.
fn settle_here(half: &Path) -> Result<(), Failure> {
    let found = fs::read_dir(half).map_err(FileError::new("read the folder", half))?;
    let mut names: Vec<_> = found.flatten().map(|entry| entry.file_name()).collect();
    names.sort_by_key(|name| name == "smidr.yaml");
    let is_there = |name: &OsString| Path::new(name).symlink_metadata().is_ok();
    if let Some(name) = names.iter().find(|name| is_there(name) && *name != "README.md" && *name != ".gitignore") {
        let what = format!("`{}` exists already, and is left as it is", name.display());
        return Err(Refused::new(what, [Hint::new("choose another folder, or remove it yourself")]).into());
    }
    for name in &names {
        let path = Path::new(name);
        if name == ".gitignore" && is_there(name) {
            let old = fs::read_to_string(path).map_err(FileError::new("read", path))?;
            if !old.lines().any(|line| line == IGNORED.trim_end()) {
                let end = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
                fs::write(path, format!("{old}{end}{IGNORED}")).map_err(FileError::new("write", path))?;
            }
        } else if !is_there(name) {
            fs::rename(half.join(name), path).map_err(FileError::new("make visible", path))?;
        }
    }
    Ok(())
}

/// What the user has made here asks nothing later. Where that cannot be written down, it will be asked.
fn trust_own(file: &Path) {
    let facts = context::gather();
    let trusted = context::open_paths(&facts).and_then(|paths| trust::trust_all(file, &facts, &paths).map(drop));
    if let Err(failure) = trusted {
        talk(format!("warning: the project is not noted as yours, and will ask for what it needs: {failure}"));
    }
}

fn write_config(root: &Path, text: &str) -> Result<(), FileError> {
    fs::create_dir_all(root).map_err(FileError::new("make the folder", root))?;
    let file = root.join("smidr.yaml");
    fs::write(&file, text).map_err(FileError::new("write", &file))
}

fn write(dir: &Dir<'_>, root: &Path, name: &str) -> Result<(), FileError> {
    let folder = root.join(dir.path());
    fs::create_dir_all(&folder).map_err(FileError::new("make the folder", &folder))?;
    for file in dir.files() {
        let path = root.join(file.path());
        let content = match file.contents_utf8() {
            Some(text) if path.ends_with("smidr.yaml") => text.replace("@NAME@", name).into_bytes(),
            _ => file.contents().to_vec(),
        };
        fs::write(&path, content).map_err(FileError::new("write", &path))?;
    }
    dir.dirs().try_for_each(|dir| write(dir, root, name))
}
