//! A second try, where a failure does not lie in the code that is built: which one helps is the rules' to say (`recover` in `diagnose/rules`). A build has
//! at most one, and only if each of its failures has such a reason. What is shared with other builds goes only where it is proved damaged.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, Read, Seek as _},
    path::Path,
};

use crate::{
    bitbake,
    config::Network,
    model::{Diagnosis, Outcome, Recovered, Recovery, TaskName},
    plan::{Folders, Plan},
    system::rooted::{Rooted, RootedError},
};

/// What is done for a second try.
#[derive(Debug)]
pub(super) struct SecondTry {
    how: BTreeSet<Recovery>,
    /// What failed, for the record.
    diagnoses: Vec<Diagnosis>,
    /// Recipes that are cleaned first.
    pub(super) clean: BTreeSet<String>,
    /// What BitBake is given in addition.
    pub(super) arguments: Vec<String>,
}

impl SecondTry {
    /// Decides whether there is one, and removes what was proved damaged.
    pub(super) fn of(outcome: &Outcome, plan: &Plan, own: &Path) -> Option<Self> {
        let reason = |one: &Diagnosis| one.recovery.filter(|how| plan.recovery.contains(how));
        let how = outcome.diagnoses.iter().map(reason).collect::<Option<BTreeSet<Recovery>>>()?;
        let is_offline = plan.offline || plan.network == Network::None;
        let needs_network = how.contains(&Recovery::Network) || how.contains(&Recovery::Download);
        if how.is_empty() || (is_offline && needs_network) {
            return None;
        }
        let of = |wanted: Recovery| outcome.diagnoses.iter().filter(move |one| one.recovery == Some(wanted));
        let damaged = of(Recovery::Sstate).chain(of(Recovery::Download)).map(|one| Damaged::find(one, &plan.folders));
        let damaged = damaged.collect::<Option<Vec<Damaged>>>()?;
        damaged.iter().try_for_each(Damaged::remove).ok()?;
        let few = how.contains(&Recovery::Memory).then(|| own.join(bitbake::FEWER).display().to_string());
        Some(Self {
            clean: of(Recovery::State).flat_map(recipes).collect(),
            arguments: few.map(|conf| ["-R".to_owned(), conf]).into_iter().flatten().collect(),
            diagnoses: outcome.diagnoses.clone(),
            how,
        })
    }

    /// What is told before it.
    pub(super) fn told(&self) -> String {
        let words: Vec<&str> = self
            .how
            .iter()
            .map(|how| match how {
                Recovery::State => "after the recipe is cleaned",
                Recovery::Sstate => "without the damaged object of sstate",
                Recovery::Download => "after the damaged download is removed",
                Recovery::Network => "since the network failed",
                Recovery::Memory => "with half as many tasks and compilers at once, since memory ran out",
                Recovery::Server => "with a new BitBake server",
            })
            .collect();
        let tasks: Vec<String> = self.diagnoses.iter().filter_map(task).map(|task| task.to_string()).collect();
        let more = if tasks.len() > 3 { ", …" } else { "" };
        let tasks = tasks.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        let of = if tasks.is_empty() { String::new() } else { format!(" ({tasks}{more})") };
        format!("a second try {}{of}", words.join(", "))
    }

    /// The record of it.
    pub(super) fn ended(self, helped: bool) -> Recovered {
        Recovered { how: self.how.into_iter().collect(), diagnoses: self.diagnoses, helped }
    }
}

fn task(one: &Diagnosis) -> Option<TaskName> {
    Some(TaskName { recipe: one.recipe.clone()?, task: one.task.clone()? })
}

/// The recipes of a diagnosis, as BitBake takes them.
fn recipes(one: &Diagnosis) -> impl Iterator<Item = String> {
    let also = one.also.iter().map(|name| name.recipe.clone());
    let before = one.multiconfig.as_ref().map_or(String::new(), |name| format!("mc:{name}:"));
    one.recipe.iter().map(move |recipe| format!("{before}{recipe}")).chain(also)
}

/// A file of the shared caches.
struct Damaged<'a> {
    root: &'a Path,
    rest: &'a Path,
}

impl<'a> Damaged<'a> {
    /// The file that a diagnosis names, if it is in the downloads or in sstate, and proved damaged.
    fn find(one: &'a Diagnosis, folders: &'a Folders) -> Option<Self> {
        let path = Path::new(one.subject.as_ref()?);
        let root = match one.recovery? {
            Recovery::Sstate => &folders.sstate,
            _ => &folders.downloads,
        };
        let rest = path.strip_prefix(root).ok()?;
        let file = Rooted::open(root).ok()?.open_file(rest).ok()?;
        is_damaged(path, file).ok()?.then_some(Self { root, rest })
    }

    /// Removes it with what says that it is whole.
    fn remove(&self) -> Result<(), RootedError> {
        let root = Rooted::open(self.root)?;
        let beside = |more: &str| {
            let mut name = self.rest.as_os_str().to_owned();
            name.push(more);
            name
        };
        // First the mark: a file without it is fetched again.
        [beside(".done"), beside(".siginfo"), beside("")].iter().try_for_each(|name| root.remove(Path::new(name)))
    }
}

/// Whether a file is not what its name says, or is cut.
///
/// # Errors
///
/// When it cannot be read, or is of a form that is not known here.
fn is_damaged(path: &Path, mut file: File) -> io::Result<bool> {
    let name = path.to_string_lossy();
    let mut mark = Vec::new();
    file.by_ref().take(6).read_to_end(&mut mark)?;
    file.rewind()?;
    let is_cut = |mut decoder: Box<dyn Read>| io::copy(&mut decoder, &mut io::sink()).is_err();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    Ok(if ends(&[".gz", ".tgz"]) {
        !mark.starts_with(&[0x1f, 0x8b]) || is_cut(Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))))
    } else if ends(&[".zst"]) {
        !mark.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_cut(Box::new(zstd::Decoder::new(file)?))
    } else if ends(&[".xz", ".txz"]) {
        !mark.starts_with(b"\xfd7zXZ\0")
    } else if ends(&[".bz2", ".tbz2"]) {
        !mark.starts_with(b"BZh")
    } else if ends(&[".zip"]) {
        !mark.starts_with(b"PK")
    } else {
        return Err(io::ErrorKind::Unsupported.into());
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn damaged(name: &str, content: &[u8]) -> Option<bool> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).and_then(|()| file.rewind()).expect("written");
        is_damaged(Path::new(name), file).ok()
    }

    #[test]
    fn only_what_is_proved_damaged_counts() {
        let zst = zstd::encode_all(&[7; 1 << 16][..], 1).expect("compressed");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"text").expect("compressed");
        let gz = gz.finish().expect("compressed");
        assert_eq!(damaged("a.tar.zst", &zst), Some(false));
        assert_eq!(damaged("a.tar.zst", zst.get(..zst.len() - 3).expect("shorter")), Some(true));
        assert_eq!(damaged("a.tgz", &gz), Some(false));
        assert_eq!(damaged("a.tar.gz", gz.get(..gz.len() - 3).expect("shorter")), Some(true));
        for name in ["a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip", "a.tar.zst"] {
            assert_eq!(damaged(name, b"<html>not found</html>"), Some(true), "{name}");
            assert_eq!(damaged(name, b""), Some(true), "{name}");
        }
        assert_eq!(
            (damaged("a.tar.xz", b"\xfd7zXZ\0..."), damaged("a.zip", b"PK\x03\x04")),
            (Some(false), Some(false))
        );
        // Nothing is known of it.
        assert_eq!(damaged("a.patch", b"<html>"), None);
    }
}
