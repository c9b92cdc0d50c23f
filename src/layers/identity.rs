//! The author of commits in `run` and `shell`, where devtool makes some: the caller's name and mail from git's configuration. Reads files only.

use std::path::PathBuf;

use gix::{
    bstr::ByteSlice as _,
    config::{
        File, Source,
        file::{Metadata, includes, init::Options},
    },
};

use super::{access::Access, fetch::config::files};

/// git's `user.name` and `user.email` where the caller has set none.
const UNKNOWN: (&str, &str) = ("smidr", "smidr@localhost");

/// A `.gitconfig` that names the caller, and nothing else of theirs.
pub(crate) fn identity(access: Access<'_>) -> Vec<u8> {
    let home = access.variable("HOME").map(PathBuf::from);
    let includes = includes::Options::follow_without_conditional(home.as_deref());
    let options = Options { includes, ..Options::default() };
    let mut config = File::new(Metadata::from(Source::User));
    for (source, path) in files(access, home.as_deref()) {
        // A file that git cannot read says nothing about its user.
        let metadata = Metadata::from(source).at(&path).with(gix::sec::Trust::Full);
        if let Ok(Some(read)) = File::from_paths_metadata([metadata], options) {
            let _ = config.append(read);
        }
    }
    let value = |key: &str, variable: &str, unknown: &str| {
        let set = access.variable(variable).map(str::to_owned);
        let named = || config.string(key).map(|value| value.to_str_lossy().into_owned());
        set.or_else(named).filter(|value| !value.trim().is_empty()).unwrap_or_else(|| unknown.into())
    };
    let name = value("user.name", "GIT_AUTHOR_NAME", UNKNOWN.0);
    let email = value("user.email", "GIT_AUTHOR_EMAIL", UNKNOWN.1);
    let mut own = File::new(Metadata::from(Source::User));
    if let Ok(mut section) = own.new_section("user", None) {
        let _ = section.push("name", name.as_str());
        let _ = section.push("email", email.as_str());
    }
    own.to_bstring().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::Emitter,
        model::{BuildId, Logins},
        system::{process::Spawner, stop::StopToken},
    };

    #[test]
    fn the_callers_name_and_mail_and_no_more() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = ("HOME".to_owned(), folder.path().display().to_string());
        let system = ("GIT_CONFIG_NOSYSTEM".to_owned(), "1".to_owned());
        let on = Emitter::new(BuildId::new("x", 1).expect("an id"), Vec::new());
        let (stop, logins, spawner) = (StopToken::default(), Logins::default(), Spawner::start().expect("a thread"));
        let of = |more: &[(&str, &str)]| {
            let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let environment: Vec<(String, String)> = [home.clone(), system.clone()].into_iter().chain(more).collect();
            let access = Access {
                online: false,
                on: &on,
                stop: &stop,
                spawner: &spawner,
                logins: &logins,
                environment: &environment,
            };
            String::from_utf8(identity(access)).expect("text")
        };
        assert!(of(&[]).contains("name = smidr") && of(&[]).contains("email = smidr@localhost"), "{}", of(&[]));
        let config = "[user]\n\tname = \"A \\\"B\\\" # C\"\n\temail = a@b\n[credential]\n\thelper = secret\n";
        std::fs::write(folder.path().join(".gitconfig"), config).expect("a config");
        let written = of(&[]);
        assert!(!written.contains("secret"), "{written}");
        let read = File::try_from(written.as_str()).expect("git's own form");
        assert_eq!(read.string("user.name").expect("a name").to_str_lossy(), "A \"B\" # C");
        assert!(of(&[("GIT_AUTHOR_NAME", "Other")]).contains("name = Other"));
        std::fs::write(folder.path().join(".gitconfig"), "[user\n").expect("a config");
        assert!(of(&[]).contains("name = smidr"));
    }
}
