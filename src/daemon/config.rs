//! `SMIDR_HOME/daemon.yaml`: what the daemon's administrator decides. Decoded like a config, with all problems at once.
//!
//! Without the file, or a key of it, the secure default counts: nothing that a remote config asks for of this machine is allowed.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{access::Scope, allow::Allow};
use crate::{
    config::{
        NAME, PRIVATE, Problem, Problems, Size,
        decode::{Decoder, Fields, KnownKey},
        node::{Node, Text, Value},
    },
    model::{BuildId, CUSTOMER, Paths},
    settings::SettingsError,
    system::files::{FileError, read_text},
};

/// The file, below SMIDR_HOME.
pub(crate) const FILE: &str = "daemon.yaml";

/// The daemon's configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DaemonConfig {
    /// Where it listens beside the Unix socket. None: nowhere.
    pub address: Option<SocketAddr>,
    /// How much builds may use together.
    pub queue: QueueConfig,
    /// Customers that differ from the default.
    pub customers: BTreeMap<String, Customer>,
    /// What every customer's configs may ask for. Nothing by default.
    pub allow: Vec<Allow>,
    /// Whose client certificates are taken. None by default.
    pub certificates: Vec<Certificate>,
    /// Certificates of others. By default the daemon's own private CA.
    pub tls: Tls,
    /// Bounds of what clients may do.
    pub limits: Limits,
    /// Which builds are kept.
    pub retention: Retention,
    /// Values of variables that configs of schedules without a customer name.
    pub variables: Variables,
    /// Whether webhooks may be sent to private addresses. Not by default.
    pub private_webhooks: bool,
}

/// Values of variables, by their names.
pub(crate) type Variables = BTreeMap<String, String>;

/// The budget of builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueConfig {
    /// How many run at once. None: as many as `limits` in `settings.yaml` allows.
    pub builds: Option<u32>,
    /// Memory that they may use together, in bytes. None: not counted.
    pub memory: Option<u64>,
    /// Processors that they may use together. None: not counted.
    pub cpus: Option<u32>,
    /// The share of time, in percent, above which waiting of processes (PSI) holds back the next build. 80 by default; 100: never.
    pub pressure: u32,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { builds: None, memory: None, cpus: None, pressure: 80 }
    }
}

/// What counts for one customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Customer {
    /// Its share of the places, beside others. 1 by default.
    pub weight: u32,
    /// How many builds may wait. None: `limits.submissions_waiting`.
    pub builds: Option<u32>,
    /// What a build may use at most, in bytes. None: what its config says.
    pub memory: Option<u64>,
    /// What its configs may ask for, beside what all may.
    pub allow: Vec<Allow>,
    /// Its caches. None: its own.
    pub domain: Option<String>,
    /// Values of variables that configs of its schedules name.
    pub variables: Variables,
}

impl Default for Customer {
    fn default() -> Self {
        Self { weight: 1, builds: None, memory: None, allow: Vec::new(), domain: None, variables: Variables::new() }
    }
}

/// Whose a client certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// Its subject's common name.
    pub subject: String,
    /// None: all customers.
    pub customer: Option<String>,
    /// What it may do. `read` by default.
    pub scopes: Vec<Scope>,
}

/// Certificates that others have made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Who signs client certificates. None: the daemon's own CA.
    pub client_ca: Option<PathBuf>,
    /// The server's certificate with its key. None: one by the daemon's own CA.
    pub server: Option<(PathBuf, PathBuf)>,
    /// Names and addresses of this machine, for that one.
    pub names: Vec<String>,
}

/// Bounds of what clients may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of one message, in bytes. 16 MiB by default.
    pub message_size: u64,
    /// Streams that one client may have open. 256 by default.
    pub streams: u32,
    /// Requests that one client may make in a second, on average. 200 by default.
    pub requests_per_second: u32,
    /// Builds of one customer that may wait. 100 by default.
    pub submissions_waiting: u32,
    /// Of one blob, in bytes. 2 GiB by default.
    pub blob_size: u64,
    /// Of all blobs of all customers, in bytes. 20 GiB by default.
    pub blobs_size: u64,
    /// After so many days without use a blob is removed. 14 by default.
    pub blob_days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 16 << 20,
            streams: 256,
            requests_per_second: 200,
            submissions_waiting: 100,
            blob_size: 2 << 30,
            blobs_size: 20 << 30,
            blob_days: 14,
        }
    }
}

/// Which builds are kept. By default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// For all customers that have none of their own.
    pub all: Keep,
    /// For some.
    pub customers: BTreeMap<String, Keep>,
}

/// How many builds are kept: what any of these excludes is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// The newest of each project.
    pub keep: Option<u32>,
    /// Those that ended within so many days.
    pub days: Option<u32>,
    /// The newest with so many bytes of artifacts together.
    pub size: Option<u64>,
}

impl DaemonConfig {
    /// What counts for a customer.
    pub(crate) fn customer(&self, name: &str) -> Customer {
        self.customers.get(name).cloned().unwrap_or_default()
    }

    /// How many builds of a customer may wait.
    pub(crate) fn waiting(&self, customer: &str) -> u32 {
        self.customers.get(customer).and_then(|known| known.builds).unwrap_or(self.limits.submissions_waiting)
    }

    /// Values of variables for the schedules of a customer, or of none if the name is empty.
    pub(crate) fn variables(&self, customer: &str) -> Variables {
        match customer {
            "" => self.variables.clone(),
            name => self.customers.get(name).map(|known| known.variables.clone()).unwrap_or_default(),
        }
    }

    /// Which builds of a customer are kept.
    pub(crate) fn keep(&self, customer: &str) -> Keep {
        self.retention.customers.get(customer).copied().unwrap_or(self.retention.all)
    }

    /// The name of a customer's caches. No other customer has the same, unless the administrator says so.
    pub(crate) fn domain(&self, customer: &str) -> String {
        let named = self.customers.get(customer).and_then(|known| known.domain.clone());
        named.unwrap_or_else(|| format!("{CUSTOMER}{customer}"))
    }
}

/// Reads `daemon.yaml`; the defaults without one.
///
/// # Errors
///
/// When it cannot be read, or something in it is wrong.
pub(crate) fn read(paths: &Paths) -> Result<DaemonConfig, SettingsError> {
    let file = paths.home().join(FILE);
    match fs::symlink_metadata(&file) {
        Ok(_) => Ok(parse(&file.display().to_string(), &read_text(&file)?).map_err(Box::new)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(DaemonConfig::default()),
        Err(error) => Err(FileError::new("read", &file)(error).into()),
    }
}

/// Where to listen: `:PORT` for all addresses, `IP:PORT`, `[IPv6]:PORT` or `localhost:PORT`.
pub(crate) fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host {
        // Of a machine with both, IPv4 reaches it too.
        "" => Some((IpAddr::V6(Ipv6Addr::UNSPECIFIED), port).into()),
        "localhost" => Some((IpAddr::V4(Ipv4Addr::LOCALHOST), port).into()),
        _ => text.parse().ok(),
    }
}

/// Reads the text of a `daemon.yaml`.
///
/// # Errors
///
/// Everything that is wrong.
pub(crate) fn parse(name: &str, text: &str) -> Result<DaemonConfig, Problems> {
    let problems = |list| Problems { file: name.into(), text: text.into(), further: None, list };
    let root = Node::parse(text).map_err(|problem| problems(vec![problem]))?;
    let mut d = Decoder::new(&|_| None);
    let config = decode(&mut d, &root);
    if d.problems.is_empty() { Ok(config) } else { Err(problems(d.problems)) }
}

/// All keys, as they are asked for.
pub(crate) fn known_keys() -> Vec<KnownKey> {
    let probe =
        format!("customers: {{{NAME}: {{}}}}\ncertificates: [{{}}]\nretention: {{customers: {{{NAME}: {{}}}}}}\n");
    let mut d = Decoder::new(&|_| None);
    decode(&mut d, &Node::parse(&probe).expect("a fixed text"));
    d.known
}

fn decode(d: &mut Decoder<'_>, root: &Node) -> DaemonConfig {
    let mut f = d.fields(root, "");
    let listens = f.text(d, "address").and_then(|text| {
        let found = address(&text.text);
        if found.is_none() {
            let title = format!("address: `{}` is no address with a port", text.text);
            d.problem(
                Problem::new(text.span, title)
                    .hint("write  :50051  for all networks,  127.0.0.1:50051  for this machine"),
            );
        }
        found
    });
    let section = f.fields(d, "queue");
    let queue = queue(d, section);
    let customers = f.node("customers").map(|node| customers(d, node)).unwrap_or_default();
    let allow = allow(d, &mut f);
    let certificates = f.list(d, "certificates");
    let certificates = certificates.iter().enumerate().filter_map(|(at, node)| certificate(d, node, at)).collect();
    let section = f.fields(d, "tls");
    let tls = tls(d, section);
    let section = f.fields(d, "limits");
    let limits = limits(d, section);
    let section = f.fields(d, "retention");
    let retention = retention(d, section);
    let variables = variables(d, &mut f);
    let mut webhooks = f.fields(d, "webhooks");
    let private_webhooks = webhooks.flag(d, "allow_private").unwrap_or(false);
    webhooks.finish(d);
    f.finish(d);
    DaemonConfig {
        address: listens,
        queue,
        customers,
        allow,
        certificates,
        tls,
        limits,
        retention,
        variables,
        private_webhooks,
    }
}

fn queue(d: &mut Decoder<'_>, mut f: Fields<'_>) -> QueueConfig {
    let default = QueueConfig::default();
    let (builds, memory, cpus) = (f.count(d, "builds"), size(d, &mut f, "memory"), f.count(d, "cpus"));
    let pressure = f.text(d, "pressure").and_then(|text| {
        let percent =
            text.text.trim_end_matches('%').trim_end().parse().ok().filter(|percent| (1..=100).contains(percent));
        if percent.is_none() {
            let title = format!("queue.pressure must be 1 to 100 percent, not `{}`", text.text);
            d.problem(Problem::new(text.span, title).hint("100 switches it off"));
        }
        percent
    });
    f.finish(d);
    QueueConfig { builds, memory, cpus, pressure: pressure.unwrap_or(default.pressure) }
}

fn customers(d: &mut Decoder<'_>, node: &Node) -> BTreeMap<String, Customer> {
    let one = |d: &mut Decoder<'_>, name: &Text, mut f: Fields<'_>| {
        let weight = f.count(d, "weight").unwrap_or(1);
        let (builds, memory) = (f.count(d, "builds"), size(d, &mut f, "memory"));
        let allow = allow(d, &mut f);
        let path = f.path("domain");
        let domain = f.text(d, "domain").and_then(|text| domain(d, text, &path, name));
        let variables = variables(d, &mut f);
        f.finish(d);
        Customer { weight, builds, memory, allow, domain, variables }
    };
    named(d, node, "customers", one)
}

/// A mapping from names of customers.
fn named<T>(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &str,
    one: impl Fn(&mut Decoder<'_>, &Text, Fields<'_>) -> T,
) -> BTreeMap<String, T> {
    let entries = match &node.value {
        Value::Map(entries) => entries.as_slice(),
        Value::Null => &[],
        _ => {
            d.problem(Problem::new(node.span.clone(), format!("{path} must be a mapping of customers' names")));
            &[]
        }
    };
    let mut all = BTreeMap::new();
    for (name, node) in entries {
        check_name(d, name, &format!("{path}.{name}"));
        let fields = d.fields(node, &format!("{path}.{name}"));
        all.insert(name.text.clone(), one(d, name, fields));
    }
    all
}

/// Names of customers and of caches name folders.
fn check_name(d: &mut Decoder<'_>, name: &Text, path: &str) -> bool {
    let is_good = BuildId::is_valid_name(name);
    if !is_good {
        let hint = "use up to 64 letters, digits, dots, underscores and dashes, beginning with a letter or digit";
        d.problem(Problem::new(name.span.clone(), format!("{path}: `{name}` is not a name")).hint(hint));
    }
    is_good
}

fn domain(d: &mut Decoder<'_>, text: Text, path: &str, customer: &Text) -> Option<String> {
    if !check_name(d, &text, path) {
        return None;
    }
    let of_another = text.strip_prefix(CUSTOMER).is_some_and(|name| name != customer.text);
    if of_another || text.starts_with(PRIVATE) {
        let title = format!("{path}: `{text}` names the caches of one customer or project alone");
        d.problem(Problem::new(text.span, title).hint("give both customers the same name, such as  domain: shared"));
        return None;
    }
    Some(text.text)
}

fn allow(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Vec<Allow> {
    let (path, texts) = (f.path("allow"), f.texts(d, "allow"));
    let one = |text: Text| match Allow::parse(&text.text) {
        Ok(allow) => Some(allow),
        Err(error) => {
            d.problem(Problem::new(text.span, format!("{path}: {error}")).hint(error.hint()));
            None
        }
    };
    texts.into_iter().filter_map(one).collect()
}

fn variables(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Variables {
    let pairs = f.fields(d, "variables").into_pairs(d).into_iter();
    pairs.map(|(name, value)| (name.text, value.text)).collect()
}

fn certificate(d: &mut Decoder<'_>, node: &Node, at: usize) -> Option<Certificate> {
    let before = d.problems.len();
    let mut f = d.fields(node, &format!("certificates[{at}]"));
    let subject = f.required(d, "subject").text;
    let customer = f.text(d, "customer").filter(|name| check_name(d, name, &f.path("customer")));
    let path = f.path("scopes");
    let scopes = f.texts(d, "scopes").into_iter();
    let mut scopes: Vec<Scope> =
        scopes.filter_map(|text| d.parse(text, &path, "read, submit, cancel or admin")).collect();
    if scopes.is_empty() {
        scopes.push(Scope::Read);
    }
    f.finish(d);
    (d.problems.len() == before).then(|| Certificate { subject, customer: customer.map(|name| name.text), scopes })
}

fn tls(d: &mut Decoder<'_>, mut f: Fields<'_>) -> Tls {
    let client_ca = path(d, &mut f, "client_ca");
    let (certificate, key) = (path(d, &mut f, "certificate"), path(d, &mut f, "key"));
    let server = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate.1, key.1)),
        (Some((span, _)), None) | (None, Some((span, _))) => {
            d.problem(Problem::new(span, "tls.certificate and tls.key belong together"));
            None
        }
        (None, None) => None,
    };
    let names = f.texts(d, "names");
    if let (Some(name), Some(_)) = (names.first(), &server) {
        let title = "tls.names are for a certificate of the daemon's own, and tls.certificate names another";
        d.problem(Problem::new(name.span.clone(), title));
    }
    for name in &names {
        if !is_host(name) {
            let title = format!("tls.names: `{name}` is not the name or address of a machine");
            d.problem(Problem::new(name.span.clone(), title).hint("such as builds.example, without a port"));
        }
    }
    let names = names.into_iter().map(|name| name.text).collect();
    f.finish(d);
    Tls { client_ca: client_ca.map(|(_, path)| path), server, names }
}

/// What a certificate can be for.
fn is_host(text: &str) -> bool {
    rustls::pki_types::ServerName::try_from(text).is_ok()
}

fn path(d: &mut Decoder<'_>, f: &mut Fields<'_>, key: &'static str) -> Option<(crate::config::Span, PathBuf)> {
    let name = f.path(key);
    let text = f.text(d, key)?;
    if !Path::new(&text.text).is_absolute() {
        d.problem(Problem::new(text.span.clone(), format!("{name} must be an absolute path, not `{text}`")));
    }
    Some((text.span, text.text.into()))
}

fn limits(d: &mut Decoder<'_>, mut f: Fields<'_>) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        message_size: size(d, &mut f, "message_size").unwrap_or(default.message_size),
        streams: f.count(d, "streams").unwrap_or(default.streams),
        requests_per_second: f.count(d, "requests_per_second").unwrap_or(default.requests_per_second),
        submissions_waiting: f.count(d, "submissions_waiting").unwrap_or(default.submissions_waiting),
        blob_size: size(d, &mut f, "blob_size").unwrap_or(default.blob_size),
        blobs_size: size(d, &mut f, "blobs_size").unwrap_or(default.blobs_size),
        blob_days: f.count(d, "blob_days").unwrap_or(default.blob_days),
    };
    f.finish(d);
    limits
}

fn retention(d: &mut Decoder<'_>, mut f: Fields<'_>) -> Retention {
    let all = keep(d, &mut f);
    let customers = f.node("customers").map(|node| {
        named(d, node, "retention.customers", |d, _, mut f| {
            let keep = keep(d, &mut f);
            f.finish(d);
            keep
        })
    });
    f.finish(d);
    Retention { all, customers: customers.unwrap_or_default() }
}

fn keep(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Keep {
    Keep { keep: f.count(d, "keep"), days: f.count(d, "days"), size: size(d, f, "size") }
}

fn size(d: &mut Decoder<'_>, f: &mut Fields<'_>, key: &'static str) -> Option<u64> {
    let path = f.path(key);
    let text = f.text(d, key)?;
    d.parse::<Size>(text, &path, "a size such as 8g or 512m").map(|size| size.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UserError as _;

    #[test]
    fn a_whole_file() {
        let text = "\
address: :50051
queue: {builds: 3, memory: 24g, cpus: 16, pressure: 60%}
customers:
  acme:
    weight: 3
    builds: 5
    memory: 8g
    allow: [ssh-agent, 'bind:/srv/acme']
    domain: shared
    variables: {SITE: lab}
  other:
allow: devices:/dev/kvm
certificates: [{subject: ci, customer: acme, scopes: [read, submit]}, {subject: eye}]
tls: {client_ca: /etc/x/ca.pem, certificate: /etc/x/s.pem, key: /etc/x/s.key}
limits: {message_size: 4m, streams: 9, requests_per_second: 7, submissions_waiting: 6, blob_size: 1g, blobs_size: 9g, blob_days: 2}
retention: {keep: 10, days: 30, size: 100g, customers: {acme: {keep: 2}}}
webhooks: {allow_private: true}
variables: {SITE: office, N: 1}
";
        let config = parse(FILE, text).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        assert_eq!(config.address, Some("[::]:50051".parse().expect("an address")));
        assert_eq!(config.queue, QueueConfig { builds: Some(3), memory: Some(24 << 30), cpus: Some(16), pressure: 60 });
        assert_eq!((config.waiting("acme"), config.waiting("other"), config.waiting("new")), (5, 6, 6));
        assert_eq!((config.customer("acme").weight, config.customer("new").weight), (3, 1));
        assert_eq!((config.domain("acme"), config.domain("other")), ("shared".into(), "customer.other".into()));
        assert_eq!(config.customer("acme").allow.len() + config.allow.len(), 3);
        let of = |subject: &str, customer: Option<&str>, scopes: &[Scope]| Certificate {
            subject: subject.into(),
            customer: customer.map(String::from),
            scopes: scopes.into(),
        };
        let certificates = [of("ci", Some("acme"), &[Scope::Read, Scope::Submit]), of("eye", None, &[Scope::Read])];
        assert_eq!(config.certificates, certificates);
        assert_eq!(config.tls.server, Some(("/etc/x/s.pem".into(), "/etc/x/s.key".into())));
        let names = parse(FILE, "tls: {names: [builds.example, 192.0.2.1]}").expect("names").tls.names;
        assert_eq!(names, ["builds.example", "192.0.2.1"]);
        assert_eq!((config.limits.message_size, config.limits.blob_days), (4 << 20, 2));
        assert_eq!(config.limits.blobs_size, 9 << 30);
        assert_eq!(config.keep("acme"), Keep { keep: Some(2), ..Keep::default() });
        assert_eq!(config.keep("new").size, Some(100 << 30));
        assert!(config.private_webhooks);
        let known = |customer: &str| config.variables(customer).into_iter().collect::<Vec<_>>();
        assert_eq!(known("acme"), [("SITE".into(), "lab".into())]);
        assert_eq!(known(""), [("N".into(), "1".into()), ("SITE".into(), "office".into())]);
        assert_eq!((known("other"), known("new")), (vec![], vec![]));
    }

    #[test]
    fn the_defaults_are_those_without_a_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = Paths::new(folder.path().into());
        assert_eq!(read(&paths).expect("no file"), DaemonConfig::default());
        assert_eq!(parse(FILE, "").expect("nothing"), DaemonConfig::default());
        let empty = "queue:\ncustomers:\nallow:\nlimits: {}\nretention:\ntls:\nwebhooks:\ncertificates:\n";
        assert_eq!(
            parse(FILE, empty).unwrap_or_else(|wrong| panic!("{}", wrong.render(false))),
            DaemonConfig::default()
        );
        fs::write(folder.path().join(FILE), "queue: {builds: 2}").expect("a file");
        assert_eq!(read(&paths).expect("a good file").queue.builds, Some(2));
        fs::write(folder.path().join(FILE), "qeue: {builds: 2}").expect("a file");
        let error = read(&paths).expect_err("a wrong file");
        assert!(error.drawn(false).is_some_and(|drawn| drawn.contains("did you mean `queue`?")), "{error}");
    }

    #[test]
    fn addresses() {
        for (text, wanted) in [
            (":50051", Some("[::]:50051")),
            ("127.0.0.1:50051", Some("127.0.0.1:50051")),
            ("[::1]:1", Some("[::1]:1")),
            ("localhost:1", Some("127.0.0.1:1")),
            ("50051", None),
            ("127.0.0.1", None),
            ("host:1", None),
            (":70000", None),
            ("", None),
        ] {
            assert_eq!(address(text), wanted.map(|wanted| wanted.parse().expect(wanted)), "{text}");
        }
    }

    #[test]
    fn wrong_files_say_where() {
        for (text, place, message) in [
            ("adress: :1", "1:1", "did you mean `address`?"),
            ("address: here", "1:10", "no address with a port"),
            ("queue: {build: 1}", "1:9", "did you mean `builds`?"),
            ("queue: {builds: 0}", "1:17", "a whole number above 0"),
            ("queue: {memory: much}", "1:17", "8g"),
            ("queue: {pressure: 0}", "1:19", "1 to 100 percent"),
            ("queue: [1]", "1:8", "must be a mapping"),
            ("customers: [acme]", "1:12", "mapping of customers' names"),
            ("customers: {../x: {}}", "1:13", "is not a name"),
            ("customers: {a: {wieght: 1}}", "1:17", "did you mean `weight`?"),
            ("customers: {a: {domain: a/b}}", "1:25", "is not a name"),
            ("customers: {a: {domain: customer.b}}", "1:25", "one customer or project alone"),
            ("customers: {a: {domain: private-x}}", "1:25", "one customer or project alone"),
            ("customers: {a: {allow: [bind]}}", "1:25", "bind:/srv/shared"),
            ("allow: [ssh-agnet]", "1:9", "did you mean `ssh-agent`?"),
            ("allow: {ssh-agent: true}", "1:8", "not a mapping"),
            ("certificates: [{customer: x}]", "1:16", "certificates[0].subject is missing"),
            ("certificates: [{subject: x, scopes: [write]}]", "1:38", "read, submit, cancel or admin"),
            ("certificates: {subject: x}", "1:15", "must be a list"),
            ("tls: {key: /a}", "1:12", "belong together"),
            ("tls: {client_ca: ca.pem}", "1:18", "an absolute path"),
            ("tls: {names: ['https://builds.example']}", "1:15", "not the name or address of a machine"),
            ("tls: {names: ['builds.example:50051']}", "1:15", "without a port"),
            ("tls: {certificate: /a, key: /b, names: [builds.example]}", "1:41", "tls.certificate names another"),
            ("limits: {blob_days: -1}", "1:21", "a whole number above 0"),
            ("limits: {message_size: 0}", "1:24", "a size such as"),
            ("retention: {customers: {a: {kep: 1}}}", "1:29", "did you mean `keep`?"),
            ("variables: {A: [1]}", "1:16", "variables.A"),
            ("webhooks: {allow_private: maybe}", "1:27", "true or false"),
            ("allow: ['bind:${HOME}/x']", "1:9", "HOME"),
            ("queue: {", "1:", ""),
            ("queue: {}\nqueue: {}", "2:1", ""),
        ] {
            let problems = parse(FILE, text).expect_err(text);
            let drawn = problems.render(false);
            assert!(drawn.contains(&format!("daemon.yaml:{place}")) && drawn.contains(message), "{text}\n{drawn}");
        }
        let all = parse(FILE, "a: 1\nqueue: {b: 1}\nlimits: {streams: x}\n").expect_err("three problems");
        assert_eq!(all.list.len(), 3, "{}", all.render(false));
    }

    #[test]
    fn every_key_is_documented() {
        let reference = include_str!("../../docs/daemon-yaml.md");
        let example =
            reference.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        let config = parse(FILE, example).unwrap_or_else(|wrong| panic!("{}", wrong.render(false)));
        assert_eq!(config.customers.len(), 1);
        // What is known where a key is unknown.
        for (text, section) in [
            ("KEY: 1", ""),
            ("queue: {KEY: 1}", "queue."),
            ("customers: {a: {KEY: 1}}", ""),
            ("certificates: [{subject: x, KEY: 1}]", ""),
            ("tls: {KEY: 1}", "tls."),
            ("limits: {KEY: 1}", "limits."),
            ("retention: {KEY: 1}", "retention."),
            ("webhooks: {KEY: 1}", "webhooks."),
        ] {
            let problems = parse(FILE, &text.replace("KEY", "zzzzzzzzzzzz")).expect_err(text);
            let hint = problems.list[0].hint.clone().unwrap_or_default();
            let known = hint.strip_prefix("known here: ").unwrap_or_else(|| panic!("{text}: {hint}"));
            for key in known.split(", ") {
                let forms = [format!("`{section}{key}`"), format!("`{section}{key}."), format!("\n## {key}")];
                assert!(forms.iter().any(|form| reference.contains(form)), "{section}{key} is not documented");
            }
        }
    }
}
