//! The user's own file beside a config, in words: that it is in effect, what it sets, and whether git would commit it.

use std::path::Path;

use crate::{
    config::local_path,
    layers,
    project::{Local, Project},
    system::files::shell,
};

/// The line that says that it is used.
pub(super) fn used(local: &Local, config: &Path) -> String {
    let name = local_path(config);
    let name = name.file_name().unwrap_or_default().display();
    match local.keys.as_slice() {
        [] => format!("{name} is there, and sets nothing"),
        keys => format!("{name} is in effect: {}", keys.join(", ")),
    }
}

/// What is to be said of a project's, where it has one: that it is used, and a warning where git would commit it.
pub(super) fn lines(project: &Project, home: &Path) -> (Option<String>, Option<String>) {
    let used = project.local.as_ref().map(|local| used(local, &project.file));
    let file = local_path(&project.file);
    let is_open = used.is_some() && layers::would_commit(&file, home);
    let name = file.file_name().unwrap_or_default().display();
    let warning = is_open.then(|| {
        let pattern = name.to_string().replace(".local.yaml", ".local.*");
        let ignore = file.with_file_name(".gitignore");
        format!("git does not ignore {name}, which is yours alone:  echo '/{pattern}' >> {}", shell(&ignore))
    });
    (used, warning)
}
