//! Names of recipes: out of the paths of their files, of logs, and of what BitBake puts before messages. And the series, in their order.

/// All series that there are, with their numbers and BitBake's, from old to new.
const SERIES: [(&str, &str, &str); 22] = [
    ("krogoth", "2.1", "1.30"),
    ("morty", "2.2", "1.32"),
    ("pyro", "2.3", "1.34"),
    ("rocko", "2.4", "1.36"),
    ("sumo", "2.5", "1.38"),
    ("thud", "2.6", "1.40"),
    ("warrior", "2.7", "1.42"),
    ("zeus", "3.0", "1.44"),
    ("dunfell", "3.1", "1.46"),
    ("gatesgarth", "3.2", "1.48"),
    ("hardknott", "3.3", "1.50"),
    ("honister", "3.4", "1.52"),
    ("kirkstone", "4.0", "2.0"),
    ("langdale", "4.1", "2.2"),
    ("mickledore", "4.2", "2.4"),
    ("nanbield", "4.3", "2.6"),
    ("scarthgap", "5.0", "2.8"),
    ("styhead", "5.1", "2.10"),
    ("walnascar", "5.2", "2.12"),
    ("whinlatter", "5.3", "2.16"),
    ("wrynose", "6.0", "2.18"),
    ("master", "99", "99"),
];

/// The place of a series among them: of `scarthgap`, `5.0`, `5.0.15` or `scarthgap (5.0)`. What has no known name is none.
pub(crate) fn series(text: &str) -> Option<usize> {
    let words = text.split([' ', '(', ')']).filter(|word| !word.is_empty());
    let is = |word: &str, number: &str| {
        word == number || word.strip_prefix(number).is_some_and(|rest| rest.starts_with('.'))
    };
    let mut places = words.filter_map(|word| {
        SERIES.iter().position(|(name, number, _)| name.eq_ignore_ascii_case(word) || is(word, number))
    });
    places.next()
}

/// The series that a version of BitBake belongs to.
pub(crate) fn series_of_bitbake(version: &str) -> Option<&'static str> {
    let mut parts = version.split('.');
    let wanted = format!("{}.{}", parts.next()?, parts.next()?);
    SERIES.iter().find(|(_, _, bitbake)| *bitbake == wanted).map(|(name, ..)| *name)
}

/// The recipe of a file, and the multiconfig: of `mc:x86:virtual:native:/l/zlib_1.2.bb` they are `zlib-native` and `x86`.
pub(crate) fn of_file(path: &str) -> Option<(String, Option<String>)> {
    let (head, file) = path.rsplit_once(':').unwrap_or(("", path));
    let name = file.rsplit('/').next()?;
    let stem = name.strip_suffix(".bbappend").or_else(|| name.strip_suffix(".bb"))?;
    let mut recipe = stem.split('_').next()?.to_owned();
    let (mut words, mut multiconfig) = (head.split(':'), None);
    while let Some(word) = words.next() {
        match word {
            "mc" => multiconfig = words.next().filter(|name| !name.is_empty()).map(str::to_owned),
            "native" => recipe.push_str("-native"),
            "nativesdk" => recipe.insert_str(0, "nativesdk-"),
            "multilib" => recipe = format!("{}-{recipe}", words.next()?),
            _ => {}
        }
    }
    (!recipe.is_empty()).then_some((recipe, multiconfig))
}

/// Recipe and task of a log: `TMPDIR/work/ARCH/zlib/1.2-r0/temp/log.do_compile.7`. The recipe is missing where the path is another one.
pub(crate) fn of_log(path: &str) -> Option<(Option<String>, String)> {
    let mut parts = path.rsplit('/');
    let task = parts.next()?.strip_prefix("log.")?;
    let task = task.split('.').next().filter(|task| task.starts_with("do_"))?.to_owned();
    let recipe = (parts.next() == Some("temp")).then(|| parts.nth(1)).flatten();
    Some((recipe.map(str::to_owned), task))
}

/// The recipe of what BitBake puts before messages: `PN-PV-PR`, or PN alone.
pub(crate) fn of_package(package: &str) -> String {
    let package = package.rsplit(':').next().unwrap_or(package);
    let parts: Vec<&str> = package.rsplitn(3, '-').collect();
    match parts.as_slice() {
        [release, version, name] if is_release(release) && !version.is_empty() => (*name).to_owned(),
        _ => package.to_owned(),
    }
}

fn is_release(text: &str) -> bool {
    text.strip_prefix('r').is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_of_files_logs_and_packages() {
        let of = |path: &str| of_file(path).map(|(recipe, _)| recipe);
        assert_eq!(of("/l/zlib_1.2.13.bb").as_deref(), Some("zlib"));
        assert_eq!(of("/l/linux-yocto-rt_5.%.bbappend").as_deref(), Some("linux-yocto-rt"));
        assert_eq!(of("virtual:native:/l/llvm_git.bb").as_deref(), Some("llvm-native"));
        assert_eq!(of("virtual:multilib:lib32:/l/a_1.bb").as_deref(), Some("lib32-a"));
        assert_eq!(of_file("mc:x86:/l/a.bb"), Some(("a".into(), Some("x86".into()))));
        assert_eq!(of_file("mc:x86:virtual:native:/l/a.bb"), Some(("a-native".into(), Some("x86".into()))));
        assert_eq!(of("/l/a.inc"), None);
        assert_eq!(
            of_log("/b/work/x/zlib/1.2-r0/temp/log.do_compile.7"),
            Some((Some("zlib".into()), "do_compile".into()))
        );
        assert_eq!(of_log("log.do_fetch"), Some((None, "do_fetch".into())));
        assert_eq!(of_log("/b/console.log"), None);
        let packages = [
            ("udp-proxy-1+git-r0", "udp-proxy"),
            ("python3-x-1.0-r0", "python3-x"),
            ("hello", "hello"),
            ("systemd-1_255.4-r0.1", "systemd"),
            ("a-b", "a-b"),
        ];
        for (package, recipe) in packages {
            assert_eq!(of_package(package), recipe);
        }
    }

    #[test]
    fn series_have_an_order() {
        assert!(
            series("scarthgap (5.0)") < series("5.1")
                && series("2.2") < series("dunfell")
                && series("wrynose") < series("master")
        );
        assert_eq!(series("5.0.15"), series("scarthgap"));
        assert_eq!((series("mine"), series("")), (None, None));
        assert_eq!((series_of_bitbake("2.8.1"), series_of_bitbake("2.9.0")), (Some("scarthgap"), None));
    }
}
