//! The seam: what an image adds on top of its layers because it depends on more than one of them.
//!
//! An unpacked layer is a function of its own bytes, so that it can be shared. But a folder that a layer implies without naming it
//! has the mode and time of the one below it, and a hard link may lead to a file of a lower layer. Both go into one small folder of the
//! image's own, which is stacked on top. Reads the layers, writes the seam.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, OFlags, Stat},
    io::Errno,
};

use super::{
    account::Account,
    checkout::Meta,
    layer_error::LayerError,
    lowers::Lowers,
    tree::{self, Time},
    unpack::IMPLIED_MODE,
};
use crate::system::rooted::Rooted;

/// One layer of an image, with the open parts of its unpacking.
pub(super) struct Open<'a> {
    /// Its folder.
    pub folder: &'a Path,
    /// Folders that it implies but does not name.
    pub implied: BTreeSet<&'a Path>,
    /// Hard links to files below it, with their targets.
    pub links: BTreeMap<&'a Path, &'a Path>,
}

impl<'a> Open<'a> {
    /// Takes a layer's folder and its record.
    pub(super) fn new(folder: &'a Path, meta: &'a Meta) -> Self {
        let implied = meta.implied.iter().map(PathBuf::as_path).collect();
        let links = meta.links.iter().map(|(link, target)| (link.as_path(), target.as_path())).collect();
        Self { folder, implied, links }
    }
}

/// The folders and files of a seam.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    folders: BTreeMap<PathBuf, (u32, Time)>,
    // Copies of files of lower layers: the number of the layer that links to it, the link's path, the target. In the order
    // of layers, since a target may be such a copy itself.
    copies: BTreeSet<(usize, PathBuf, PathBuf)>,
}

/// Writes into an empty folder what the layers, given lowest first, need on top. The files may have `room` bytes together; the
/// folders and links are charged to `account`.
///
/// # Errors
///
/// When a hard link leads nowhere, or the file system refuses.
pub(super) fn make(layers: &[Open<'_>], tree: &Rooted, room: u64, account: &Account) -> Result<(), LayerError> {
    let plan = plan(layers, account)?;
    for path in plan.folders.keys() {
        tree.make_dirs(path, IMPLIED_MODE).map_err(placed(path))?;
    }
    let mut room = room;
    let mut done: BTreeMap<(usize, &Path), &Path> = BTreeMap::new();
    for (number, path, target) in &plan.copies {
        // Several links to one file become one file.
        match done.get(&(*number, target.as_path())) {
            Some(first) => link(tree, first, path).map_err(LayerError::file("link", path))?,
            None => copy(layers, *number, target, tree, path, &mut room)?,
        }
        done.entry((*number, target)).or_insert(path);
    }
    // Last, and the deepest first: a new entry changes the time of its folder.
    for (path, (mode, time)) in plan.folders.iter().rev() {
        let folder = tree.open_plain(path, OFlags::RDONLY | OFlags::DIRECTORY);
        folder
            .and_then(|folder| tree::finish(folder, *mode, *time))
            .map_err(LayerError::file("set mode and time of", path))?;
    }
    Ok(())
}

fn plan(layers: &[Open<'_>], account: &Account) -> Result<Plan, LayerError> {
    let open = |layer: &Open<'_>| Rooted::open(layer.folder).map_err(placed(Path::new(".")));
    let stack = Stack { layers, roots: layers.iter().map(open).collect::<Result<_, _>>()? };
    let mut plan = Plan::default();
    for path in layers.iter().flat_map(|layer| &layer.implied) {
        if let Some(found) = stack.folder(path).filter(|found| !found.named_on_top)
            && found.look != (IMPLIED_MODE, Time::default())
        {
            plan.folders.insert(account.keep(path.to_path_buf())?, found.look);
        }
    }
    for (number, layer) in layers.iter().enumerate() {
        for (path, target) in &layer.links {
            if !stack.changed_above(number, path) {
                plan.copies.insert((number, account.keep(path.into())?, account.keep(target.into())?));
            }
        }
    }
    // The seam's own folders are on top, so they need the mode and time of those that they cover.
    let copied = plan.copies.iter().map(|(_, path, _)| path);
    let mut holders = BTreeSet::new();
    for path in plan.folders.keys().chain(copied).flat_map(|path| path.ancestors().skip(1)) {
        if !holders.contains(path) {
            holders.insert(account.keep(path.into())?);
        }
    }
    for path in holders {
        let look = stack.folder(&path).map_or((IMPLIED_MODE, Time::default()), |found| found.look);
        plan.folders.entry(path).or_insert(look);
    }
    Ok(plan)
}

struct Stack<'a> {
    layers: &'a [Open<'a>],
    roots: Vec<Rooted>,
}

struct Found {
    // Mode and time.
    look: (u32, Time),
    // Whether the uppermost layer that has the folder names it.
    named_on_top: bool,
}

enum Sight {
    Nothing,
    Hidden,
    Folder(Stat),
}

impl Stack<'_> {
    // Mode and time of a folder in the whole image, if there is one.
    fn folder(&self, path: &Path) -> Option<Found> {
        let mut seen = false;
        for (layer, root) in self.layers.iter().zip(&self.roots).rev() {
            match see(root, path) {
                Sight::Nothing => {}
                Sight::Hidden => break,
                Sight::Folder(stat) if !layer.implied.contains(path) => {
                    return Some(Found {
                        look: (tree::folder_mode(stat.st_mode), Time::of(&stat)),
                        named_on_top: !seen,
                    });
                }
                Sight::Folder(_) => {
                    seen = true;
                    if opaque(root, path) {
                        break;
                    }
                }
            }
        }
        seen.then(|| Found { look: (IMPLIED_MODE, Time::default()), named_on_top: false })
    }

    fn changed_above(&self, number: usize, path: &Path) -> bool {
        self.layers
            .iter()
            .zip(&self.roots)
            .skip(number + 1)
            .any(|(layer, root)| layer.links.contains_key(path) || !matches!(see(root, path), Sight::Nothing))
    }
}

fn see(root: &Rooted, path: &Path) -> Sight {
    match root.open_plain(path, OFlags::PATH).and_then(fs::fstat) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Sight::Folder(stat),
        Err(Errno::NOENT) if !path.ancestors().skip(1).any(|folder| opaque_at(root, folder)) => Sight::Nothing,
        _ => Sight::Hidden,
    }
}

fn opaque(root: &Rooted, path: &Path) -> bool {
    path.ancestors().any(|folder| opaque_at(root, folder))
}

fn opaque_at(root: &Rooted, path: &Path) -> bool {
    root.open_plain(path, OFlags::RDONLY | OFlags::DIRECTORY).is_ok_and(tree::is_opaque)
}

fn copy(
    layers: &[Open<'_>],
    below: usize,
    target: &Path,
    tree: &Rooted,
    path: &Path,
    room: &mut u64,
) -> Result<(), LayerError> {
    let refuse = |why| LayerError::Entry { entry: path.as_os_str().as_bytes().into(), why };
    // The target may be such a link itself, of a lower layer.
    if layers.iter().take(below).any(|layer| layer.links.contains_key(target)) {
        return link(tree, target, path).map_err(|_| refuse("is a hard link to a file that is not there"));
    }
    let folders: Vec<PathBuf> = layers.iter().take(below).map(|layer| layer.folder.to_path_buf()).collect();
    let Some((mut content, stat)) = Lowers::open(&folders)?.file(target) else {
        return Err(refuse("is a hard link to a file that neither its archive nor a layer below has"));
    };
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    *room = room
        .checked_sub(size)
        .ok_or_else(|| refuse("is a hard link too many: together such files exceed what the image's size allows"))?;
    let mut file = tree.create_file(path).map_err(placed(path))?;
    std::io::copy(&mut content, &mut file).map_err(LayerError::io("copy", path))?;
    tree::finish(&file, tree::file_mode(stat.st_mode), Time::of(&stat)).map_err(LayerError::file("set mode of", path))
}

fn link(tree: &Rooted, from: &Path, to: &Path) -> rustix::io::Result<()> {
    let open = |path: &Path| {
        let folder = path.parent().unwrap_or(Path::new(""));
        tree.open_plain(folder, OFlags::PATH | OFlags::DIRECTORY)
    };
    let (old, new) = (from.file_name().unwrap_or_default(), to.file_name().unwrap_or_default());
    fs::linkat(open(from)?, old, open(to)?, new, AtFlags::empty())
}

fn placed(path: &Path) -> impl FnOnce(crate::system::rooted::RootedError) -> LayerError + use<> {
    let entry = path.as_os_str().as_bytes().into();
    move |source| LayerError::Place { entry, source }
}
