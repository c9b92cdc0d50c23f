//! Finds credentials for a registry, from files as in containers-auth.json(5) and docker's config.json. Reads files and runs helpers; keeps
//! passwords out of all messages.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::Read as _,
    iter,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::{error::RegistryError, helper, settings::Settings};
use crate::{model::Shown, system::files::FileError};

const DOCKER_HUB: &str = "docker.io";
/// The key of Docker Hub for helpers and in `config.json`.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const FILE_BYTES: u64 = 1 << 20;

/// A text that is never displayed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    /// Hides a text.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The form of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// User and password.
    Password {
        /// The user's name.
        user: String,
        /// The password, or a token in its place.
        password: Secret,
    },
    /// An identity token, to be exchanged for a token of the registry's.
    Identity(Secret),
}

/// A login, and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credential {
    /// The login.
    pub login: Login,
    /// `a password from FILE`, for messages.
    pub origin: String,
}

// One structure for both formats, which have these keys in common.
#[derive(Default, Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(default, rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Runs a helper, the first argument, for a server, the second.
type AskHelper<'a> = dyn Fn(&str, &str) -> Result<Option<Login>, helper::HelperError> + 'a;

/// Looks for credentials for `host` and the repository there.
///
/// # Errors
///
/// When a file cannot be read or parsed. A helper that fails is a warning, since most images need no credentials.
pub(super) fn find(settings: &Settings, host: &str, repository: &str) -> Result<Option<Credential>, RegistryError> {
    let ask = |name: &str, server: &str| helper::ask(settings, name, server);
    search(&files(settings), host, repository, &ask, &|warning| (settings.warn)(warning))
}

fn files(settings: &Settings) -> Vec<PathBuf> {
    let at = |name: &str, below: &str| settings.variable(name).map(|value| Path::new(value).join(below));
    let own = settings.variable("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let runtime = at("XDG_RUNTIME_DIR", "containers/auth.json");
    let config = settings.config_home().join("containers/auth.json");
    let docker = at("DOCKER_CONFIG", "config.json").unwrap_or_else(|| settings.home.join(".docker/config.json"));
    own.into_iter().chain(runtime).chain([config, docker]).collect()
}

fn search(
    files: &[PathBuf],
    host: &str,
    repository: &str,
    ask: &AskHelper<'_>,
    warn: &dyn Fn(String),
) -> Result<Option<Credential>, RegistryError> {
    for path in files {
        let Some(file) = read(path)? else { continue };
        if let Some(found) = in_file(path, &file, host, repository, ask, warn)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<AuthFile>, RegistryError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(FileError::new("read", path)(error).into()),
        Ok(_) => {}
    }
    let bad = |why: String| RegistryError::Settings { path: path.into(), why };
    if bytes.len() as u64 > FILE_BYTES {
        return Err(bad(format!("it is larger than {FILE_BYTES} bytes")));
    }
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    // The parser's error could quote a password.
    let place =
        |error: serde_json::Error| bad(format!("line {}, column {} is not as expected", error.line(), error.column()));
    serde_json::from_slice(&bytes).map(Some).map_err(place)
}

fn in_file(
    path: &Path,
    file: &AuthFile,
    host: &str,
    repository: &str,
    ask: &AskHelper<'_>,
    warn: &dyn Fn(String),
) -> Result<Option<Credential>, RegistryError> {
    let keys = keys(host, repository);
    let special = file.cred_helpers.as_ref().and_then(|map| {
        let entry = keys.iter().find_map(|key| map.iter().find(|(known, _)| normal(known) == *key));
        entry.map(|(key, name)| (name, if host == DOCKER_HUB { server_of(host) } else { key.clone() }))
    });
    let store = file.creds_store.as_ref().map(|name| (name, server_of(host)));
    for (name, server) in special.into_iter().chain(store).filter(|(name, _)| !name.is_empty()) {
        match ask(name, &server) {
            Ok(Some(login)) => {
                let origin = format!("{} from the helper {name} of {}", kind(&login), path.display());
                return Ok(Some(Credential { login, origin }));
            }
            Ok(None) => {}
            Err(error) => warn(format!("the credential helper `{}` of {} {error}", Shown::plain(name), path.display())),
        }
    }
    let auths = file.auths.iter().flatten();
    let logins: Vec<_> = auths.map(|(key, entry)| (normal(key), entry)).collect();
    for entry in keys.iter().filter_map(|key| logins.iter().find(|(known, _)| known == key)).map(|(_, entry)| entry) {
        if let Some(login) = login(path, entry)? {
            let origin = format!("{} from {}", kind(&login), path.display());
            return Ok(Some(Credential { login, origin }));
        }
    }
    Ok(None)
}

fn kind(login: &Login) -> &'static str {
    match login {
        Login::Password { .. } => "a password",
        Login::Identity(_) => "an identity token",
    }
}

// The most specific first.
fn keys(host: &str, repository: &str) -> Vec<String> {
    let whole = format!("{host}/{repository}");
    let whole_first = iter::successors(Some(whole.as_str()), |key| Some(key.rsplit_once('/')?.0));
    let mut keys: Vec<String> = whole_first.map(String::from).collect();
    if host == DOCKER_HUB {
        keys.extend(["index.docker.io".into(), "registry-1.docker.io".into()]);
    }
    keys
}

fn server_of(host: &str) -> String {
    if host == DOCKER_HUB { DOCKER_HUB_KEY.into() } else { host.into() }
}

// `https://index.docker.io/v1/` and the like become hosts.
fn normal(key: &str) -> &str {
    let key = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key).trim_end_matches('/');
    // Only after a host alone: `host/team/v1` is a repository.
    match key.split_once('/') {
        Some((host, "v1" | "v2")) => host,
        _ => key,
    }
}

// An empty entry means that a helper has the credentials.
fn login(path: &Path, entry: &Entry) -> Result<Option<Login>, RegistryError> {
    let bad =
        || RegistryError::Settings { path: path.into(), why: "an `auth` in it is not base64 of USER:PASSWORD".into() };
    let full = |text: &Option<String>| text.as_ref().filter(|text| !text.is_empty()).cloned();
    if let Some(token) = full(&entry.identitytoken) {
        return Ok(Some(Login::Identity(Secret(token))));
    }
    if let Some(auth) = full(&entry.auth) {
        let text =
            BASE64_STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)?;
        let (user, password) = text.split_once(':').ok_or_else(bad)?;
        // Docker pads with zero bytes.
        let password = password.trim_end_matches('\0');
        return Ok(Some(Login::Password { user: user.into(), password: Secret::new(password) }));
    }
    let pair = full(&entry.username).zip(full(&entry.password));
    Ok(pair.map(|(user, password)| Login::Password { user, password: Secret(password) }))
}

#[cfg(test)]
#[path = "tests/credentials.rs"]
mod tests;
