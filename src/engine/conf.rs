//! `local.conf` and `bblayers.conf` of a workspace: written before each start, and compared with what was written last, since users change them in
//! `run` and `shell`, and so does `bitbake-layers`. devtool's workspace layer stays by itself; nothing else is dropped silently.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{
    prepare::Use,
    workspace::{DEVTOOL, Workspace, WorkspaceError, is_plain_folder, within},
};
use crate::{
    bitbake,
    layers::{self, Checkouts},
    model::{Hint, Kind, Paths, UserError, last_part},
    plan::Plan,
    system::{
        files::{FileError, with_suffix, write_atomically},
        rooted::Rooted,
    },
};

/// More than any conf of ours has, in bytes.
const CONF_LIMIT: u64 = 4 << 20;

const LOCAL: &str = "local.conf";
const LAYERS: &str = "bblayers.conf";

/// How the conf of a workspace differs from what smidr wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfChanges {
    /// Layers that were added.
    pub layers: Vec<PathBuf>,
    /// Lines that were added to `local.conf`.
    pub lines: Vec<String>,
    /// What `smidr.yaml` has no place for: other lines, and lines of smidr's own that are gone, after a `-`.
    pub other: Vec<String>,
}

impl ConfChanges {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What says the same in `smidr.yaml`.
    pub(crate) fn config(&self) -> String {
        let mut text = String::new();
        let layer = |path: &PathBuf| {
            let path = path.display().to_string();
            format!("  - {{name: {}, path: {path}}}\n", last_part(&path))
        };
        if !self.layers.is_empty() {
            text.push_str("layers:\n");
            text.extend(self.layers.iter().map(layer));
        }
        if !self.lines.is_empty() {
            text.push_str("local_conf: |\n");
            text.extend(self.lines.iter().map(|line| format!("  {line}\n")));
        }
        text.trim_end().to_owned()
    }
}

/// A build that would drop what the user has changed.
#[derive(Debug, thiserror::Error)]
#[error("{} was changed in a shell, and smidr.yaml does not say the same{}", folder.display(), told(changes))]
pub(crate) struct ConfChanged {
    /// Its folder.
    pub folder: PathBuf,
    /// How.
    pub changes: ConfChanges,
}

fn told(changes: &ConfChanges) -> String {
    let layers = changes.layers.iter().map(|layer| format!("\n  {LAYERS}: + {}", layer.display()));
    let lines = changes.lines.iter().map(|line| format!("\n  {LOCAL}: + {line}"));
    let other = changes.other.iter().map(|line| format!("\n  {line}"));
    layers.chain(lines).chain(other).collect()
}

impl UserError for ConfChanged {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        vec![
            Hint::command("take it over into smidr.yaml", "smidr conf adopt"),
            Hint::command("or drop it", "smidr conf discard"),
        ]
    }
}

/// devtool's workspace layer, where there is one.
pub(crate) fn devtool_layer(plan: &Plan) -> Option<PathBuf> {
    let layer = plan.folders.top.join(DEVTOOL);
    let is_there = |root: &Rooted, path: &Path| {
        Ok(is_plain_folder(root, &path.join("conf")) && root.open_file(&path.join("conf/layer.conf")).is_ok())
    };
    within(plan, &layer, is_there).is_ok_and(|there| there).then_some(layer)
}

/// How the conf of a plan's workspace differs from what was written last.
pub(crate) fn changes(plan: &Plan, written: &Written) -> ConfChanges {
    let now = |name: &str| read(plan, name);
    let mut changes = ConfChanges::default();
    if let (Some(before), Some(now)) = (written.text(LOCAL), now(LOCAL)) {
        let (gone, new) = difference(&before, &now);
        changes.lines = new;
        changes.other.extend(gone.into_iter().map(|line| format!("{LOCAL}: - {line}")));
    }
    if let (Some(before), Some(now)) = (written.text(LAYERS), now(LAYERS)) {
        let top = plan.folders.top.display().to_string();
        let devtool = plan.folders.top.join(DEVTOOL);
        let (gone, new) = difference(&before.replace("${TOPDIR}", &top), &now.replace("${TOPDIR}", &top));
        for line in new {
            match layers_in(&line) {
                Some(paths) => changes.layers.extend(paths.into_iter().filter(|path| *path != devtool)),
                None => changes.other.push(format!("{LAYERS}: + {line}")),
            }
        }
        let gone = gone.into_iter().filter(|line| Path::new(line) != devtool);
        changes.other.extend(gone.map(|line| format!("{LAYERS}: - {line}")));
    }
    changes
}

/// `local.conf` and `bblayers.conf` as a build would write them now, and the repositories that are not here yet, whose layers are missing in it.
pub(crate) fn planned(plan: &Plan, home: &Path) -> (String, String, Vec<String>) {
    let store = layers::Store::of(plan);
    let (mut folders, mut missing) = (Vec::new(), Vec::new());
    for layer in plan.layers.iter().filter(|_| plan.as_is.is_none()) {
        let found = store.find(&layer.name, &layer.source, home).ok().flatten();
        match found.and_then(|found| layers::discover(found.folder(), layer).ok()) {
            Some(found) => folders.extend(found.into_iter().map(|layer| layer.folder)),
            None => missing.push(layer.name.clone()),
        }
    }
    folders.extend(devtool_layer(plan));
    (bitbake::local_conf(plan), bitbake::bblayers_conf(plan, &folders, &[]), missing)
}

/// Refuses a build that would drop what the user has changed.
///
/// # Errors
///
/// When there is something.
pub(super) fn check(plan: &Plan, paths: &Paths) -> Result<(), WorkspaceError> {
    let changes = changes(plan, &Written::of(plan, paths));
    let folder = plan.folders.top.join("conf");
    if changes.is_empty() { Ok(()) } else { Err(ConfChanged { folder, changes }.into()) }
}

fn read(plan: &Plan, name: &str) -> Option<String> {
    within(plan, &plan.folders.top.join("conf").join(name), |root, path| root.read_text(path, CONF_LIMIT)).ok()
}

/// Lines that only the first text has, and those that only the second has; without what says nothing to BitBake.
fn difference(before: &str, now: &str) -> (Vec<String>, Vec<String>) {
    let lines = |text: &str| -> Vec<String> {
        let bare = text.lines().map(|line| line.trim_end_matches('\\').trim());
        // Paths count one by one.
        let words = |line: &str| -> Vec<String> {
            match line.starts_with('/') {
                true => line.split_whitespace().map(str::to_owned).collect(),
                false => vec![line.to_owned()],
            }
        };
        bare.filter(|line| !line.is_empty() && !line.starts_with('#') && *line != "\"").flat_map(words).collect()
    };
    let (mut gone, mut new) = (lines(before), Vec::new());
    for line in lines(now) {
        match gone.iter().position(|known| *known == line) {
            Some(at) => drop(gone.remove(at)),
            None => new.push(line),
        }
    }
    (gone, new)
}

/// The layers that a line of `bblayers.conf` adds: it is a path, as `bitbake-layers add-layer` writes it, or it appends to BBLAYERS.
fn layers_in(line: &str) -> Option<Vec<PathBuf>> {
    let value = match line.strip_prefix("BBLAYERS") {
        None if line.starts_with('/') => line,
        None => return None,
        Some(rest) => {
            let rest = rest.trim_start();
            let operators = ["+=", ".=", ":append =", "_append =", "=+", "=."];
            operators.iter().find_map(|operator| rest.strip_prefix(operator))?
        }
    };
    let paths = value.split(['"', '\'', ' ', '\t']).filter(|word| !word.is_empty());
    let paths: Vec<PathBuf> = paths.map(PathBuf::from).collect();
    paths.iter().all(|path| path.is_absolute()).then_some(paths)
}

/// What smidr wrote last, kept where no program of a build can reach it.
#[derive(Debug)]
pub(crate) struct Written(PathBuf);

impl Written {
    /// Of a plan: beside the skeleton of its workspace.
    pub(crate) fn of(plan: &Plan, paths: &Paths) -> Self {
        let skeleton = super::workspace::skeleton(plan, paths);
        // That of another tool's project lies in another folder.
        Self(if plan.as_is.is_some() { with_suffix(&skeleton, "as-is") } else { skeleton })
    }

    fn path(&self, name: &str) -> PathBuf {
        with_suffix(&self.0, name)
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// Drops what the user has changed.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn discard(&self, plan: &Plan) -> Result<(), WorkspaceError> {
        for name in [LOCAL, LAYERS] {
            if let Some(text) = self.text(name) {
                put(plan, name, &text)?;
            }
        }
        Ok(())
    }
}

fn put(plan: &Plan, name: &str, text: &str) -> Result<(), WorkspaceError> {
    let path = plan.folders.top.join("conf").join(name);
    let mut file = within(plan, &path, Rooted::create_file)?;
    Ok(file.write_all(text.as_bytes()).map_err(FileError::new("write", &path))?)
}

impl Workspace {
    /// Writes the conf of the next start. In `run` and `shell`, what the user has changed stays, and that of a running build.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn write_conf(
        &self,
        plan: &Plan,
        checkouts: &Checkouts,
        what: Use,
        paths: &Paths,
    ) -> Result<(), WorkspaceError> {
        if what == Use::Look {
            return Ok(());
        }
        let conf = plan.folders.top.join("conf");
        within(plan, &conf, |root, path| root.make_dirs(path, 0o755).map(drop))?;
        let written = Written::of(plan, paths);
        if what == Use::Edit && !changes(plan, &written).is_empty() {
            return Ok(());
        }
        let own = if plan.as_is.is_some() { &[] } else { checkouts.layers.as_slice() };
        let layers: Vec<PathBuf> = own.iter().cloned().chain(devtool_layer(plan)).collect();
        let texts =
            [(LOCAL, bitbake::local_conf(plan)), (LAYERS, bitbake::bblayers_conf(plan, &layers, &checkouts.bblayers))];
        for (name, text) in texts {
            // An unchanged file keeps its time: BitBake parses everything anew when a conf file changes.
            if read(plan, name).is_none_or(|old| old != text) {
                put(plan, name, &text)?;
            }
            if written.text(name).is_none_or(|old| old != text) {
                write_atomically(&written.path(name), text.as_bytes(), 0o600)?;
            }
        }
        for (name, text) in plan.as_is.iter().flat_map(|as_is| &as_is.further) {
            if read(plan, name).is_none_or(|old| old != *text) {
                put(plan, name, text)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_add_is_found_however_it_is_written() {
        let before = "# smidr\nBBPATH = \"${TOPDIR}\"\nBBLAYERS = \" \\\n  /a/meta \\\n\"\n";
        // As bitbake-layers writes it, with other indentation.
        let now = "# smidr\nBBPATH = \"${TOPDIR}\"\nBBLAYERS = \" \\\n    /a/meta \\\n    /b/meta-own \\\n    \"\n";
        assert_eq!(difference(before, now), (vec![], vec!["/b/meta-own".into()]));
        let now = "BBPATH = \"${TOPDIR}\"\nBBLAYERS = \" \\\n\"\nBBLAYERS += \"/c /d\"\n# a remark\n";
        assert_eq!(difference(before, now), (vec!["/a/meta".into()], vec!["BBLAYERS += \"/c /d\"".into()]));
        for (line, layers) in [
            ("/b/meta", Some(vec!["/b/meta"])),
            ("BBLAYERS += \"/c /d\"", Some(vec!["/c", "/d"])),
            ("BBLAYERS:append = \" /c\"", Some(vec!["/c"])),
            ("BBLAYERS += \"${HOME}/c\"", None),
            ("BBLAYERS = \"/c\"", None),
            ("BBMASK = \"/c\"", None),
        ] {
            let layers = layers.map(|paths| paths.into_iter().map(PathBuf::from).collect::<Vec<_>>());
            assert_eq!(layers_in(line), layers, "{line}");
        }
        // A line twice is one more than a line once.
        assert_eq!(difference("A = \"1\"", "A = \"1\"\nA = \"1\"").1, ["A = \"1\""]);
    }
}
