//! What must not reach a log: collected from variables, addresses and files of credentials, and listed in every form that it may
//! be written in. Pure; `events` finds and replaces it.

use std::{collections::BTreeSet, fmt};

use sha2::{Digest as _, Sha256};

use super::{Digest, address::split_login, spelling};

/// A variable whose name holds one of these is taken for a secret.
const SECRET_NAMES: [&str; 12] = [
    "_PASS",
    "SSHPASS",
    "TOKEN",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "KEY",
    "CREDENTIAL",
    "AUTH",
    "COOKIE",
    "PRIVATE",
];

/// Or is one of these between its underscores: inside of other words, they mean nothing.
const SECRET_WORDS: [&str; 6] = ["PASS", "PAT", "PWD", "PSK", "JWT", "BEARER"];

/// The path of a socket, although its name holds AUTH.
const NOT_SECRET: &str = "SSH_AUTH_SOCK";

/// A variable's value must have this many characters: only its name is suspicious, and `true` stands in every log.
const LEAST_OF_VARIABLE: usize = 6;

/// A password is surely one, but who has a shorter one has none.
const LEAST_OF_PASSWORD: usize = 4;

/// A name without a password, as in `https://ghp_…@github.com`, is taken for a token from this length on.
const LEAST_OF_TOKEN: usize = 16;

/// The passwords, tokens and the like that a build is given.
#[derive(Clone, Default)]
pub struct Secrets(Vec<Secret>);

#[derive(Clone)]
struct Secret {
    user: Option<String>,
    text: String,
}

// Its content must not be shown.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Takes a variable: the whole value if the name sounds like a secret, and passwords of addresses in it.
    pub fn add_variable(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_uppercase();
        // Not GIT_AUTHOR_NAME, but HTTP_AUTHORIZATION; not BB_ENV_PASSTHROUGH_ADDITIONS.
        let telling = name.replace("AUTHORIZATION", "AUTH_").replace("AUTHOR", "").replace("PASSTHROUGH", "");
        let told = SECRET_NAMES.iter().any(|part| telling.contains(part))
            || telling.split('_').any(|word| SECRET_WORDS.contains(&word));
        // A folder (PWD, HOST_PWD), or the name of one of git's settings.
        let harmless = telling.ends_with("PWD") && value.starts_with('/') || name.starts_with("GIT_CONFIG_KEY_");
        let sounds = told && name != NOT_SECRET && !harmless;
        if sounds {
            // Programs print a key of several lines line by line.
            for text in std::iter::once(value.trim()).chain(value.lines().map(str::trim)) {
                self.add(None, text, LEAST_OF_VARIABLE);
            }
        }
        self.add_header(value);
        self.add_addresses(value);
        // Programs accept a proxy without a scheme, and git the command of one (GIT_PROXY_COMMAND).
        if name.contains("PROXY") {
            let bare = value.split_whitespace().filter(|word| word.contains('@') && !word.contains("://"));
            bare.for_each(|word| self.add_addresses(&format!("http://{word}")));
        }
    }

    /// Takes what a header of HTTP says of its sender, as in `GIT_CONFIG_VALUE_0` for git's `http.extraHeader`.
    fn add_header(&mut self, value: &str) {
        const NAME: &str = "authorization:";
        let lower = value.to_ascii_lowercase();
        let ends = lower.match_indices(NAME).map(|(at, _)| at + NAME.len());
        for said in ends.filter_map(|end| value.get(end..)?.lines().next()) {
            let word = said.split_whitespace().last().unwrap_or_default().trim_end_matches(['"', '\'', '=']);
            self.add(None, word, LEAST_OF_VARIABLE);
        }
    }

    /// Takes the passwords of all addresses in a text: `scheme://user:password@host`.
    pub fn add_addresses(&mut self, text: &str) {
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("://") {
            let scheme = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            let web = ["http", "https", "git", "gitsm"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
            rest = after;
            if let Some((login, _)) = split_login(rest) {
                self.add_login(login, web);
            }
        }
    }

    fn add_login(&mut self, login: &str, web: bool) {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        // GitHub takes a token for the user's name.
        let is_token = password.is_empty() && web && user.len() >= LEAST_OF_TOKEN || password == "x-oauth-basic";
        let (user, text) = if is_token { (None, user) } else { (Some(decoded(user)), password) };
        self.add(user.clone(), text, LEAST_OF_PASSWORD);
        self.add(user, &decoded(text), LEAST_OF_PASSWORD);
        // A shorter one stands in every log, but not as it stands here.
        if !text.is_empty() && text.chars().count() < LEAST_OF_PASSWORD {
            self.add(None, &format!("{login}@"), 1);
        }
    }

    /// Takes the passwords of a netrc(5).
    pub fn add_netrc(&mut self, text: &str) {
        let (mut login, mut passwords) = (None, Vec::new());
        let mut words = netrc_words(text).into_iter();
        loop {
            match words.next() {
                Some("login") => login = words.next().map(unescaped),
                Some("password" | "account") => passwords.extend(words.next()),
                word @ (Some("machine" | "default") | None) => {
                    for password in std::mem::take(&mut passwords) {
                        self.add(login.clone(), password, LEAST_OF_PASSWORD);
                        self.add(login.clone(), &unescaped(password), LEAST_OF_PASSWORD);
                    }
                    match word {
                        None => return,
                        // Its name may be any word.
                        Some("machine") => drop(words.next()),
                        Some(_) => {}
                    }
                    login = None;
                }
                Some(_) => {}
            }
        }
    }

    fn add(&mut self, user: Option<String>, text: &str, least: usize) {
        if text.chars().count() >= least && !self.0.iter().any(|known| known.text == text && known.user == user) {
            self.0.push(Secret { user, text: text.into() });
        }
    }

    /// Takes all of another collection.
    pub fn extend(&mut self, other: &Self) {
        other.0.iter().for_each(|secret| self.add(secret.user.clone(), &secret.text, 0));
    }

    /// Numbers that only who knows the same secrets can tell. `salt` makes them others elsewhere.
    pub fn fingerprints(&self, salt: &str) -> BTreeSet<Digest> {
        let hash = |secret: &Secret| {
            let mut hasher = Sha256::new_with_prefix(salt);
            for part in [secret.user.as_deref().unwrap_or_default(), &secret.text] {
                hasher.update([0]);
                hasher.update(part);
            }
            Digest::from_sha256(hasher.finalize().into())
        };
        self.0.iter().map(hash).collect()
    }

    /// Every form of every secret: however programs write it, and in base64 alone, as `user:password`, and with whatever stands
    /// around it.
    pub fn forms(&self) -> Vec<String> {
        let mut forms = Vec::new();
        for Secret { user, text } in &self.0 {
            forms.extend(spelling::spellings(text));
            if text.len() >= LEAST_OF_VARIABLE {
                forms.extend(spelling::base64(text));
            }
            forms.extend(user.iter().flat_map(|user| spelling::base64(&format!("{user}:{text}"))));
            forms.extend(spelling::base64_inside(text));
        }
        forms.retain(|form| !form.is_empty());
        forms.sort();
        forms.dedup();
        forms
    }
}

/// Words between spaces; quotes hold spaces together where they are closed on the same line.
fn netrc_words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for line in text.lines() {
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let (word, after) = match rest.strip_prefix('"').and_then(quoted) {
                Some(parts) => parts,
                None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
            };
            words.push(word);
            rest = after.trim_start();
        }
    }
    words
}

/// What stands before the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    text.split_once(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    })
}

fn unescaped(word: &str) -> String {
    let mut out = String::new();
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.split_at_checked(2).filter(|_| *first == b'%');
        match escape.and_then(|(digits, after)| Some((hex::decode(digits).ok()?, after))) {
            Some((byte, after)) => {
                bytes.extend(byte);
                rest = after;
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(add: impl FnOnce(&mut Secrets)) -> Vec<String> {
        let mut secrets = Secrets::default();
        add(&mut secrets);
        let mut texts: Vec<String> = secrets.0.into_iter().map(|secret| secret.text).collect();
        texts.dedup();
        texts
    }

    #[test]
    fn what_is_taken_for_a_secret() {
        let variable = |name: &str, value: &str| texts(|secrets| secrets.add_variable(name, value));
        assert_eq!(variable("GITHUB_TOKEN", "abcdef"), ["abcdef"]);
        for name in ["my_password", "HTTP_AUTHORIZATION", "ARTIFACTORY_PASS", "SSHPASS", "MY_PAT", "JWT", "DB_PWD"] {
            assert_eq!(variable(name, "abcdef"), ["abcdef"], "{name}");
        }
        assert_eq!(
            variable("SIGNING_KEY", "first line\nsecond\n\nx"),
            ["first line\nsecond\n\nx", "first line", "second"]
        );
        for (name, value) in [
            ("TOKEN", "short"),
            ("LANG", "en_US.UTF-8"),
            ("SSH_AUTH_SOCK", "/run/user/1/agent"),
            ("GIT_AUTHOR_NAME", "Jane Doe"),
            ("PWD", "/home/me/project"),
            ("HOST_PWD", "/home/me/project"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("PATCHTOOL", "quilt2"),
            ("BB_ENV_PASSTHROUGH_ADDITIONS", "LAYER_REVISION"),
        ] {
            assert!(variable(name, value).is_empty(), "{name}");
        }
        assert_eq!(variable("http_proxy", "http://me:p%40ssw0rd@proxy:3128"), ["p%40ssw0rd", "p@ssw0rd"]);
        assert_eq!(variable("HTTPS_PROXY", "me:letmein@proxy:3128"), ["letmein"]);
        assert_eq!(variable("GIT_PROXY_COMMAND", "connect -H bob:letmein@proxy:3128"), ["letmein"]);
        for password in ["pa/ss", "pa'ss", "p\"<>`\\/s@s"] {
            assert_eq!(variable("URL", &format!("https://me:{password}@host:80/x@y")), [password]);
            assert_eq!(variable("http_proxy", &format!("me:{password}@host:80")), [password]);
        }
        // Too short to be looked for alone.
        assert_eq!(variable("http_proxy", "http://bob:abc@proxy:3128"), ["bob:abc@"]);
        let header = "Authorization: Basic Ym9iOmxldG1laW4=";
        assert_eq!(variable("GIT_CONFIG_VALUE_0", header), ["Ym9iOmxldG1laW4"]);
        assert_eq!(variable("HEADERS", "a: b\nauthorization: bearer abcdef\n"), ["abcdef"]);
        assert_eq!(variable("no_proxy", "localhost,.example.org"), [""; 0]);
        assert_eq!(variable("MIRROR", "see ftp://u:first@a and http://v:second@b/x"), ["first", "second"]);
        assert_eq!(variable("URL", "https://ghp_0123456789abcdef@github.com/x"), ["ghp_0123456789abcdef"]);
        assert_eq!(variable("URL", "git://ghp_0123456789abcdef@github.com/x;branch=a"), ["ghp_0123456789abcdef"]);
        assert_eq!(variable("URL", "https://0123456789abcdef:x-oauth-basic@github.com/x"), ["0123456789abcdef"]);
        for harmless in
            ["ssh://git@host:22/x", "http://proxy:3128", "git://host/a;branch=b@c:d", "http://proxy:3128/a@b", "://"]
        {
            assert_eq!(variable("URL", harmless), [""; 0], "{harmless}");
        }
    }

    #[test]
    fn passwords_of_a_netrc() {
        let text = "machine a.example login me password first\n# a comment\nmachine b.example\n  password \"sec ond\"\n  login you account third\n\
                    macdef init\ncd /pub\n\ndefault login anonymous password fourth machine";
        assert_eq!(texts(|secrets| secrets.add_netrc(text)), ["first", "sec ond", "third", "fourth"]);
        let odd = "machine password login me password \"qu\\\"oted\" machine x password \"open";
        assert_eq!(texts(|secrets| secrets.add_netrc(odd)), ["qu\\\"oted", "qu\"oted", "\"open"]);
        for strange in ["", "password", "machine", "login", "machine x password"] {
            assert_eq!(texts(|secrets| secrets.add_netrc(strange)), [""; 0], "{strange}");
        }
    }

    #[test]
    fn every_form_of_a_secret() {
        let mut secrets = Secrets::default();
        secrets.add_addresses("https://me:p%40ss%2Fword@host");
        let forms = secrets.forms();
        // printf 'me:p@ss/word' | base64
        for form in ["p@ss/word", "p%40ss%2Fword", "p%40ss%2fword", "p%40ss/word", "bWU6cEBzcy93b3Jk", "cEBzcy93b3Jk"] {
            assert!(forms.iter().any(|known| known == form), "{form} in {forms:?}");
        }
        assert!(format!("{secrets:?}").len() < 12, "{secrets:?}");
    }
}
