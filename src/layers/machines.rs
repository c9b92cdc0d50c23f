//! The machines that layers have: the files `conf/machine/*.conf` of the folders in BBPATH, where BitBake looks for `conf/machine/${MACHINE}.conf`.
//! Only their names are looked at.

use std::path::{Path, PathBuf};

use super::{
    conf::{ConfError, Reader},
    discover::entries,
};

/// How many names fit into a message.
const SHOWN: usize = 40;

/// The names of all machines, sorted, each once.
///
/// # Errors
///
/// When a folder is there, but cannot be read.
pub(super) fn machines(reader: &Reader, folders: &[PathBuf]) -> Result<Vec<String>, ConfError> {
    let mut machines = Vec::new();
    for folder in folders {
        let Some((rooted, inside)) = reader.place(&folder.join("conf/machine")) else { continue };
        let entries = match entries(rooted, &inside) {
            Err(error) if super::conf::is_absent(&error) => continue,
            entries => entries.map_err(|source| ConfError::File { path: folder.join("conf/machine"), source })?,
        };
        machines.extend(entries.into_iter().filter_map(|(name, _)| name.strip_suffix(".conf").map(str::to_owned)));
    }
    machines.sort();
    machines.dedup();
    Ok(machines)
}

/// Whether a machine is there that may stand in a folder below, as `vendor/board`.
pub(super) fn is_there(reader: &Reader, folders: &[PathBuf], machine: &str) -> bool {
    let file = Path::new("conf/machine").join(format!("{machine}.conf"));
    folders
        .iter()
        .any(|folder| reader.place(&folder.join(&file)).is_some_and(|(rooted, inside)| rooted.resolve(&inside).is_ok()))
}

/// For people: the nearest first, then how many and which.
pub(super) fn describe(wanted: &str, machines: &[String]) -> String {
    let near = crate::config::nearest(wanted, machines.iter().map(String::as_str));
    let near = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    let shown = machines.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match machines.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    match machines.len() {
        0 => "a machine is a file conf/machine/NAME.conf in a layer; no layer here has one".into(),
        1 => format!("{near}the layers have one machine: {shown}"),
        count => format!("{near}the layers have {count} machines: {shown}{more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first_and_a_long_list_is_cut() {
        let names = |count: usize| (0..count).map(|n| format!("board{n}")).collect::<Vec<_>>();
        assert_eq!(describe("x", &names(2)), "the layers have 2 machines: board0, board1");
        assert_eq!(describe("bord1", &names(2)), "did you mean `board1`? the layers have 2 machines: board0, board1");
        assert!(describe("x", &names(43)).ends_with("board39, and 3 more"));
        assert_eq!(describe("x", &names(1)), "the layers have one machine: board0");
        assert!(describe("x", &[]).contains("no layer here has one"));
    }
}
