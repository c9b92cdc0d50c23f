//! Makes one checkout: a repository, its submodules in their places, and patches.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use gix::{ObjectId, bstr::BString, objs::Kind};

use super::{
    Submodules, Wanted, dotgit,
    error::{CheckoutError, RefusedUrl},
    links, name_of,
    needed::{Needed, Tree},
    objects::Objects,
    record::{Record, VERSION, youngest},
    submodules::{self, Declared},
    tree::{self, Limits, Listing},
    write::{self, Job},
};
use crate::{
    events::Emitter,
    layers::{discover, patch},
    model::{CommitId, without_secrets},
    plan::Submodules as Choice,
    system::{files::FileError, stop::StopToken},
};

/// The largest .gitattributes, in bytes.
const MAX_ATTRIBUTES: usize = 1 << 20;

/// How many `*` a line of .gitattributes may have. `**/a/**/*.b` has five.
const MAX_STARS: usize = 8;

/// What making a checkout needs.
pub(super) struct Making<'a, 'b> {
    pub wanted: &'a Wanted<'a>,
    pub room: &'a Path,
    pub limits: &'a Limits,
    pub submodule: &'a mut Submodules<'b>,
    pub needed: Needed<'a>,
    pub on: &'a Emitter,
    pub stop: &'a StopToken,
}

/// A repository of the checkout: the one that is wanted, or a submodule.
struct Repository<'a> {
    mirror: &'a Path,
    url: &'a str,
    mirrors: &'a [String],
    commit: &'a CommitId,
    // Its folder in the checkout, and how many repositories contain it.
    place: &'a str,
    nesting: usize,
}

#[derive(Default)]
struct Sum {
    entries: u64,
    bytes: u64,
    borrowed: Vec<PathBuf>,
    // Submodules by their folders in the checkout: all that were met, and those that are brought.
    met: BTreeSet<String>,
    brought: BTreeSet<String>,
}

impl Repository<'_> {
    /// The folder of one of its submodules in the checkout.
    fn at(&self, submodule: &BString) -> String {
        if self.place.is_empty() { submodule.to_string() } else { format!("{}/{submodule}", self.place) }
    }
}

/// What was written of a repository.
struct Written<'a> {
    listing: &'a Listing,
    folder: &'a Path,
}

impl Tree for Written<'_> {
    fn paths(&self) -> impl Iterator<Item = String> {
        let index = &self.listing.index;
        index.entries().iter().map(|entry| entry.path(index).to_string())
    }

    fn target(&self, link: &str) -> Option<String> {
        Some(fs::read_link(self.folder.join(link)).ok()?.to_string_lossy().into_owned())
    }
}

impl Making<'_, '_> {
    /// Makes it in an empty, private folder.
    ///
    /// # Errors
    ///
    /// As [`super::CheckoutStore::checkout`].
    pub(super) fn make(mut self, into: &Path) -> Result<(), CheckoutError> {
        let Wanted { mirror, url, mirrors, commit, patches, outside_links, submodules } = *self.wanted;
        let mut sum = Sum::default();
        self.repository(&Repository { mirror, url, mirrors, commit, place: "", nesting: 0 }, into, &mut sum)?;
        self.all_are_there(submodules, &sum)?;
        for patch in patches {
            patch::apply(patch, into)?;
        }
        let found = links::find(into).map_err(FileError::new("list", into))?;
        let shown = |path: &Path| path.display().to_string();
        let endless = |links::TooLong| {
            let (what, limit) = ("bytes of paths on the ways that its links lead", links::MAX_WORK as u64);
            CheckoutError::Limit { repository: url.into(), what, limit }
        };
        let outside = links::outside(&found).map_err(endless)?.map(|(link, target)| (shown(link), shown(target)));
        if let (false, Some((link, target))) = (outside_links, outside.clone()) {
            return Err(CheckoutError::OutsideLink { repository: url.into(), link, target });
        }
        let record = Record {
            version: VERSION,
            url: without_secrets(url),
            commit: commit.clone(),
            patches: patches.iter().map(|patch| patch.lock.clone()).collect(),
            borrowed: sum.borrowed,
            outside,
            bytes: sum.bytes,
            sealed: youngest(into)?.and_then(|(modified, _)| modified.try_into().ok()),
        };
        let text = serde_json::to_vec(&record);
        let text = text.map_err(|source| CheckoutError::Record { commit: commit.clone(), source })?;
        Ok(record.seal(into, &text)?)
    }

    fn repository(&mut self, of: &Repository<'_>, into: &Path, sum: &mut Sum) -> Result<(), CheckoutError> {
        let id = ObjectId::from_bytes_or_panic(of.commit.as_bytes());
        let objects = Objects::open(of.mirror, &id, self.limits, sum.bytes, self.stop)?;
        let listed = tree::list(&objects, &id, of.url, self.limits, sum.entries);
        let mut listing = listed.map_err(|error| match self.stop.requested() {
            None => objects.trouble(of.url).unwrap_or(error),
            _ => CheckoutError::Stopped(of.commit.clone()),
        })?;
        let name = name_of(of.url);
        let job =
            Job { repository: of.url, room: self.room, name: &name, commit: of.commit, on: self.on, stop: self.stop };
        self.attributes(&listing, &objects, of.url)?;
        write::write(&mut listing, &objects, into, &job)?;
        self.say_pointers(&objects, of.url);
        sum.entries = listing.entries;
        sum.bytes += objects.bytes();
        if !sum.borrowed.iter().any(|known| known == of.mirror) {
            sum.borrowed.push(of.mirror.into());
        }
        let submodules = self.submodules(&listing, &objects, of, into, sum)?;
        let (mirror, url, commit, index) = (of.mirror, of.url, of.commit, listing.index);
        dotgit::make(into, dotgit::Parts { mirror, url, commit, index, submodules: &submodules })
    }

    fn say_pointers(&self, objects: &Objects, url: &str) {
        let (count, name) = (objects.pointers(), name_of(url));
        if count > 0 {
            self.on.warn(format!("{count} files of {name} are pointers of git-lfs, whose content is not fetched"));
        }
    }

    /// Decides which submodules of a repository are brought.
    fn choose(
        &mut self,
        known: &HashMap<BString, Declared>,
        written: &Written<'_>,
        of: &Repository<'_>,
        sum: &mut Sum,
    ) {
        self.needed.look(of.place, written);
        // One that the config names is wanted, whatever its repository says.
        let listed = matches!(self.wanted.submodules, Choice::Listed(_));
        let mut left = Vec::new();
        for (path, _) in &written.listing.submodules {
            let inside = of.at(path);
            let Some(declared) = known.get(path) else {
                self.on.warn(format!(
                    "`{path}` of {} is a submodule that .gitmodules does not know: it stays empty",
                    name_of(of.url)
                ));
                continue;
            };
            if !self.needed.takes(&inside) {
                left.push(inside.clone());
            } else if listed || !declared.unwanted {
                sum.brought.insert(inside.clone());
            }
            sum.met.insert(inside);
        }
        self.say_left(of, &left);
    }

    fn say_left(&self, of: &Repository<'_>, left: &[String]) {
        if let (Choice::ForLayers(_), false) = (self.wanted.submodules, left.is_empty()) {
            self.on.warn(format!(
                "submodules of {} outside of the layers that are used are left out: {}; `submodules:` brings those that it names",
                name_of(of.url),
                left.join(", ")
            ));
        }
    }

    /// Checks that all submodules that the config names exist.
    fn all_are_there(&self, choice: &Choice, sum: &Sum) -> Result<(), CheckoutError> {
        let Choice::Listed(listed) = choice else { return Ok(()) };
        match listed.iter().map(|path| discover::tidy(path)).find(|path| !sum.met.contains(path)) {
            None => Ok(()),
            Some(path) => Err(CheckoutError::NoSubmodule {
                repository: self.wanted.url.into(),
                path,
                known: sum.met.iter().cloned().collect(),
            }),
        }
    }

    /// Warns about attributes that gix treats differently from git; refuses patterns that take gix exponential time to match.
    fn attributes(&self, listing: &Listing, objects: &Objects, url: &str) -> Result<(), CheckoutError> {
        let name = name_of(url);
        let over = |what, limit: usize| CheckoutError::Limit { repository: url.into(), what, limit: limit as u64 };
        for (path, id) in &listing.attributes {
            let text = objects.read(id, Kind::Blob).map_err(|error| objects.trouble(url).unwrap_or(error))?;
            if text.len() > MAX_ATTRIBUTES {
                return Err(over("bytes in .gitattributes", MAX_ATTRIBUTES));
            }
            if text.split(|byte| *byte == b'\n').any(|line| stars(line) > MAX_STARS) {
                return Err(over("`*` in one pattern of .gitattributes", MAX_STARS));
            }
            if differs(&text) {
                self.on.warn(format!(
                    "`{path}` of {name} asks for `ident` or an encoding like UTF-16, which smidr does not write as git does"
                ));
            }
        }
        Ok(())
    }

    fn submodules(
        &mut self,
        listing: &Listing,
        objects: &Objects,
        of: &Repository<'_>,
        into: &Path,
        sum: &mut Sum,
    ) -> Result<Vec<(Declared, String)>, CheckoutError> {
        for (path, _) in &listing.submodules {
            let place = into.join(OsStr::from_bytes(path));
            let open = || fs::set_permissions(&place, fs::Permissions::from_mode(0o755));
            let ready = fs::create_dir_all(&place).and_then(|()| open());
            ready.map_err(FileError::new("make the folder", &place))?;
        }
        if listing.submodules.is_empty() || *self.wanted.submodules == Choice::None {
            return Ok(Vec::new());
        }
        let mut known = declared(listing, objects, of)?;
        self.choose(&known, &Written { listing, folder: into }, of, sum);
        let mut made = Vec::new();
        for (path, id) in &listing.submodules {
            let (inside, place) = (of.at(path), into.join(OsStr::from_bytes(path)));
            let Some(declared) = known.remove(path).filter(|_| sum.brought.contains(&inside)) else { continue };
            if of.nesting >= self.limits.nesting {
                let (what, limit) = ("submodules inside each other", self.limits.nesting as u64);
                return Err(CheckoutError::Limit { repository: of.url.into(), what, limit });
            }
            let url = submodules::resolve(of.url, &declared)
                .map_err(|why| refused(of, &inside, why, sum.without(&inside)))?;
            let commit = commit_of(id)
                .ok_or_else(|| CheckoutError::Malformed { repository: of.url.into(), object: id.to_string() })?;
            let mirrors = submodules::beside(of.mirrors, &declared);
            let mirror = (self.submodule)(&url, &mirrors, &commit).map_err(|source| CheckoutError::Fetch {
                repository: of.url.into(),
                path: inside.clone(),
                relative: submodules::is_relative(&declared.url),
                without: sum.without(&inside),
                source,
            })?;
            let (mirror, url, mirrors, commit) = (&mirror, &url, &mirrors, &commit);
            let inner = Repository { mirror, url, mirrors, commit, place: &inside, nesting: of.nesting + 1 };
            self.repository(&inner, &place, sum)?;
            let url = url.clone();
            made.push((declared, url));
        }
        Ok(made)
    }
}

impl Sum {
    /// What to write to do without a submodule.
    fn without(&self, submodule: &str) -> String {
        let is_other = |path: &&String| !Path::new(path).starts_with(submodule);
        let others: Vec<String> = self.brought.iter().filter(is_other).map(|path| yaml(path)).collect();
        if others.is_empty() { "submodules: false".into() } else { format!("submodules: [{}]", others.join(", ")) }
    }
}

// A word, or a text in quotes.
fn yaml(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let plain = text.chars().all(is_plain) && text.chars().any(char::is_alphabetic) && !text.starts_with('-');
    if plain { text.into() } else { format!("'{}'", text.replace('\'', "''")) }
}

// In one line of .gitattributes. Each `*` is tried at every place, for every place of the one before: 25 of them on a path of 60 folders never end.
fn stars(line: &[u8]) -> usize {
    line.iter().filter(|byte| **byte == b'*').count()
}

// gix writes `$Id: …$` without git's last blank, and leaves encodings that its library cannot write as they are.
fn differs(attributes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(attributes).to_ascii_lowercase();
    let wide = |word: &str| word.starts_with("working-tree-encoding=utf-") && !word.ends_with("-8");
    text.split_whitespace().any(|word| word == "ident" || wide(word))
}

fn declared(
    listing: &Listing,
    objects: &Objects,
    of: &Repository<'_>,
) -> Result<HashMap<BString, Declared>, CheckoutError> {
    let (Some(id), false) = (&listing.gitmodules, listing.submodules.is_empty()) else { return Ok(HashMap::new()) };
    let text = objects.read(id, Kind::Blob).map_err(|error| objects.trouble(of.url).unwrap_or(error))?;
    if text.len() > submodules::MAX_GITMODULES {
        let (what, limit) = ("bytes in .gitmodules", submodules::MAX_GITMODULES as u64);
        return Err(CheckoutError::Limit { repository: of.url.into(), what, limit });
    }
    let declared =
        submodules::declared(&text).map_err(|why| refused(of, ".gitmodules", why, "submodules: false".into()))?;
    Ok(declared.into_iter().map(|declared| (declared.path.clone(), declared)).collect())
}

fn refused(of: &Repository<'_>, path: &str, why: RefusedUrl, without: String) -> CheckoutError {
    CheckoutError::Submodule { repository: of.url.into(), path: path.into(), without, why }
}

fn commit_of(id: &ObjectId) -> Option<CommitId> {
    Some(CommitId::from_sha1(id.as_bytes().try_into().ok()?))
}
