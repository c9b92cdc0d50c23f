//! The section `host`: the build host, and what a build may use of this machine.

use super::{
    decode::{Decoder, Fields},
    inputs::inputs,
    node::{Span, Text},
    problem::Problem,
    schema::*,
};

/// Reads the section `host`, and `container`, its older name.
pub(super) fn host(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Host {
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
        (None, None) => HostImage::Recipe(Text { span: f.span.clone(), text: DEFAULT_RECIPE.into() }),
    };
    let span = f.span.clone();
    let host = Host {
        image,
        isolation: isolation(d, &mut f),
        ids: ids(d, &mut f),
        network: network(d, &mut f),
        openat2: openat2(d, &mut f),
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

/// What cannot be had without namespaces is refused, rather than left out.
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

/// The build host of configs that name none.
const DEFAULT_RECIPE: &str = "debian-12";

fn isolation(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Isolation {
    let Some(text) = f.text(d, "isolation") else { return Isolation::Auto };
    match text.text.as_str() {
        "auto" => Isolation::Auto,
        "full" => Isolation::Full,
        "none" => Isolation::None,
        other => {
            let title = format!("host.isolation must be auto, full or none, not `{other}`");
            d.problem(Problem::new(text.span, title).hint("none builds with this machine's own programs"));
            Isolation::Auto
        }
    }
}

fn ids(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Ids {
    let Some(text) = f.text(d, "ids") else { return Ids::Single };
    match text.text.as_str() {
        "single" => Ids::Single,
        "range" => Ids::Range,
        other => {
            let title = format!("host.ids must be single or range, not `{other}`");
            d.problem(Problem::new(text.span, title).hint("range needs newuidmap and a line in /etc/subuid"));
            Ids::Single
        }
    }
}

fn network(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Network {
    let Some(text) = f.text(d, "network") else { return Network::Full };
    match text.text.as_str() {
        "full" => Network::Full,
        "fetch-only" => Network::FetchOnly,
        "none" => Network::None,
        other => {
            let title = format!("host.network must be full, fetch-only or none, not `{other}`");
            d.problem(
                Problem::new(text.span, title).hint("BitBake's tasks are cut off from the network in all of them"),
            );
            Network::Full
        }
    }
}

fn openat2(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Openat2 {
    let Some(text) = f.text(d, "openat2") else { return Openat2::Auto };
    match text.text.as_str() {
        "auto" => Openat2::Auto,
        "hide" => Openat2::Hide,
        "show" => Openat2::Show,
        other => {
            let title = format!("host.openat2 must be auto, hide or show, not `{other}`");
            d.problem(
                Problem::new(text.span, title).hint("auto hides it where the layers have a pseudo older than 1.9.3"),
            );
            Openat2::Auto
        }
    }
}

fn devices(d: &mut Decoder<'_>, f: &mut Fields<'_>) -> Vec<Device> {
    let mut devices = Vec::new();
    for text in f.texts(d, "devices") {
        match text.text.as_str() {
            "kvm" => devices.push(Device::Kvm),
            "tun" => devices.push(Device::Tun),
            "fuse" => devices.push(Device::Fuse),
            other => {
                let title = format!("host.devices: `{other}` is none of kvm, tun, fuse");
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
