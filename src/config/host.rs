//! The section `host`: the build host, and what a build may use of this machine.

use super::{
    decode::{Decoder, Fields},
    inputs::inputs,
    node::{Span, Text},
    problem::Problem,
    schema::*,
    series::Series,
};

/// The default stands first.
const ISOLATIONS: [(&str, Isolation); 3] =
    [("auto", Isolation::Auto), ("full", Isolation::Full), ("none", Isolation::None)];
const IDS: [(&str, Ids); 2] = [("single", Ids::Single), ("range", Ids::Range)];
const NETWORKS: [(&str, Network); 3] =
    [("full", Network::Full), ("fetch-only", Network::FetchOnly), ("none", Network::None)];
const OPENAT2: [(&str, Openat2); 3] = [("auto", Openat2::Auto), ("hide", Openat2::Hide), ("show", Openat2::Show)];

/// Reads the section `host`, and `container`, its older name. Without a build host in it, the usual one of the project's series is taken.
pub(super) fn host(d: &mut Decoder<'_>, f: &mut Fields<'_>, series: Option<&Series>) -> Host {
    let mut container = f.fields(d, "container");
    let base_image = container.text(d, "base_image");
    let container_memory = size(d, &mut container, "memory");
    let container_cpus = container.count(d, "cpu_count");
    container.finish(d);
    let mut f = f.fields(d, "host");
    let (recipe, image) = (f.text(d, "recipe"), f.text(d, "image").or(base_image));
    let image = match (recipe, image) {
        (Some(recipe), Some(image)) => {
            d.problem(Problem::new(image.span, "host.recipe and host.image exclude each other"));
            HostImage::Recipe(recipe)
        }
        (None, Some(image)) => HostImage::Image(image),
        (Some(recipe), None) => HostImage::Recipe(recipe),
        (None, None) => {
            let text = series.map_or(DEFAULT_RECIPE, |series| &series.host).into();
            HostImage::Recipe(Text { span: f.span.clone(), text })
        }
    };
    let span = f.span.clone();
    let host = Host {
        image,
        isolation: choice(d, &mut f, "isolation", &ISOLATIONS, "none builds with this machine's own programs"),
        ids: choice(d, &mut f, "ids", &IDS, "range needs newuidmap and a line in /etc/subuid"),
        network: choice(d, &mut f, "network", &NETWORKS, "BitBake's tasks are cut off from the network in all of them"),
        openat2: choice(
            d,
            &mut f,
            "openat2",
            &OPENAT2,
            "auto hides it where the layers have a pseudo older than 1.9.3",
        ),
        devices: devices(d, &mut f),
        env: f.texts(d, "env"),
        inputs: inputs(d, &mut f),
        memory: size(d, &mut f, "memory").or(container_memory),
        cpus: f.count(d, "cpus").or(container_cpus),
        tasks: f.count(d, "tasks"),
    };
    f.finish(d);
    if host.isolation == Isolation::None {
        without_namespaces(d, &span, &host);
    }
    host
}

/// Refuses what needs namespaces, rather than leaving it out.
fn without_namespaces(d: &mut Decoder<'_>, span: &Span, host: &Host) {
    let wanted = [
        ("network", host.network != Network::Full),
        ("ids", host.ids != Ids::Single),
        ("devices", !host.devices.is_empty()),
        ("ssh_agent", host.inputs.ssh_agent),
        ("netrc", host.inputs.netrc.is_some()),
        ("git_credentials", host.inputs.git_credentials.is_some()),
        ("binds", !host.inputs.binds.is_empty()),
    ];
    for (key, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
        let title = format!("host.{key} needs namespaces, and with host.isolation: none there are none");
        d.problem(Problem::new(span.clone(), title).hint(format!("leave out host.{key}, or host.isolation")));
    }
}

/// The build host of configs that name neither one nor a known series.
const DEFAULT_RECIPE: &str = "debian-12";

/// One word of a few; the first of them where the key is missing.
fn choice<T: Copy, const N: usize>(
    d: &mut Decoder<'_>,
    f: &mut Fields<'_>,
    key: &'static str,
    choices: &[(&str, T); N],
    hint: &str,
) -> T {
    let (_, default) = choices[0];
    let Some(text) = f.text(d, key) else { return default };
    if let Some((_, chosen)) = choices.iter().find(|(word, _)| *word == text.text) {
        return *chosen;
    }
    let mut words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let last = words.pop().unwrap_or_default();
    let title = format!("host.{key} must be {} or {last}, not `{}`", words.join(", "), text.text);
    d.problem(Problem::new(text.span, title).hint(hint));
    default
}

fn devices(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Vec<Device> {
    let mut devices = Vec::new();
    for text in f.texts(d, "devices") {
        match text.text.as_str() {
            "kvm" => devices.push(Device::Kvm),
            "tun" => devices.push(Device::Tun),
            "fuse" => devices.push(Device::Fuse),
            other => {
                let title = format!("host.devices must be kvm, tun or fuse, not `{other}`");
                d.problem(Problem::new(text.span, title));
            }
        }
    }
    devices
}

fn size(d: &mut Decoder<'_>, f: &mut Fields<'_>, key: &'static str) -> Option<super::Size> {
    let path = f.path(key);
    let text = f.text(d, key)?;
    d.parse(text, &path, "a size such as 8g or 512m")
}
