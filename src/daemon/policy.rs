//! What a config that comes from elsewhere may have of this machine: its asks and `daemon.yaml` go in; what is granted, and what is refused
//! with its line and with what would allow it, come out. Pure.

use std::fmt;

use super::{
    allow::{About, Allow, Name, Need},
    config::DaemonConfig,
    where_asked,
};
use crate::{
    config::{self, Config, Problem, Texts},
    model::{Ask, Logins},
};

/// What becomes of the asks of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What the build may have.
    pub granted: Vec<Ask>,
    /// What keeps it from being taken.
    pub refused: Vec<Refusal>,
    /// The name of the caches that it gets.
    pub domain: String,
    /// Where the daemon's logins and ssh keys may be shown for it.
    pub logins: Logins,
}

/// Something that the policy does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What leads to the line of the config that asks, as [`config::place`] takes it; empty: no line does.
    pub keys: Vec<String>,
    /// The key of the config, for people.
    pub key: String,
    /// What would allow it, as entries of `allow:` with a comma between them.
    pub name: String,
    /// What could happen, for those who allow it.
    pub consequence: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the daemon's policy does not allow {}: {}", self.key, self.name, self.consequence)
    }
}

impl Refusal {
    /// What its administrator would write.
    pub(crate) fn hint(&self) -> String {
        format!("the daemon's administrator can allow it in daemon.yaml:  allow: [{}]", self.name)
    }

    /// The same with its line; none where no line asks.
    pub(crate) fn problem(&self, texts: &Texts, variant: Option<&str>) -> Option<Problem> {
        let span = config::place(texts, variant, &self.keys)?;
        Some(Problem::new(span, self.to_string()).hint(self.hint()))
    }
}

/// Judges what a customer's config asks for. `image` is the image of a registry that its build host is, if it is one
/// (`engine::registry_image`).
pub(crate) fn judge(
    asks: &[Ask],
    image: Option<&str>,
    project: &Config,
    policy: &DaemonConfig,
    customer: &str,
) -> Verdict {
    let own = policy.customers.get(customer).map_or(&[][..], |known| &known.allow);
    let allowed: Vec<&Allow> = policy.allow.iter().chain(own).collect();
    let mut logins: Vec<String> = allowed.iter().filter_map(|allow| allow.login()).cloned().collect();
    let (granted, refused, domain) = (Vec::new(), Vec::new(), policy.domain(customer));
    let mut verdict = Verdict { granted, refused, domain, logins: Logins::default() };
    let lacking = |needs: Vec<Need<'_>>| -> Option<String> {
        let lacks = |need: &Need<'_>| !allowed.iter().any(|allow| allow.covers(need));
        let names: Vec<String> = needs.into_iter().filter(lacks).map(|need| need.to_string()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    for ask in asks {
        match ask {
            // Without a name of caches, a build gets those of its customer.
            Ask::SharedCache { domain: None } => continue,
            // Without leave, it does not see them.
            Ask::Variable { key, .. } if key == Ask::PROXIES && lacking(needs(ask)).is_some() => continue,
            Ask::SharedCache { domain: Some(name) } if *name == verdict.domain => {}
            _ => {
                if let Some(name) = lacking(needs(ask)) {
                    let (key, consequence) = (ask.key().into(), ask.consequence());
                    verdict.refused.push(Refusal { keys: where_asked::keys(ask, project), key, name, consequence });
                    continue;
                }
            }
        }
        match ask {
            Ask::SharedCache { domain: Some(name) } => verdict.domain.clone_from(name),
            // Its keys are the daemon's.
            Ask::SshRepository { url } => logins.push(url.clone()),
            _ => {}
        }
        verdict.granted.push(ask.clone());
    }
    if let Some(image) = image
        && let Some(name) = lacking(vec![Need { name: Name::Images, about: About::Named(image) }])
    {
        let (keys, consequence) = (where_asked::image(project), format!("builds run in {image}"));
        verdict.refused.push(Refusal { keys, key: "host.image".into(), name, consequence });
    }
    verdict.logins = Logins::Below(logins);
    verdict
}

/// What has to be allowed for an ask, all of it; nothing where it is the client's own.
fn needs(ask: &Ask) -> Vec<Need<'_>> {
    let (name, about) = match ask {
        Ask::NoIsolation => (Name::NoIsolation, About::Nothing),
        Ask::Bind { path, writable: false } => (Name::Bind, About::Path(path)),
        Ask::Bind { path, writable: true } => (Name::BindWritable, About::Path(path)),
        Ask::GitWritable { path } => (Name::GitWritable, About::Path(path)),
        Ask::Credentials { path } => (Name::Credentials, About::Path(path)),
        Ask::SshAgent => (Name::SshAgent, About::Nothing),
        // Not a variable of the client: a proxy of this machine, with its password.
        Ask::Variable { key, .. } if key == Ask::PROXIES => (Name::Proxies, About::Nothing),
        // The client has sent its own values.
        Ask::Variable { .. } => return Vec::new(),
        Ask::Device { path } => (Name::Devices, About::Path(path)),
        Ask::Folder { path, .. } => (Name::Folders, About::Path(path)),
        Ask::Outside { path, .. } => (Name::Outside, About::Path(path)),
        Ask::LocalRepository { path, .. } => (Name::LocalRepositories, About::Path(path)),
        Ask::SshRepository { url } => (Name::SshRepositories, About::Address(url)),
        Ask::Login { below } => (Name::Login, About::Address(below)),
        Ask::OutsideLinks { .. } => (Name::OutsideLinks, About::Nothing),
        Ask::IdRange => (Name::IdRange, About::Nothing),
        Ask::RecipeCommands { network: true, .. } => {
            return [Name::RecipeCommands, Name::RecipeNetwork].map(|name| Need { name, about: About::Nothing }).into();
        }
        Ask::RecipeCommands { .. } => (Name::RecipeCommands, About::Nothing),
        Ask::RecipeCredentials { .. } => (Name::RecipeCredentials, About::Nothing),
        Ask::RecipeMirror { mirror, .. } => (Name::RecipeMirror, About::Address(mirror)),
        Ask::RecipeKeys { .. } => (Name::RecipeKeys, About::Nothing),
        Ask::StoredImage { name } => (Name::StoredImages, About::Named(name)),
        Ask::LeftConf { .. } => (Name::LeftConf, About::Nothing),
        Ask::SharedCache { domain } => (Name::Cache, About::Named(domain.as_deref().unwrap_or_default())),
    };
    vec![Need { name, about }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::config::Customer, model::Digest};

    const PROJECT: &str = "\
name: x
base: {machine: m}
build: {image: i}
cache: team
env: {A: '${TOKEN}'}
bitbake: {git: 'ssh://git@h/bb', branch: b}
layers:
  - {name: own, path: ../own}
  - name: far
    git: git@h:team/far
    branch: b
    outside_links: true
    patches: [../x.patch]
    mirrors: ['https://h/far', 'file:///srv/far']
host:
  image: docker://debian:12
  ids: range
  ssh_agent: true
  netrc: true
  git_credentials: /srv/keys/git
  devices: [kvm, tun]
  binds: [{source: ~/c, dest: /srv/c}, {source: /srv/x, dest: /srv/x, writable: true}]
directories: {sstate: /srv/ss}
";

    const WIDEST: [&str; 24] = [
        "no-isolation",
        "bind:/",
        "bind-writable:/",
        "git-writable:/",
        "credentials",
        "ssh-agent",
        "proxies",
        "devices:/",
        "folders:/",
        "outside",
        "local-repositories",
        "ssh-repositories",
        "login:https://h/",
        "outside-links",
        "id-range",
        "recipe-commands",
        "recipe-network",
        "recipe-mirror",
        "recipe-keys",
        "recipe-credentials",
        "images:**",
        "stored-images:**",
        "left-conf",
        "cache:**",
    ];

    fn project(text: &str) -> Config {
        let lookup = |name: &str| Some(format!("value-of-{name}"));
        config::read("smidr.yaml", text, None, &lookup).unwrap_or_else(|wrong| panic!("{}", wrong.render(false)))
    }

    fn policy(allow: &[&str]) -> DaemonConfig {
        let allow = allow.iter().map(|text| Allow::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")));
        DaemonConfig { allow: allow.collect(), ..DaemonConfig::default() }
    }

    /// Each ask with what allows it, and what the keys of the refusal lead to.
    fn rows() -> Vec<(Ask, &'static [&'static str], Option<&'static str>)> {
        let recipe = || "r".to_owned();
        let outside = |what: &str, path: &str| Ask::Outside { what: what.into(), path: path.into() };
        vec![
            (Ask::NoIsolation, &["no-isolation"], Some("host")),
            (Ask::Bind { path: "/home/u/c".into(), writable: false }, &["bind:/home/u/c"], Some("~/c")),
            (Ask::Bind { path: "/srv/x".into(), writable: true }, &["bind-writable:/srv/x"], Some("/srv/x")),
            (Ask::GitWritable { path: "/srv/x".into() }, &["git-writable:/srv/x"], Some("/srv/x")),
            (Ask::Credentials { path: "/home/u/.netrc".into() }, &["credentials:/home/u/.netrc"], Some("true")),
            (Ask::Credentials { path: "/srv/keys/git".into() }, &["credentials:/srv/keys"], Some("/srv/keys/git")),
            (Ask::SshAgent, &["ssh-agent"], Some("true")),
            (Ask::Device { path: "/dev/kvm".into() }, &["devices:/dev/kvm"], Some("kvm")),
            (Ask::Device { path: "/dev/net/tun".into() }, &["devices:/dev/net/tun"], Some("tun")),
            (
                Ask::Folder { key: "directories.sstate".into(), path: "/srv/ss".into() },
                &["folders:/srv/ss"],
                Some("/srv/ss"),
            ),
            (outside("the layer own", "/srv/own"), &["outside:/srv/own"], Some("../own")),
            (outside("the repository of own", "/srv"), &["outside:/srv"], Some("../own")),
            (outside("a patch of the layer far", "/srv/x.patch"), &["outside:/srv/x.patch"], Some("patches")),
            (outside("the rootfs recipe", "/srv/r.yaml"), &["outside:/srv/r.yaml"], Some("host")),
            (outside("bitbake", "/opt/bb"), &["outside:/opt/bb"], Some("bitbake")),
            (outside("smidr.lock", "/srv/smidr.lock"), &["outside:/srv/smidr.lock"], None),
            (
                Ask::LocalRepository { url: "file:///srv/far".into(), path: "/srv/far".into() },
                &["local-repositories:/srv/far"],
                Some("file:///srv/far"),
            ),
            (
                Ask::SshRepository { url: "git@h:team/far".into() },
                &["ssh-repositories:git@h:team/far"],
                Some("git@h:team/far"),
            ),
            (
                Ask::SshRepository { url: "ssh://git@h/bb".into() },
                &["ssh-repositories:ssh://git@h/bb"],
                Some("ssh://git@h/bb"),
            ),
            (Ask::Login { below: "https://h/".into() }, &["login:https://h/"], Some("https://h/far")),
            (Ask::OutsideLinks { layer: "the layer far".into() }, &["outside-links"], Some("true")),
            (Ask::IdRange, &["id-range"], Some("range")),
            (
                Ask::RecipeCommands { recipe: recipe(), network: false },
                &["recipe-commands"],
                Some("docker://debian:12"),
            ),
            (
                Ask::RecipeCommands { recipe: recipe(), network: true },
                &["recipe-commands", "recipe-network"],
                Some("docker://debian:12"),
            ),
            (Ask::RecipeCredentials { recipe: recipe() }, &["recipe-credentials"], Some("docker://debian:12")),
            (
                Ask::RecipeMirror { recipe: recipe(), mirror: "https://m/d".into() },
                &["recipe-mirror:https://m/d"],
                Some("docker://debian:12"),
            ),
            (Ask::RecipeKeys { recipe: recipe(), path: "./k".into() }, &["recipe-keys"], Some("docker://debian:12")),
            (Ask::StoredImage { name: "team-host".into() }, &["stored-images:team-host"], Some("docker://debian:12")),
            (Ask::LeftConf { path: "/w/auto.conf".into(), digest: Digest::from_sha256([0; 32]) }, &["left-conf"], None),
            (Ask::SharedCache { domain: Some("team".into()) }, &["cache:team"], Some("team")),
        ]
    }

    #[test]
    fn each_ask_is_refused_and_allowed_by_its_name_alone() {
        let project = project(PROJECT);
        let rows = rows();
        for (ask, names, line) in &rows {
            let judged = |allow: &[&str]| {
                let verdict = judge(std::slice::from_ref(ask), None, &project, &policy(allow), "acme");
                assert_eq!(verdict.granted.len() + verdict.refused.len(), 1, "{ask:?}");
                verdict
            };
            let refused = judged(&[]).refused.pop().unwrap_or_else(|| panic!("{ask:?} is granted"));
            let problem = refused.problem(&PROJECT.into(), None);
            let marked = problem.and_then(|problem| PROJECT.get(problem.span)).map(|text| text.trim_matches('\''));
            assert_eq!(marked, *line, "{ask:?} {:?}", refused.keys);
            let all_of_it = std::slice::from_ref(ask);
            assert_eq!(judged(names).granted, all_of_it);
            // What the refusal says to write allows it.
            assert_eq!(judged(&refused.name.split(", ").collect::<Vec<_>>()).granted, all_of_it, "{refused}");
            // All else, as widely as it can be allowed.
            let word = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
            let is_other = |name: &&str| {
                let includes = word(name) == "bind-writable" && word(names[0]) == "bind";
                !(includes || names.iter().any(|own| word(own) == word(name)))
            };
            let others: Vec<&str> = WIDEST.into_iter().filter(is_other).collect();
            assert!(others.len() < WIDEST.len());
            assert_eq!(judged(&others).granted, [], "{ask:?}");
            if names.len() > 1 {
                names.iter().for_each(|name| assert_eq!(judged(&[name]).granted, [], "{ask:?} {name}"));
            }
        }
    }

    #[test]
    fn what_the_client_sent_needs_no_leave() {
        let asks = [("TOKEN", "env.A"), ("AWS", "host.env")]
            .map(|(name, key)| Ask::Variable { name: name.into(), key: key.into() });
        let verdict = judge(&asks, None, &project(PROJECT), &DaemonConfig::default(), "acme");
        assert_eq!((verdict.granted.as_slice(), verdict.refused.len()), (&asks[..], 0));
    }

    #[test]
    fn proxies_with_a_password_are_seen_where_that_is_allowed() {
        let asks = [Ask::Variable { name: "https_proxy".into(), key: Ask::PROXIES.into() }];
        let judged = |allow: &[&str]| judge(&asks, None, &project(PROJECT), &policy(allow), "acme");
        let without = judged(&WIDEST.into_iter().filter(|name| *name != "proxies").collect::<Vec<_>>());
        assert_eq!((without.granted.len(), without.refused.len()), (0, 0));
        assert_eq!(judged(&["proxies"]).granted, asks);
    }

    #[test]
    fn a_customer_has_what_all_have_and_its_own() {
        let mut policy = policy(&["ssh-agent"]);
        let own = Customer { allow: vec![Allow::parse("id-range").expect("an entry")], ..Customer::default() };
        policy.customers.insert("acme".into(), own);
        let granted = |customer: &str| {
            judge(&[Ask::SshAgent, Ask::IdRange], None, &project(PROJECT), &policy, customer).granted.len()
        };
        assert_eq!((granted("acme"), granted("other")), (2, 1));
    }

    #[test]
    fn images_of_registries_are_named() {
        let image = Some("docker.io/library/debian:12");
        let project = project(PROJECT);
        let judged = |allow: &[&str]| judge(&[], image, &project, &policy(allow), "acme").refused;
        let refused = judged(&["stored-images:**", "images:registry.example.com/**"]);
        let [refused] = refused.as_slice() else { panic!("{refused:?}") };
        assert_eq!(refused.keys, ["host", "image"]);
        assert_eq!(refused.name, "images:docker.io/library/debian:12");
        assert_eq!(judged(&["images:docker.io/library/*"]), []);
    }

    #[test]
    fn logins_are_shown_where_the_policy_says() {
        let ssh = Ask::SshRepository { url: "git@h:team/far".into() };
        let judged =
            |allow: &[&str]| judge(std::slice::from_ref(&ssh), None, &project(PROJECT), &policy(allow), "acme").logins;
        assert_eq!(judged(&[]), Logins::default());
        let logins = judged(&["login:https://h/team/", "ssh-repositories"]);
        for (address, reached) in
            [("https://h/team/x", true), ("https://h/other", false), ("git@h:team/far", true), ("git@h:team/x", false)]
        {
            assert_eq!(logins.reach(address), reached, "{address}");
        }
    }

    #[test]
    fn caches_are_the_customers() {
        let project = project(PROJECT);
        let judged = |domain: Option<&str>, policy: &DaemonConfig| {
            let ask = Ask::SharedCache { domain: domain.map(String::from) };
            let verdict = judge(&[ask], None, &project, policy, "acme");
            (verdict.domain, verdict.granted.len(), verdict.refused.len())
        };
        let own = "customer.acme".to_owned();
        assert_eq!(judged(None, &DaemonConfig::default()), (own.clone(), 0, 0));
        // Not even all caches are those of the daemon's own user.
        assert_eq!(judged(None, &policy(&["cache:*"])), (own.clone(), 0, 0));
        assert_eq!(judged(Some("team"), &DaemonConfig::default()), (own.clone(), 0, 1));
        assert_eq!(judged(Some("team"), &policy(&["cache:team"])), ("team".into(), 1, 0));
        assert_eq!(judged(Some("customer.other"), &policy(&["cache:team"])), (own, 0, 1));
        let mut joined = DaemonConfig::default();
        joined.customers.insert("acme".into(), Customer { domain: Some("team".into()), ..Customer::default() });
        assert_eq!(judged(Some("team"), &joined), ("team".into(), 1, 0));
        assert_eq!(judged(None, &joined), ("team".into(), 0, 0));
    }

    #[test]
    fn a_refusal_is_drawn() {
        let asks = [Ask::Device { path: "/dev/kvm".into() }];
        let verdict = judge(&asks, None, &project(PROJECT), &DaemonConfig::default(), "acme");
        let texts = Texts::from(PROJECT);
        let list = verdict.refused.iter().filter_map(|refused| refused.problem(&texts, None)).collect();
        let drawn = texts.problems("smidr.yaml".as_ref(), list).render(false);
        for part in [
            "error: host.devices: the daemon's policy does not allow devices:/dev/kvm: every recipe can use /dev/kvm",
            "smidr.yaml:21:13",
            "allow: [devices:/dev/kvm]",
        ] {
            assert!(drawn.contains(part), "{drawn}");
        }
    }
}
