//! The daemon's private certificate authority: made at the first start, kept below SMIDR_HOME/daemon, known to clients by the SHA-256 of its
//! certificate.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
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

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// A file is no certificate or key.
    #[error("{} is no certificate or key in PEM form", .0.display())]
    Damaged(PathBuf),
}

impl UserError for AuthorityError {
    fn kind(&self) -> Kind {
        match self {
            Self::File(error) => error.kind(),
            Self::Make(_) | Self::Damaged(_) => Kind::Host,
        }
    }

    fn hints(&self) -> Vec<Hint> {
        match self {
            Self::File(error) => error.hints(),
            Self::Damaged(path) => {
                let command = format!("rm {}", path.with_file_name("ca.*").display());
                vec![Hint::command("to begin with a new authority, which clients must pin again", command)]
            }
            Self::Make(_) => Vec::new(),
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
    params.distinguished_name.push(DnType::CommonName, "smidr daemon");
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

    /// The daemon's own certificate, made anew when it is old or for other names.
    ///
    /// # Errors
    ///
    /// When it cannot be made or read.
    pub(crate) fn server(&self, host: &str, addresses: &[IpAddr]) -> Result<Identity, AuthorityError> {
        let mut names = vec!["localhost".to_owned(), host.to_owned()];
        names.dedup();
        let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        ips.extend(addresses.iter().filter(|address| !address.is_unspecified() && !address.is_loopback()));
        let about = format!("{names:?} {ips:?} {}", self.pin());
        let (file, about_file) = (self.folder.join("server.pem"), self.folder.join("server.names"));
        let is_fresh = fs::metadata(&file)
            .and_then(|found| found.modified())
            .is_ok_and(|made| made.elapsed().is_ok_and(|age| age.as_secs() < RENEW.cast_unsigned() * 86_400));
        if !is_fresh || fs::read_to_string(&about_file).ok().as_ref() != Some(&about) {
            let mut params = CertificateParams::new(names)?;
            params.subject_alt_names.extend(ips.into_iter().map(SanType::IpAddress));
            let issued = self.issue(params, "smidr daemon", ExtendedKeyUsagePurpose::ServerAuth)?;
            let text = format!("{}{}", issued.certificate, issued.key);
            write_atomically(&file, text.as_bytes(), 0o600)?;
            write_atomically(&about_file, about.as_bytes(), 0o600)?;
        }
        let mut identity = identity(&file, &file)?;
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
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| AuthorityError::Damaged(key.into()))?;
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
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| AuthorityError::Damaged(file.into()))
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
        let server = first.server("builds.example", &[]).expect("a certificate").chain;
        let again = Authority::open(&folder).expect("the same");
        assert_eq!(first.pin(), again.pin());
        assert_eq!(again.server("builds.example", &[]).expect("a certificate").chain, server);
        assert_ne!(again.server("other.example", &[]).expect("a certificate").chain, server);
        fs::write(folder.join("ca.key"), "no key").expect("written");
        assert!(matches!(Authority::open(&folder), Err(AuthorityError::Damaged(_))));
    }
}
