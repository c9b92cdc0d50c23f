//! The daemon's private certificate authority: made at the first start, kept below SMIDR_HOME/daemon, known to clients by the SHA-256 of its
//! certificate.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};

use crate::{
    model::{Hint, Kind, UserError},
    system::files::{FileError, make_private_dir, write_atomically},
};

/// How long the authority is good, in years.
const AUTHORITY_YEARS: i64 = 20;

/// How long a certificate is good that it signs, in days.
const DAYS: i64 = 730;

/// The server's certificate is made anew when it is older than this, in days.
const RENEW: i64 = 365;

/// The authority's name in its certificate. OpenSSL takes a certificate whose issuer has its own name for one that has signed itself, so no other
/// one may have it.
const AUTHORITY: &str = "smidr daemon";

/// The server's.
const SERVER: &str = "smidr server";

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// A file of the authority is no certificate or key.
    #[error("{} is no certificate or key in PEM form", .0.display())]
    Damaged(PathBuf),
    /// A file that was named is none.
    #[error("{} is no {what} in PEM form", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// They are not of one another, or cannot be used.
    #[error("the key {} is not that of the certificate {}", key.display(), certificate.display())]
    Apart {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// What TLS says.
        source: rustls::Error,
    },
    /// A certificate that can sign nothing.
    #[error("the certificate {} is not that of an authority", path.display())]
    NoAuthority {
        /// Its file.
        path: PathBuf,
        /// What TLS says.
        source: rustls::Error,
    },
}

impl UserError for AuthorityError {
    fn kind(&self) -> Kind {
        match self {
            Self::File(error) => error.kind(),
            Self::Make(_) | Self::Damaged(_) => Kind::Host,
            Self::Wrong { .. } | Self::Apart { .. } | Self::NoAuthority { .. } => Kind::Request,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::File(error) => error.hints(),
            Self::Damaged(path) => {
                let command = format!("rm {}", path.with_file_name("ca.*").display());
                vec![Hint::command("to begin with a new authority, which clients must pin again", command)]
            }
            Self::Make(_) | Self::Wrong { .. } | Self::Apart { .. } | Self::NoAuthority { .. } => Vec::new(),
        }
    }
}

/// The authority.
pub(crate) struct Authority {
    folder: PathBuf,
    key: KeyPair,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The same as text.
    pub pem: String,
}

/// A certificate with its key.
pub(crate) struct Identity {
    /// The certificate, and that of its issuer.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// A certificate with its key, as text.
pub(crate) struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

fn days_from_now(days: i64) -> impl Fn(&mut CertificateParams) {
    move |params| {
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let day = |days: i64| {
            let date = today.checked_add(days.days()).unwrap_or(today);
            rcgen::date_time_ymd(date.year().into(), date.month().cast_unsigned(), date.day().cast_unsigned())
        };
        // A client's clock may be behind.
        (params.not_before, params.not_after) = (day(-1), day(days));
    }
}

fn params_of_authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    days_from_now(AUTHORITY_YEARS * 365)(&mut params);
    params
}

impl Authority {
    /// The authority in a folder, made if there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read or made.
    pub(crate) fn open(folder: &Path) -> Result<Self, AuthorityError> {
        make_private_dir(folder)?;
        let (key_file, certificate_file) = (folder.join("ca.key"), folder.join("ca.pem"));
        if !key_file.exists() || !certificate_file.exists() {
            let key = KeyPair::generate()?;
            let certificate = params_of_authority().self_signed(&key)?;
            write_atomically(&key_file, key.serialize_pem().as_bytes(), 0o600)?;
            write_atomically(&certificate_file, certificate.pem().as_bytes(), 0o600)?;
        }
        let read = |path: &Path| fs::read_to_string(path).map_err(FileError::new("read", path));
        let pem = read(&certificate_file)?;
        let key = KeyPair::from_pem(&read(&key_file)?).map_err(|_| AuthorityError::Damaged(key_file))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes());
        let certificate = certificate.map_err(|_| AuthorityError::Damaged(certificate_file))?;
        Ok(Self { folder: folder.into(), key, certificate, pem })
    }

    /// What clients pin: `sha256:` and the digits.
    pub(crate) fn pin(&self) -> String {
        pin_of(&self.certificate)
    }

    /// The daemon's own certificate for `localhost`, loopback, and these names and addresses; made anew when it is old or for others.
    ///
    /// # Errors
    ///
    /// When it cannot be made or read.
    pub(crate) fn server(&self, names: &[String]) -> Result<Identity, AuthorityError> {
        let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
        for name in names {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        let about = format!("{SERVER} {all:?} {}", self.pin());
        let (file, about_file) = (self.folder.join("server.pem"), self.folder.join("server.names"));
        let is_fresh = fs::metadata(&file)
            .and_then(|found| found.modified())
            .is_ok_and(|made| made.elapsed().is_ok_and(|age| age.as_secs() < RENEW.cast_unsigned() * 86_400));
        let is_same = is_fresh && fs::read_to_string(&about_file).is_ok_and(|known| known == about);
        let known = if is_same { identity(&file, &file).ok() } else { None };
        let mut identity = match known {
            Some(known) => known,
            None => {
                let issued = self.issue(CertificateParams::new(all)?, SERVER, ExtendedKeyUsagePurpose::ServerAuth)?;
                let text = format!("{}{}", issued.certificate, issued.key);
                write_atomically(&file, text.as_bytes(), 0o600)?;
                write_atomically(&about_file, about.as_bytes(), 0o600)?;
                identity(&file, &file)?
            }
        };
        identity.chain.push(self.certificate.clone());
        Ok(identity)
    }

    /// A certificate for a client.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(crate) fn client(&self, subject: &str) -> Result<Issued, AuthorityError> {
        self.issue(CertificateParams::default(), subject, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        subject: &str,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<Issued, AuthorityError> {
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, subject);
        // With a key identifier of its own.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.insert_extended_key_usage(purpose);
        params.use_authority_key_identifier_extension = true;
        days_from_now(DAYS)(&mut params);
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(params_of_authority(), &self.key);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// Reads a certificate with its chain, and its key.
///
/// # Errors
///
/// When a file cannot be read, or is none.
pub(crate) fn identity(certificate: &Path, key: &Path) -> Result<Identity, AuthorityError> {
    let chain = certificates(certificate)?;
    let text = fs::read(key).map_err(FileError::new("read", key))?;
    let wrong = |_| AuthorityError::Wrong { path: key.into(), what: "key" };
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(wrong)?;
    Ok(Identity { chain, key })
}

/// Reads the certificates of a file, at least one.
///
/// # Errors
///
/// When the file cannot be read, or has none.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let text = fs::read(file).map_err(FileError::new("read", file))?;
    let all = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let wrong = || AuthorityError::Wrong { path: file.into(), what: "certificate" };
    all.ok().filter(|all| !all.is_empty()).ok_or_else(wrong)
}

/// Reads what an administrator names: certificate and key of the server.
///
/// # Errors
///
/// When a file cannot be read, is none, or they do not fit.
pub(crate) fn named_server(certificate: &Path, key: &Path) -> Result<Identity, AuthorityError> {
    let found = identity(certificate, key)?;
    let apart = |source| AuthorityError::Apart { certificate: certificate.into(), key: key.into(), source };
    let provider = rustls::crypto::ring::default_provider();
    let signs = provider.key_provider.load_private_key(found.key.clone_key()).map_err(apart)?;
    match rustls::sign::CertifiedKey::new(found.chain.clone(), signs).keys_match() {
        // Of a key that does not tell its public half, nothing can be said.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(found),
        Err(source) => Err(apart(source)),
    }
}

/// Reads what an administrator names: those who sign client certificates.
///
/// # Errors
///
/// When the file cannot be read, or has something else.
pub(crate) fn named_clients(file: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let all = certificates(file)?;
    let mut roots = rustls::RootCertStore::empty();
    for one in &all {
        roots.add(one.clone()).map_err(|source| AuthorityError::NoAuthority { path: file.into(), source })?;
    }
    Ok(all)
}

/// The pin of a certificate.
pub(crate) fn pin_of(certificate: &CertificateDer<'_>) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(certificate)))
}

/// An error of TLS itself, as an I/O error.
pub(crate) fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_stays_the_same() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = folder.path().join("daemon");
        let first = Authority::open(&folder).expect("an authority");
        let of = |authority: &Authority, name: &str| authority.server(&[name.into()]).expect("a certificate").chain;
        let server = of(&first, "builds.example");
        let again = Authority::open(&folder).expect("the same");
        assert_eq!(first.pin(), again.pin());
        assert_eq!(of(&again, "builds.example"), server);
        let other = of(&again, "192.0.2.1");
        assert_ne!(other, server);
        // One that an earlier version has made.
        fs::write(folder.join("server.names"), format!("[\"192.0.2.1\"] [] {}", first.pin())).expect("written");
        let renewed = of(&again, "192.0.2.1");
        assert_ne!(renewed, other);
        fs::write(folder.join("server.pem"), "nothing").expect("written");
        assert_ne!(of(&again, "192.0.2.1"), renewed);
        assert_eq!(again.pin(), first.pin());
        fs::write(folder.join("ca.key"), "no key").expect("written");
        assert!(matches!(Authority::open(&folder), Err(AuthorityError::Damaged(_))));
    }

    #[test]
    fn names_and_key_identifiers_are_apart() {
        use x509_parser::extensions::ParsedExtension;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::open(folder.path()).expect("an authority");
        let chain = authority.server(&["builds.example".into()]).expect("a certificate").chain;
        let [server, root] =
            [&chain[0], &chain[1]].map(|one| x509_parser::parse_x509_certificate(one).expect("a certificate").1);
        assert_eq!(server.issuer(), root.subject());
        assert_ne!(server.subject(), root.subject());
        let (mut own, mut signer) = (Vec::new(), Vec::new());
        for (at, one) in [&server, &root].into_iter().enumerate() {
            for extension in one.extensions() {
                match extension.parsed_extension() {
                    ParsedExtension::SubjectKeyIdentifier(key) => own.push((at, key.0)),
                    ParsedExtension::AuthorityKeyIdentifier(key) => {
                        signer.extend(key.key_identifier.iter().map(|key| (at, key.0)));
                    }
                    _ => {}
                }
            }
        }
        let [(0, of_server), (1, of_root)] = own[..] else { panic!("{own:?}") };
        assert_ne!(of_server, of_root);
        assert_eq!(signer.first(), Some(&(0, of_root)));
    }

    #[test]
    fn files_that_are_named_are_looked_into() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::open(folder.path()).expect("an authority");
        let files = |name: &str| {
            let issued = authority.client(name).expect("a certificate");
            let [certificate, key] = ["pem", "key"].map(|end| folder.path().join(format!("{name}.{end}")));
            fs::write(&certificate, issued.certificate).expect("written");
            fs::write(&key, issued.key).expect("written");
            (certificate, key)
        };
        let ((first, key), (second, _)) = (files("a"), files("b"));
        named_server(&first, &key).expect("a pair");
        let wrong = [
            (named_server(&second, &key).map(drop), "is not that of the certificate"),
            (named_server(&key, &key).map(drop), "is no certificate in PEM form"),
            (named_server(&first, &first).map(drop), "is no key in PEM form"),
            (named_clients(&key).map(drop), "is no certificate in PEM form"),
            (named_clients(&folder.path().join("none")).map(drop), "cannot read"),
        ];
        for (result, message) in wrong {
            let error = result.expect_err(message);
            assert!(error.to_string().contains(message), "{error}");
            assert!(!format!("{:?}", error.hints()).contains("ca."), "{error}: {:?}", error.hints());
        }
        named_clients(&folder.path().join("ca.pem")).expect("an authority");
        fs::write(&second, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("written");
        assert!(matches!(named_clients(&second), Err(AuthorityError::NoAuthority { .. })));
    }
}
