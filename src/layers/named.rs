//! The machines and distros that layers have: the files `conf/machine/*.conf` and `conf/distro/*.conf` of the folders in BBPATH, where BitBake
//! looks for `conf/machine/${MACHINE}.conf` and `conf/distro/${DISTRO}.conf`. Only their names are looked at.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    conf::{ConfError, Reader},
    discover::entries,
};

/// How many names are listed in a message.
const SHOWN: usize = 40;

/// The kind of a conf file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A board.
    Machine,
    /// A policy.
    Distro,
}

impl Named {
    fn folder(self) -> &'static str {
        match self {
            Self::Machine => "conf/machine",
            Self::Distro => "conf/distro",
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "machine",
            Self::Distro => "distro",
        })
    }
}

/// All names of a kind, sorted, each once.
///
/// # Errors
///
/// When a folder is there, but cannot be read.
pub(super) fn names(reader: &Reader, folders: &[PathBuf], kind: Named) -> Result<Vec<String>, ConfError> {
    let mut names = Vec::new();
    for folder in folders {
        let Some((rooted, inside)) = reader.place(&folder.join(kind.folder())) else { continue };
        let entries = match entries(rooted, &inside) {
            Err(error) if super::conf::is_absent(&error) => continue,
            entries => entries.map_err(|source| ConfError::File { path: folder.join(kind.folder()), source })?,
        };
        names.extend(entries.into_iter().filter_map(|(name, _)| name.strip_suffix(".conf").map(str::to_owned)));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether there is one. The name may contain a folder, as `vendor/board`.
pub(super) fn is_there(reader: &Reader, folders: &[PathBuf], kind: Named, name: &str) -> bool {
    let mut files = vec![format!("{}/{name}.conf", kind.folder())];
    // OpenEmbedded-Core accepts this one too (sanity.bbclass).
    if kind == Named::Distro {
        files.push(format!("{}/include/{name}.inc", kind.folder()));
    }
    let is_file = |path: &Path| reader.place(path).is_some_and(|(rooted, inside)| rooted.resolve(&inside).is_ok());
    folders.iter().any(|folder| files.iter().any(|file| is_file(&folder.join(file))))
}

/// For messages: the nearest name, then how many there are and which.
pub(super) fn describe(kind: Named, wanted: &str, known: &[String]) -> String {
    let near = crate::config::nearest(wanted, known.iter().map(String::as_str));
    let near = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    let shown = known.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match known.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    match known.len() {
        0 => format!("a {kind} is a file {}/NAME.conf in a layer; no layer here has one", kind.folder()),
        1 => format!("{near}the layers have one {kind}: {shown}"),
        count => format!("{near}the layers have {count} {kind}s: {shown}{more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first_and_a_long_list_is_cut() {
        let names = |count: usize| (0..count).map(|n| format!("board{n}")).collect::<Vec<_>>();
        assert_eq!(describe(Named::Machine, "x", &names(2)), "the layers have 2 machines: board0, board1");
        assert_eq!(
            describe(Named::Machine, "bord1", &names(2)),
            "did you mean `board1`? the layers have 2 machines: board0, board1"
        );
        assert!(describe(Named::Machine, "x", &names(43)).ends_with("board39, and 3 more"));
        assert_eq!(describe(Named::Distro, "x", &names(1)), "the layers have one distro: board0");
        assert!(describe(Named::Machine, "x", &[]).contains("no layer here has one"));
    }
}
