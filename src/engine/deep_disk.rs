//! Whether the disk will do for a build: what is free against what another workspace of the project takes, or a rule of thumb. Only looks.

use std::path::Path;

use super::{
    Tools, Wrong,
    deep::{Deep, WouldFail},
    memory::size,
    owner,
};
use crate::{
    bitbake::Looked,
    model::{Hint, Kind},
    plan::Plan,
    system::{
        filesystem::FileSystem,
        space::{Space, measure},
    },
};

/// What a task of OpenEmbedded leaves in TMPDIR, without and with rm_work: core-image-minimal (some 4,000 tasks) takes about 30 and 12 GiB.
const TASK: u64 = 8 << 20;
const TASK_OF_RM_WORK: u64 = 3 << 20;
/// How many files that are.
const FILES_OF_TASK: u64 = 400;

/// A workspace that takes less was never built in to its end.
const BUILT: u64 = 1 << 30;

/// What must be free in any case: `STOPTASKS` of BB_DISKMON_DIRS.
const LEAST: u64 = 1 << 30;

/// Looks at the disks of a plan's folders.
pub(super) fn look(plan: &Plan, looked: &Looked, tools: Tools<'_>, deep: &mut Deep) {
    let folders = &plan.folders;
    let mut full: Vec<&Path> = Vec::new();
    for folder in [&folders.tmp, &folders.downloads, &folders.sstate] {
        if let Some(system) = of(folder).filter(|system| system.free < LEAST)
            && full.is_empty()
        {
            full.push(folder);
            let title =
                format!("{} has {} free, and BitBake stops below {}", folder.display(), size(system.free), size(LEAST));
            let hints = vec![Hint::command("free some space", format!("df -h {}", folder.display()))];
            deep.wrong.push(Wrong {
                keys: Vec::new(),
                span: None,
                error: WouldFail::of(Kind::Host, title, hints).into(),
            });
        }
    }
    let Some(system) = of(&folders.tmp).filter(|_| full.is_empty()) else { return };
    let here = measure(&[&folders.tmp]).folders.into_iter().next().unwrap_or_default();
    deep.warnings.extend(told(&folders.tmp, &system, here, &expected(plan, looked, tools)));
}

/// What a folder's disk says, or that of the folder that it will be in.
fn of(folder: &Path) -> Option<FileSystem> {
    folder.ancestors().find(|folder| folder.exists()).and_then(|folder| FileSystem::of(folder).ok())
}

/// What TMPDIR will take, and how that is known.
struct Expected {
    space: Space,
    why: String,
}

fn expected(plan: &Plan, looked: &Looked, tools: Tools<'_>) -> Expected {
    let own = plan.folders.workspace.file_name();
    let others = owner::workspaces(&tools.paths).into_iter().filter(|(name, owner)| {
        Some(name.as_os_str()) != own && owner.as_ref().is_some_and(|owner| owner.config == plan.file)
    });
    let folders: Vec<_> = others.map(|(name, _)| tools.paths.workspaces().join(name)).collect();
    let measured = measure(&folders.iter().map(|folder| folder.as_path()).collect::<Vec<_>>()).folders;
    if let Some(space) = measured.into_iter().max_by_key(|space| space.bytes).filter(|space| space.bytes > BUILT) {
        return Expected { space, why: "another workspace of this project takes that".into() };
    }
    let each = if looked.rm_work { TASK_OF_RM_WORK } else { TASK };
    let space = Space { bytes: looked.tasks * each, files: looked.tasks * FILES_OF_TASK };
    Expected { space, why: format!("a rule of thumb: {} for each of {} tasks", size(each), looked.tasks) }
}

fn told(folder: &Path, system: &FileSystem, here: Space, expected: &Expected) -> Vec<String> {
    let Expected { space, why } = expected;
    let mut told = Vec::new();
    if space.bytes.saturating_sub(here.bytes) > system.free {
        let (whole, here, free) = (size(space.bytes), size(here.bytes), size(system.free));
        told.push(format!(
            "the disk may not do: {} has {free} free, and takes up to {whole} ({why}), of which {here} are there",
            folder.display()
        ));
    }
    if let Some(free) = system.free_inodes.filter(|free| space.files.saturating_sub(here.files) > *free) {
        told.push(format!(
            "the disk may not do: {} has room for {free} more files, and takes up to {} ({why})",
            folder.display(),
            space.files
        ));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_needed_again() {
        let system = FileSystem::of(Path::new("/")).expect("a file system");
        let system = FileSystem { free: 10 << 30, free_inodes: Some(1000), ..system };
        let expected = |bytes, files| Expected { space: Space { bytes, files }, why: "x".into() };
        let none = Space::default();
        let folder = Path::new("/t");
        assert_eq!(told(folder, &system, none, &expected(9 << 30, 900)), Vec::<String>::new());
        assert_eq!(
            told(folder, &system, Space { bytes: 1 << 30, files: 0 }, &expected(12 << 30, 0)),
            ["the disk may not do: /t has 10 GiB free, and takes up to 12 GiB (x), of which 1 GiB are there"]
        );
        assert_eq!(
            told(folder, &system, Space { bytes: 3 << 30, files: 0 }, &expected(12 << 30, 0)),
            Vec::<String>::new()
        );
        assert_eq!(
            told(folder, &system, none, &expected(1, 1001)),
            ["the disk may not do: /t has room for 1000 more files, and takes up to 1001 (x)"]
        );
    }
}
