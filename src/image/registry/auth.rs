//! Authentication: tokens and passwords for one repository of one registry. Credentials are sent over https only, to the registry or to
//! the token server that it names. No credentials are sent over plain http.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{
    Method, StatusCode, Url,
    blocking::Response,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;

use super::{
    challenge::{self, Challenge},
    credentials::{self, Credential, Login},
    error::RegistryError,
    http::{Ask, Http, host_of, shown},
    settings::Settings,
};

const TOKEN_BYTES: u64 = 1 << 20;
/// The lifetime of a token for which the server names none (distribution, "Token Authentication Specification").
const USUAL_LIFE: u64 = 60;

/// The access that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
}

/// Authentication for one repository.
pub(super) struct Auth {
    host: String,
    repository: String,
    /// Whether plain http is allowed for the registry, and for a token server on the same host.
    insecure: bool,
    settings: Arc<Settings>,
    // Held while a token is fetched, so that only one of many threads fetches it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    granted: BTreeMap<Access, Granted>,
    /// The credentials in files and helpers; none before they were looked for.
    login: Option<Option<Credential>>,
    tried: Option<String>,
}

struct Granted {
    header: HeaderValue,
    until: Option<Instant>,
}

impl Granted {
    fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Auth {
    /// For a repository of a registry. Makes no request.
    pub(super) fn new(host: &str, repository: &str, insecure: bool, settings: &Arc<Settings>) -> Self {
        let (host, repository) = (host.to_owned(), repository.to_owned());
        Self { host, repository, insecure, settings: settings.clone(), state: Mutex::default() }
    }

    /// The authorization to send, as far as it is known.
    pub(super) fn header(&self, access: Access) -> Option<HeaderValue> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.granted.get(&access).filter(|granted| granted.is_fresh()).map(|granted| granted.header.clone())
    }

    /// Whether credentials have been sent.
    pub(super) fn used_login(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&state.login, Some(Some(_)))
    }

    /// Answers the challenge of the registry at `from` after it rejected `used`.
    ///
    /// # Errors
    ///
    /// When there are no credentials, or they must not be sent.
    pub(super) fn answer(
        &self,
        http: &Http,
        access: Access,
        from: &Url,
        demands: &[String],
        used: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have fetched a token meanwhile.
        if let Some(granted) = state.granted.get(&access).filter(|it| it.is_fresh() && Some(&it.header) != used) {
            return Ok(granted.header.clone());
        }
        let challenges: Vec<_> = demands.iter().flat_map(|text| challenge::parse(text)).collect();
        let of = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let granted = match (of("bearer"), of("basic")) {
            (Some(bearer), _) => self.token(&mut state, http, access, from, bearer)?,
            (None, Some(_)) => self.basic(&mut state, from)?,
            (None, None) => return Err(RegistryError::Challenge(self.host.clone())),
        };
        let header = granted.header.clone();
        state.granted.insert(access, granted);
        Ok(header)
    }

    /// The error for a registry that rejects the credentials.
    pub(super) fn denied(&self, from: &Url, status: StatusCode, said: String) -> RegistryError {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refused(&state, from, status, said)
    }

    fn refused(&self, state: &State, by: &Url, status: StatusCode, said: String) -> RegistryError {
        if by.scheme() != "https" && status == StatusCode::UNAUTHORIZED {
            return RegistryError::PlainCredentials(host_of(by));
        }
        let name = format!("{}/{}", self.host, self.repository);
        if !self.settings.logins {
            return RegistryError::NeedsLogin(name);
        }
        let tried = state.tried.clone().unwrap_or_else(|| "no credentials".into());
        RegistryError::Denied { host: host_of(by), name, tried, said }
    }

    // Credentials need TLS both to the registry and to the receiver: a token that was bought with a password
    // must not go over plain http either.
    fn login(&self, state: &mut State, registry: &Url, to: &Url) -> Result<Option<Login>, RegistryError> {
        if !self.settings.logins || registry.scheme() != "https" || to.scheme() != "https" {
            return Ok(None);
        }
        let found = match &state.login {
            Some(found) => found.clone(),
            None => credentials::find(&self.settings, &self.host, &self.repository)?,
        };
        state.tried = found.as_ref().map(|found| found.origin.clone());
        state.login = Some(found.clone());
        Ok(found.map(|found| found.login))
    }

    fn basic(&self, state: &mut State, from: &Url) -> Result<Granted, RegistryError> {
        match self.login(state, from, from)? {
            Some(Login::Password { user, password }) => {
                Ok(Granted { header: basic_header(&user, password.reveal()), until: None })
            }
            Some(Login::Identity(_)) => Err(RegistryError::Challenge(self.host.clone())),
            None => Err(self.refused(state, from, StatusCode::UNAUTHORIZED, String::new())),
        }
    }

    fn token(
        &self,
        state: &mut State,
        http: &Http,
        access: Access,
        from: &Url,
        bearer: &Challenge,
    ) -> Result<Granted, RegistryError> {
        let realm = self.realm(from, bearer.get("realm").unwrap_or_default())?;
        // The scope is computed here and not taken from the registry.
        let actions = if access == Access::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", self.repository);
        let login = self.login(state, from, &realm)?;
        let ask = token_request(&realm, bearer.get("service"), &scope, login);
        let response = http.send(ask)?;
        if response.status() != StatusCode::OK {
            return Err(self.no_token(state, http, response, from, &realm));
        }
        let host = host_of(&realm);
        let broken = |source| RegistryError::Broken { host: host.clone(), what: "a token".into(), source };
        let bytes = http.read(response, TOKEN_BYTES).map_err(broken)?;
        granted(bytes.as_deref()).map_err(|why| RegistryError::Token { host, why })
    }

    fn no_token(&self, state: &State, http: &Http, response: Response, from: &Url, realm: &Url) -> RegistryError {
        let status = response.status();
        let (said, retry_after) = http.refusal(response);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let plain = if from.scheme() == "https" { realm } else { from };
                self.refused(state, plain, StatusCode::UNAUTHORIZED, said)
            }
            _ => {
                let (host, what) = (host_of(realm), format!("a token for {}", self.repository));
                RegistryError::Status { host, what, status: status.as_u16(), said, retry_after }
            }
        }
    }

    // CVE-2019-10214: a realm over plain http got credentials.
    fn realm(&self, from: &Url, text: &str) -> Result<Url, RegistryError> {
        let wrong = |why| RegistryError::Realm { host: self.host.clone(), realm: shown(text), why };
        let realm = Url::parse(text).map_err(|_| wrong("is no URL"))?;
        match realm.scheme() {
            "https" => Ok(realm),
            "http" if self.insecure && realm.host_str() == from.host_str() => Ok(realm),
            _ => Err(wrong("is not reached over https")),
        }
    }
}

fn basic_header(user: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
    let mut header = HeaderValue::try_from(text).expect("base64 is fit for a header");
    header.set_sensitive(true);
    header
}

fn token_request(realm: &Url, service: Option<&str>, scope: &str, login: Option<Login>) -> Ask {
    let mut url = realm.clone();
    let service = service.map(|service| ("service", service));
    let identity = match &login {
        Some(Login::Identity(token)) => Some(token.reveal().to_owned()),
        _ => None,
    };
    let Some(token) = identity else {
        url.query_pairs_mut().extend_pairs(service).append_pair("scope", scope);
        let mut ask = Ask::new(Method::GET, url, "a token");
        if let Some(Login::Password { user, password }) = login {
            ask.authorization = Some(basic_header(&user, password.reveal()));
        }
        return ask;
    };
    // `Url` is used to encode a form.
    let mut form = realm.clone();
    form.set_query(None);
    form.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .extend_pairs(service)
        .append_pair("client_id", "smidr")
        .append_pair("scope", scope)
        .append_pair("refresh_token", &token);
    let mut ask = Ask::new(Method::POST, url, "a token");
    ask.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")));
    ask.body = Some(form.query().unwrap_or_default().to_owned().into());
    ask
}

fn granted(bytes: Option<&[u8]>) -> Result<Granted, &'static str> {
    let bytes = bytes.ok_or("the answer is too long")?;
    let answer: TokenAnswer = serde_json::from_slice(bytes).map_err(|_| "the answer is not as expected")?;
    // Servers may fill either, and leave the other empty.
    let token = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
    let token = token.ok_or("there is none")?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "it is not fit for a header")?;
    header.set_sensitive(true);
    // A little less than promised, for the time on the way. At most a day, which cannot overflow.
    let life = Duration::from_secs(answer.expires_in.unwrap_or(USUAL_LIFE).min(86_400)) * 9 / 10;
    Ok(Granted { header, until: Some(Instant::now() + life) })
}
