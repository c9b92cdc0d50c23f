//! The registry client against a faulty registry.

mod auth;
mod fetch;
mod push;
mod redirect;
mod tls;

use std::{
    io::{self, Read},
    path::Path,
};

use super::{HttpRegistry, RegistryError, testing::FaultyRegistry};
use crate::image::documents::Descriptor;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Bytes that are not all the same.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from(at % 251).expect("small")).collect()
}

fn read_from(registry: &HttpRegistry, blob: &Descriptor, from: u64) -> Result<Vec<u8>, RegistryError> {
    let mut all = Vec::new();
    let found = |error: io::Error| RegistryError::from_io(error).expect("an error of the registry");
    registry.blob(blob, from)?.read_to_end(&mut all).map_err(found)?;
    Ok(all)
}

fn read(registry: &HttpRegistry, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    read_from(registry, blob, 0)
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, text).expect("a file");
}

/// Lets the client know a password.
fn log_in(registry: &FaultyRegistry, host: &str, user: &str, password: &str) {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let text = format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#);
    write(&registry.home.path().join(".docker/config.json"), &text);
}
