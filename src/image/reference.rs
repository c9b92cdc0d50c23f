//! References: what a user writes to name an image that is not in the store. Parses text into a source. Pure.
//!
//! The grammar of registry references is the distribution specification's, narrowed: sha256 only, and at most
//! [`LONGEST`] bytes. What this accepts is safe as a part of a URL's path.

use std::{fmt, net::Ipv6Addr, path::PathBuf, str::FromStr};

use crate::model::{Digest, Hint, InvalidDigest, Kind, Shown, UserError};

/// The longest reference, in bytes and without its scheme.
pub(super) const LONGEST: usize = 200;

const DOCKER_HUB: &str = "docker.io";
/// The host of Docker Hub's API is not the one in its references.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
const DOCKER_HUB_ALIASES: [&str; 3] = [DOCKER_HUB, "index.docker.io", DOCKER_HUB_API];
const OTHER_TOOLS: [&str; 5] = ["containers-storage:", "docker-daemon:", "dir:", "ostree:", "sif:"];

/// The source of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A registry.
    Registry(RegistryReference),
    /// A layout or an archive on this machine, distinguished by content.
    Local {
        /// The folder or file.
        path: PathBuf,
        /// The label of the image, where the source holds several.
        name: Option<String>,
    },
}

/// The name in the store for what a user writes: a reference without its scheme.
pub fn stored_name(name: &str) -> String {
    match name.parse() {
        Ok(Reference::Registry(reference)) => reference.to_string(),
        _ => name.to_owned(),
    }
}

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryReference {
    /// Name or address, with a port where it is not the default. In lower case.
    pub host: String,
    /// Path of the repository, such as `library/debian`.
    pub repository: String,
    /// The tag. Only a reference with a digest may lack it.
    pub tag: Option<String>,
    /// The digest that the image must have.
    pub digest: Option<Digest>,
}

/// Text that names no image outside of the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// A single word could be an image of the store as well.
    #[error("`{0}` does not say where the image is to come from")]
    Bare(String),
    /// A path could mean any form.
    #[error("`{0}` is a path, and does not say what is there")]
    Path(String),
    /// An unknown scheme.
    #[error("smidr does not read images from `{0}`")]
    Scheme(String),
    /// Against the grammar.
    #[error("`{text}` is no image reference: {why}")]
    Malformed {
        /// As written, shortened.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A digest of another kind.
    #[error("`{text}` is no image reference: {why}")]
    Digest {
        /// As written, shortened.
        text: String,
        /// What is wrong with its digest.
        why: String,
    },
}

impl UserError for ReferenceError {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::Bare(text) => vec![Hint::command("for an image of Docker Hub write", format!("docker://{text}"))],
            Self::Path(text) => {
                let path = shlex::try_quote(text).unwrap_or_default().into_owned();
                vec![Hint::new(format!("write oci:{path}, oci-archive:{path} or docker-archive:{path}"))]
            }
            Self::Scheme(_) => {
                vec![Hint::new("write docker://HOST/NAME:TAG, oci:PATH, oci-archive:PATH or docker-archive:PATH")]
            }
            Self::Malformed { .. } | Self::Digest { .. } => {
                vec![Hint::new("a reference looks like docker://registry.example.com/team/image:tag")]
            }
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if let Some(rest) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(rest.parse()?));
        }
        if let Some(rest) = text.strip_prefix("oci:").or(text.strip_prefix("oci-archive:")) {
            // As other tools have it: the name may hold colons, the path may not.
            let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
            return local(text, path, name);
        }
        if let Some(path) = text.strip_prefix("docker-archive:") {
            return local(text, path, None);
        }
        if text.starts_with(['/', '.', '~']) {
            return Err(ReferenceError::Path(short(text)));
        }
        if let Some(other) = OTHER_TOOLS.iter().find(|scheme| text.starts_with(**scheme)) {
            return Err(ReferenceError::Scheme((*other).into()));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(ReferenceError::Scheme(format!("{}://", short(scheme))));
        }
        if text.contains(['/', ':']) {
            Ok(Self::Registry(text.parse()?))
        } else {
            Err(ReferenceError::Bare(short(text)))
        }
    }
}

fn local(text: &str, path: &str, name: Option<&str>) -> Result<Reference, ReferenceError> {
    if path.is_empty() || path.contains('\0') {
        return Err(malformed(text, "it has no path"));
    }
    if name.is_some_and(|name| name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control)) {
        return Err(malformed(text, "the name after the path is empty, too long or not printable"));
    }
    Ok(Reference::Local { path: path.into(), name: name.map(String::from) })
}

impl RegistryReference {
    /// The host of the registry's API, which for Docker Hub is another one.
    pub fn api_host(&self) -> &str {
        api_host(&self.host)
    }

    /// Host and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The same image, by its digest.
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (text, tag) = match text.rsplit_once(':').filter(|(_, tag)| !tag.contains(['/', ']'])) {
            // `localhost:5000` alone is the tag 5000 of `localhost`, as in other tools.
            Some((text, tag)) => (text, Some(tag)),
            None => (text, None),
        };
        let is_host = |first: &str| first.contains(['.', ':', '[']) || first == "localhost";
        let (host, repository) = match text.split_once('/') {
            Some((first, rest)) if is_host(first) => (first.to_ascii_lowercase(), rest.to_owned()),
            _ => (DOCKER_HUB.to_owned(), text.to_owned()),
        };
        check_host(&host)?;
        let hub = DOCKER_HUB_ALIASES.contains(&host.as_str());
        let repository = if hub && !repository.contains('/') { format!("library/{repository}") } else { repository };
        repository.split('/').try_for_each(check_component)?;
        tag.map_or(Ok(()), check_tag)?;
        let host = if hub { DOCKER_HUB.to_owned() } else { host };
        Ok(Self { host, repository, tag: tag.map(String::from), digest: None })
    }
}

impl FromStr for RegistryReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let inner = text.strip_prefix("docker://").unwrap_or(text);
        if inner.len() > LONGEST {
            return Err(malformed(text, "it is longer than 200 bytes"));
        }
        let (name, digest) = inner.split_once('@').map_or((inner, None), |(name, digest)| (name, Some(digest)));
        let wrong_digest = |why: InvalidDigest| ReferenceError::Digest { text: short(text), why: why.to_string() };
        let digest = digest.map(|digest| digest.parse().map_err(wrong_digest)).transpose()?;
        let mut parsed = Self::parse(name).map_err(|why| malformed(text, why))?;
        if parsed.tag.is_none() && digest.is_none() {
            parsed.tag = Some("latest".into());
        }
        let parsed = Self { digest, ..parsed };
        // Docker Hub's names grow longer when they are completed.
        if parsed.to_string().len() > LONGEST {
            Err(malformed(text, "it is longer than 200 bytes"))
        } else {
            Ok(parsed)
        }
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// Where the API of the registry called `host` is.
pub(super) fn api_host(host: &str) -> &str {
    if host == DOCKER_HUB { DOCKER_HUB_API } else { host }
}

/// Reads `HOST/REPOSITORY`, where the first part is always a host.
pub(super) fn place(text: &str) -> Result<(String, String), &'static str> {
    let (host, repository) = text.split_once('/').ok_or("it has no repository")?;
    check_host(host)?;
    repository.split('/').try_for_each(check_component)?;
    Ok((host.to_ascii_lowercase(), repository.to_owned()))
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let digits = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_some_and(|port| !digits(port) || !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err("its port is no number from 1 to 65535");
    }
    if let Some(address) = name.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or("its address lacks the closing bracket")?;
        return address.parse::<Ipv6Addr>().map(drop).map_err(|_| "its address in brackets is no IPv6 address");
    }
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let good = |label: &str| {
        let bytes = label.as_bytes();
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    if name.split('.').all(good) { Ok(()) } else { Err("its host is no host name") }
}

// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` of the distribution specification.
fn check_component(component: &str) -> Result<(), &'static str> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if component.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("a repository has lower-case letters only");
    }
    let edges = component.bytes().next().is_some_and(is_plain) && component.bytes().last().is_some_and(is_plain);
    let mut between = component.split(|c: char| c.is_ascii() && is_plain(c as u8));
    let separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    if edges && between.all(separator) {
        Ok(())
    } else {
        Err("a part of its repository is empty or holds other characters than a-z, 0-9 and single . _ - between them")
    }
}

/// Whether a text can be a tag.
pub(super) fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = (1..=128).contains(&tag.len()) && tag.bytes().next().is_some_and(is_word);
    if fits && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-')) {
        Ok(())
    } else {
        Err("a tag has 1 to 128 letters, digits, . _ and -, and does not begin with . or -")
    }
}

fn malformed(text: &str, why: &'static str) -> ReferenceError {
    ReferenceError::Malformed { text: short(text), why }
}

fn short(text: &str) -> String {
    Shown::plain(&text.chars().take(LONGEST).collect::<String>()).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn registry_references_are_written_out() {
        let pinned = format!("localhost:5000/a/b:tag@{SHA}");
        let only_digest = format!("debian@{SHA}");
        let whole = format!("docker.io/library/debian@{SHA}");
        let rows = [
            ("docker://debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("docker.io/debian:12", "docker.io/library/debian:12"),
            ("index.docker.io/library/debian", "docker.io/library/debian:latest"),
            ("registry-1.docker.io/crops/poky:a", "docker.io/crops/poky:a"),
            ("crops/poky", "docker.io/crops/poky:latest"),
            ("Quay.IO/a/b", "quay.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
            ("[fe80::1]/a", "[fe80::1]/a:latest"),
            ("10.0.0.1:5000/a__b/c--d.e_f:V1.0-x", "10.0.0.1:5000/a__b/c--d.e_f:V1.0-x"),
            (pinned.as_str(), pinned.as_str()),
            (only_digest.as_str(), whole.as_str()),
        ];
        for (text, expected) in rows {
            let parsed: RegistryReference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.to_string(), expected, "{text}");
            assert_eq!(expected.parse(), Ok(parsed), "{expected}");
        }
    }

    #[test]
    fn what_is_against_the_grammar_is_refused() {
        let long = format!("a/{}", "b".repeat(200));
        let grows = format!("x{}", "b".repeat(195));
        let tag = format!("a/b:{}", "t".repeat(129));
        let rows = [
            "",
            "/",
            "a//b",
            "a/",
            "a/B",
            "a/b:",
            "a/b:.x",
            "a/b:x y",
            "a/../b",
            "a/..",
            "a/.b",
            "a/b.",
            "a/b..c",
            "a/b___c",
            "a/b._c",
            "a/ä",
            "a/b%2e",
            "a/b?c",
            "a/b#c",
            "host.:80/a",
            "-h.x/a",
            "h.x:0/a",
            "h.x:65536/a",
            "h.x:+80/a",
            "h.x:/a",
            "[::1/a",
            "[zz]/a",
            "u@h.x/a",
            "h.x/a@sha256:12",
            "h.x/a@md5:12",
            "a/b@",
            "h.x/",
            "a\\b/c",
            "h.x/a@sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef",
            "h.x/a@sha256:../../0123456789abcdef0123456789abcdef0123456789abcdef01234567",
            &long,
            &grows,
            &tag,
        ];
        for text in rows {
            let found = text.parse::<RegistryReference>();
            assert!(found.is_err(), "{text} became {found:?}");
        }
    }

    #[test]
    fn every_source_of_images_has_its_scheme() {
        let local =
            |path: &str, name: Option<&str>| Reference::Local { path: path.into(), name: name.map(String::from) };
        let registry = |text: &str| Reference::Registry(text.parse().expect("a good reference"));
        let rows = [
            ("docker://debian", registry("debian")),
            ("quay.io/a/b:c", registry("quay.io/a/b:c")),
            ("debian:12", registry("debian:12")),
            ("oci:/a/b", local("/a/b", None)),
            ("oci:a b:debian:12", local("a b", Some("debian:12"))),
            ("oci-archive:./x.tar:y", local("./x.tar", Some("y"))),
            ("docker-archive:/x:y.tar", local("/x:y.tar", None)),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_could_be_anything_is_asked_back() {
        let rows = [
            ("debian-12", "does not say where", "docker://debian-12"),
            ("./x", "is a path", "oci:./x"),
            ("/x/y:z", "is a path", "oci-archive:/x/y:z"),
            ("~/x", "is a path", "docker-archive:"),
            ("https://quay.io/a/b", "from `https://`", "docker://HOST"),
            ("docker-daemon:debian:12", "from `docker-daemon:`", "docker://HOST"),
            ("oci:", "no path", "docker://"),
            ("oci:x:", "name after the path", "docker://"),
        ];
        for (text, message, hint) in rows {
            let error = text.parse::<Reference>().expect_err(text);
            assert!(error.to_string().contains(message), "{text}: {error}");
            assert!(error.hint().is_some_and(|found| found.contains(hint)), "{text}: {:?}", error.hint());
            assert_eq!(error.kind(), Kind::Request);
        }
    }

    #[test]
    fn docker_hub_answers_elsewhere() {
        let api = |text: &str| text.parse::<RegistryReference>().expect("a reference").api_host().to_owned();
        assert_eq!([api("debian"), api("quay.io/a")], ["registry-1.docker.io", "quay.io"]);
    }

    proptest! {
        #[test]
        fn what_is_accepted_survives_being_written(text in "[a-zA-Z0-9./:_@\\[\\]%? -]{0,40}") {
            if let Ok(parsed) = text.parse::<RegistryReference>() {
                prop_assert_eq!(parsed.to_string().parse::<RegistryReference>(), Ok(parsed));
            }
        }
    }
}
