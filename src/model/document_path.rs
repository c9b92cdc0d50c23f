//! Paths in documents: text, and beside it, where the path is no UTF-8, its bytes in hexadecimal digits. Whatever the path is, it is
//! written down and read back.
//!
//! Each module is for the fields of one name: `#[serde(flatten, with = "document_path::log")] log: PathBuf` reads and writes `log` and
//! `log_bytes`.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// A path, or perhaps one.
pub trait Field: Sized {
    /// To be written down.
    fn path(&self) -> Option<&Path>;
    /// As it was read; none where it has to be there and is not.
    fn read(path: Option<PathBuf>) -> Option<Self>;
}

impl Field for PathBuf {
    fn path(&self) -> Option<&Path> {
        Some(self)
    }

    fn read(path: Option<PathBuf>) -> Option<Self> {
        path
    }
}

impl Field for Option<PathBuf> {
    fn path(&self) -> Option<&Path> {
        self.as_deref()
    }

    fn read(path: Option<PathBuf>) -> Option<Self> {
        Some(path)
    }
}

/// The bytes of a path that no text can hold.
pub fn bytes_of(path: &Path) -> Option<String> {
    path.to_str().is_none().then(|| hex::encode(path.as_os_str().as_bytes()))
}

macro_rules! fields {
    ($($name:ident and $bytes:ident),*) => {$(
        #[doc = concat!("For fields with the name `", stringify!($name), "`.")]
        pub mod $name {
            use std::borrow::Cow;

            use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

            use super::*;

            #[derive(serde::Serialize)]
            struct Written<'a> {
                $name: Option<Cow<'a, str>>,
                #[serde(skip_serializing_if = "Option::is_none")]
                $bytes: Option<String>,
            }

            #[derive(serde::Deserialize)]
            struct Read {
                #[serde(default)]
                $name: Option<String>,
                #[serde(default)]
                $bytes: Option<String>,
            }

            /// Writes it.
            ///
            /// # Errors
            ///
            /// Those of the writer.
            pub fn serialize<S: Serializer>(field: &impl Field, to: S) -> Result<S::Ok, S::Error> {
                let path = field.path();
                Written { $name: path.map(Path::to_string_lossy), $bytes: path.and_then(bytes_of) }.serialize(to)
            }

            /// Reads it.
            ///
            /// # Errors
            ///
            /// When it has to be there and is not, or the bytes are no hexadecimal digits.
            pub fn deserialize<'de, D: Deserializer<'de>, F: Field>(from: D) -> Result<F, D::Error> {
                let Read { $name, $bytes } = Read::deserialize(from)?;
                let bytes = $bytes.map(hex::decode).transpose().map_err(D::Error::custom)?;
                let path = bytes.map(OsString::from_vec).or($name.map(OsString::from)).map(PathBuf::from);
                F::read(path).ok_or_else(|| D::Error::missing_field(stringify!($name)))
            }
        }
    )*};
}

fields!(
    path and path_bytes,
    link and link_bytes,
    log and log_bytes,
    file and file_bytes,
    project and project_bytes,
    source and source_bytes,
    config and config_bytes
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Artifact, Event, FailedTask, TaskName};

    #[test]
    fn documents_of_before_are_read() {
        let artifact: Artifact = serde_json::from_str(r#"{"path":"a/b","size":0,"link":"c"}"#).expect("an artifact");
        assert_eq!((artifact.path, artifact.link), ("a/b".into(), Some("c".into())));
        let task: FailedTask = serde_json::from_str(r#"{"recipe":"r","task":"t","log":null}"#).expect("a task");
        assert_eq!(task.log, None);
        assert!(serde_json::from_str::<Artifact>(r#"{"size":0}"#).is_err(), "an artifact has a path");
        let name = TaskName { recipe: "r".into(), task: "t".into() };
        let log = Event::TaskLog { name, log: "/l".into(), tail: Vec::new() };
        let text = r#"{"event":"task_log","recipe":"r","task":"t","log":"/l","tail":[]}"#;
        assert_eq!(serde_json::to_string(&log).expect("text"), text);
        assert_eq!(serde_json::from_str::<Event>(text).expect("an event"), log);
    }

    proptest::proptest! {
        #[test]
        fn any_path_survives(path: Vec<u8>, link: Option<Vec<u8>>) {
            let path_of = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
            let artifact = Artifact { path: path_of(path), size: 1, sha256: None, link: link.map(path_of) };
            let task = FailedTask { name: TaskName { recipe: "r".into(), task: "t".into() }, log: artifact.link.clone(), reasons: Vec::new(), urls: Vec::new() };
            let text = serde_json::to_string(&(&artifact, &task)).expect("text");
            let read: (Artifact, FailedTask) = serde_json::from_str(&text).expect("the same");
            proptest::prop_assert_eq!(read, (artifact, task));
        }
    }
}
