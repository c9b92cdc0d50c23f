//! `smidr import`: a project of another tool as a smidr.yaml of its own, with what it is pinned to.

mod build_folder;
mod imported;
mod manifest;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use self::imported::Imported;
pub(super) use self::manifest::is_manifest;
use super::{
    args::Grant,
    context,
    exchange_args::Import,
    output::{say, talk},
    report::{Done, Failure, Refused},
};
use crate::{
    bitbake_setup, kas,
    lock::lock_path,
    model::{Hint, SystemFacts},
    project::{KasFiles, KasRead, Project, ProjectError, SetupFiles, SetupRead, is_kas, is_setup},
    system::files::{FileError, read_text, shell, write_atomically},
};

/// Runs the command.
pub(super) fn import(file: &Path, grant: &Grant, args: &Import) -> Done {
    let facts = context::gather();
    let to = std::path::absolute(&args.output).map_err(FileError::new("find", &args.output))?;
    if to.symlink_metadata().is_ok() {
        let hint = Hint::command("write another one", format!("smidr import {} --output NAME.yaml", shell(file)));
        return Err(Refused::new(format!("{} is there already", args.output.display()), [hint]).into());
    }
    let imported = match () {
        () if is_kas(file) => of_kas(file, &to, &facts)?,
        () if build_folder::is_bblayers(file) => build_folder::import(file, &to, args, &facts)?,
        () if is_manifest(file) => manifest::import(file, &to, grant, args)?,
        () if is_setup(file) => of_setup(file, &to, args, &facts)?,
        () => {
            let what = format!(
                "{} is no kas file, configuration of bitbake-setup, manifest of git-repo or bblayers.conf",
                file.display()
            );
            return Err(Refused::new(what, None).into());
        }
    };
    // What cannot be read again is not written.
    let sources = crate::project::Sources {
        file: to.clone(),
        texts: imported.text.as_str().into(),
        lock: imported.lock.clone(),
        ..crate::project::Sources::default()
    };
    Project::of(sources, None, &facts)?;
    write_atomically(&to, imported.text.as_bytes(), 0o644)?;
    if let Some(lock) = &imported.lock {
        let path = lock_path(&to);
        if path.symlink_metadata().is_err() {
            write_atomically(&path, lock.as_bytes(), 0o644)?;
        }
    }
    say(args.output.display().to_string());
    imported.left_out.iter().for_each(|what| talk(format!("left out   {what}")));
    talk(format!("look:  smidr -c {0} check   smidr -c {0} plan", shell(&args.output)));
    Ok(ExitCode::SUCCESS)
}

/// The comments before the first key of a file.
fn head(text: &str) -> Vec<String> {
    let lines = text.lines().take_while(|line| line.starts_with('#') || line.trim().is_empty());
    let comments = lines.filter_map(|line| line.strip_prefix('#')).map(|line| line.trim().to_owned());
    comments.filter(|line| !line.starts_with("SPDX") && !line.starts_with("yaml-language-server")).collect()
}

fn of_kas(file: &Path, to: &Path, facts: &SystemFacts) -> Result<Imported, Failure> {
    let mut files = KasFiles::of(file, facts)?;
    files.apart = true;
    let KasRead::Whole(whole) = files.read(facts)? else { return Err(ProjectError::Wants(file.into()).into()) };
    let names: Vec<String> = files.files.iter().map(|file| file.display().to_string()).collect();
    let mut lines = files.files.iter().flat_map(|file| head(&read_text(file).unwrap_or_default())).collect::<Vec<_>>();
    lines.push(format!("Written by `smidr import {}`.", last_parts(&names)));
    let found = |one: &kas::Repository| files.found(&whole, one);
    let (text, left_out) = kas::plain_yaml(&whole.kas, &files.around, to, &lines, &found);
    whole.kas.warnings.iter().for_each(|warning| talk(format!("warning: {warning}")));
    Ok(Imported { text, left_out, lock: whole.sources.lock })
}

fn of_setup(file: &Path, to: &Path, args: &Import, facts: &SystemFacts) -> Result<Imported, Failure> {
    let files = SetupFiles::of(file)?;
    let whole = match files.read(facts)? {
        SetupRead::Whole(whole) => whole,
        SetupRead::Open(question) => return Err(ProjectError::Open(question).into()),
    };
    let Some(target) = &args.target else { return Err(ProjectError::NoTarget(file.into()).into()) };
    let (sources, warnings) = whole.document.all_sources(&files.file)?;
    let lines = [
        whole.setup.summary.lines().collect::<Vec<_>>().join(" "),
        format!("Written by `smidr import {}`.", last_parts(&[file.display().to_string()])),
    ];
    let (text, left_out) = bitbake_setup::plain_yaml(&whole.setup, &sources, to, &facts.home, target, &lines);
    Ok(Imported { text, left_out: left_out.into_iter().chain(warnings).collect(), lock: whole.sources.lock })
}

/// Names without their folders.
fn last_parts(names: &[String]) -> String {
    let last = |name: &String| PathBuf::from(name).file_name().map(|name| name.to_string_lossy().into_owned());
    names.iter().filter_map(last).collect::<Vec<_>>().join(":")
}
