//! Files as layers have them, and as they should not.

use std::{
    fs::{create_dir_all, write},
    os::unix::fs::symlink,
};

use proptest::prelude::*;

use super::*;

struct Yard(tempfile::TempDir);

impl Yard {
    fn new(files: &[(&str, &str)]) -> Self {
        let yard = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = yard.path().join(path);
            create_dir_all(path.parent().expect("a parent")).expect("folders");
            write(path, text).expect("a file");
        }
        Self(yard)
    }

    /// The layer `path`, in the repository that is its first component.
    fn layer(&self, path: &str) -> Found {
        let root = path.split('/').next().expect("a component");
        Found {
            folder: self.0.path().join(path),
            root: self.0.path().join(root),
            repository: root.into(),
            ignore_series: false,
            chosen: true,
        }
    }

    fn read(&self, layers: &[&str]) -> Result<Reader, ConfError> {
        let found: Vec<_> = layers.iter().map(|layer| self.layer(layer)).collect();
        let mut reader = Reader::new(&found)?;
        found.iter().try_for_each(|layer| reader.layer(layer))?;
        Ok(reader)
    }
}

fn text(reader: &Reader, name: &str) -> String {
    reader.get(name).map(|value| value.text()).unwrap_or_default()
}

#[test]
fn layers_are_read_into_one_set_of_variables() {
    let yard = Yard::new(&[
        (
            "core/meta/conf/layer.conf",
            "BBPATH .= \":${LAYERDIR}\"\nBBFILE_COLLECTIONS += \"core\"\nrequire conf/more.inc\n",
        ),
        ("core/meta/conf/more.inc", "LAYERVERSION_core = \"14\"\nWHERE = \"${LAYERDIR}\"\n"),
        (
            "mine/conf/layer.conf",
            "BBPATH =. \"${LAYERDIR}:\"\nBBFILE_COLLECTIONS += \"mine\"\ninclude more.inc conf/more.inc\nrequire ${LAYERDIR}/a/b.inc\n",
        ),
        ("mine/a/b.inc", "LAYERDEPENDS_mine = \"core \\\n  other\"\ninclude b.inc\ninclude nothing.inc\n"),
    ]);
    let reader = yard.read(&["core/meta", "mine"]).expect("layers");
    assert_eq!(text(&reader, "BBFILE_COLLECTIONS"), "core mine");
    assert_eq!(text(&reader, "LAYERDEPENDS_mine"), "core other");
    // conf/more.inc was found in the first layer, by BBPATH, and read again for the second.
    assert_eq!(text(&reader, "WHERE"), yard.0.path().join("mine").display().to_string());
    let path = ["mine", "core/meta"].map(|layer| yard.0.path().join(layer));
    assert_eq!((reader.search_path(), &reader.warnings), ((path.to_vec(), false), &vec![]));
}

#[test]
fn what_is_not_seen_is_said() {
    let yard = Yard::new(&[
        (
            "mine/conf/layer.conf",
            "require ../../secret.inc\nrequire /etc/passwd\ninclude ${@x('a b')}.inc\ninclude ${TOPDIR}/a\n",
        ),
        ("secret.inc", "A = \"outside\"\n"),
    ]);
    let reader = yard.read(&["mine"]).expect("a layer");
    assert_eq!(reader.get("A"), None);
    let warnings = reader.warnings.join("\n");
    for expected in ["includes ../../secret.inc, which", "includes /etc/passwd", "inline Python"] {
        assert!(warnings.contains(expected), "{expected}: {warnings}");
    }
}

#[test]
fn files_that_no_layer_should_have() {
    let yard = Yard::new(&[
        ("circle/conf/layer.conf", "require a.inc\n"),
        ("circle/conf/a.inc", "require b.inc\n"),
        ("circle/conf/b.inc", "require a.inc\n"),
        ("fan/conf/layer.conf", &"include ${LAYERDIR}/conf/x.inc\n".repeat(5000)),
        ("fan/conf/x.inc", ""),
        ("growth/conf/layer.conf", &format!("A = \"aaaa\"\n{}", "A := \"${A}${A}\"\n".repeat(60))),
        ("zero/conf/layer.conf", "A = \"\0\"\n"),
        ("large/conf/layer.conf", &"#\n".repeat(600_000)),
        ("secret", "A = \"outside\"\n"),
    ]);
    let place = |path: &str| yard.0.path().join(path);
    for layer in ["link", "pipe", "binary", "folder", "none"] {
        create_dir_all(place(layer).join("conf")).expect("folders");
    }
    symlink(place("secret"), place("link/conf/layer.conf")).expect("a link");
    let pipe = place("pipe/conf/layer.conf");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    write(place("binary/conf/layer.conf"), [0x80, 0xff]).expect("a file");
    create_dir_all(place("folder/conf/layer.conf")).expect("a folder");
    for (layer, expected) in [
        ("circle", "included by a file that is included"),
        ("fan", "leads to more than any layer needs"),
        ("growth", "leads to more than any layer needs"),
        ("zero", "is not text in UTF-8"),
        ("large", "is larger than 1048576 bytes"),
        ("link", "is not there, or is a link that leads out of"),
        ("none", "is not there, or is a link that leads out of"),
        ("pipe", "is not a regular file"),
        ("binary", "is not text in UTF-8"),
        ("folder", "is not a regular file"),
    ] {
        let error = yard.read(&[layer]).expect_err(layer);
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(format!("{error} {cause}").contains(expected), "{layer}: {error} {cause}");
        assert_eq!(error.kind(), Kind::Request, "{layer}");
        assert!(error.hint().is_some(), "{layer}");
    }
}

proptest! {
    #[test]
    fn any_file_is_read_to_its_end_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "(A|B|BBPATH|LAYERDIR|include|require|x.inc|layer.conf| |=|:|\\+|\"|'|\\$\\{|\\}|@|\n|\\\\|/){0,80}") {
        let yard = Yard::new(&[("a/conf/layer.conf", &text), ("a/conf/x.inc", "B += \"x\"\n")]);
        write(yard.0.path().join("a/conf/y.inc"), bytes).expect("a file");
        write(yard.0.path().join("a/z.inc"), &text).expect("a file");
        let _ = yard.read(&["a"]).map(|reader| (reader.get("A"), reader.search_path()));
        write(yard.0.path().join("a/conf/layer.conf"), "require y.inc z.inc\n").expect("a file");
        let _ = yard.read(&["a"]);
    }
}
