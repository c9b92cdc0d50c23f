//! Images in the shapes that builders give them: each is unpacked as expected, and as umoci does where it is installed.
//!
//! The shapes are made by hand from what BuildKit, buildah, kaniko, Jib, ko, nix2container and Docker write; what buildah itself writes
//! is tried where it is there.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use serde_json::{Value, json};
use tar::EntryType;

use super::{
    exchange::{merged_tree, other},
    image_maker::{Form, Layer, Layout, TIME, architecture, layer},
    registry_images::{digest, hex_of},
    support::{Done, World, hermetic, skip, tool},
};

/// What umoci makes of a shape.
#[derive(Clone, Copy, PartialEq)]
enum Peer {
    Same,
    /// Something else, for this reason.
    Differs(&'static str),
}

struct Shape {
    name: &'static str,
    layers: Vec<Layer>,
    config: Value,
    manifest: Value,
    attested: bool,
    peer: Peer,
    /// What is there in the end: lines as those of layers, sorted by name.
    expected: &'static str,
}

fn shape(name: &'static str, layers: Vec<Layer>, expected: &'static str) -> Shape {
    Shape { name, layers, config: json!({}), manifest: json!({}), attested: false, peer: Peer::Same, expected }
}

/// The base of most: links among folders, as distributions have had them for years.
fn base() -> Layer {
    layer(
        "d 755 usr/\nd 755 usr/bin/\nl bin usr/bin\nf 755 usr/bin/tool elf\nd 755 etc/\nf 644 etc/passwd root\nd 1777 tmp/
        d 700 root/\nd 755 opt/\nf 644 opt/old old\nl etc/link ../usr\nf 644 etc/gone gone",
    )
}

fn shapes() -> Vec<Shape> {
    vec![
        Shape {
            attested: true,
            config: json!({
                // Steps that made no layer, and more of them than layers; and one that says it made none although it did.
                "history": [{"created_by": "ADD rootfs.tar.xz / # buildkit"}, {"created_by": "WORKDIR /work", "empty_layer": true},
                    {"created_by": "ENV A=b", "empty_layer": true}],
                "moby.buildkit.buildinfo.v1": "e30=", "variant": "v8", "os.version": "", "os.features": null,
            }),
            ..shape(
                "BuildKit: equal and empty layers, replaced links and folders",
                vec![
                    base(),
                    layer("d 755 work/"),
                    layer(""),
                    layer("d 755 etc/\nf 644 etc/.wh.link\nf 644 etc/.wh.gone\nd 755 opt/\nf 644 opt/.wh..wh..opq\nf 600 opt/new new"),
                    layer("d 755 work/"),
                    layer("").stored(Form::Zstd),
                    // A link where a folder was, and a folder where a link was.
                    layer("f 644 .wh.root\nl root tmp\nd 755 etc/\nd 755 etc/link/\nf 644 etc/link/inside x"),
                    layer(""),
                ],
                "l bin usr/bin\nd 755 etc\nd 755 etc/link\nf 644 etc/link/inside x\nf 644 etc/passwd root\nd 755 opt\nf 600 opt/new new
                 l root tmp\nd 1777 tmp\nd 755 usr\nd 755 usr/bin\nf 755 usr/bin/tool elf\nd 755 work",
            )
        },
        shape(
            "BuildKit: eStargz, with its own files at the root, and zstd in chunks",
            vec![
                layer("f 644 .no.prefetch.landmark \u{f}\nd 755 a/\nf 644 a/b one\nf 644 stargz.index.json {}").stored(Form::GzipMembers),
                layer("f 644 a/c two\nf 644 .prefetch.landmark \u{f}").stored(Form::GzipMembers),
                layer("f 644 a/d three").stored(Form::ZstdChunked),
            ],
            "f 644 .no.prefetch.landmark \u{f}\nf 644 .prefetch.landmark \u{f}\nd 755 a\nf 644 a/b one\nf 644 a/c two\nf 644 a/d three
             f 644 stargz.index.json {}",
        ),
        Shape {
            config: json!({
                "history": [{"created_by": "/bin/sh"}, {"comment": "FROM x"}], "created": "2023-01-02T03:04:05.678901234Z",
                "config": {"Env": null, "Entrypoint": null, "Cmd": null, "Volumes": null, "ExposedPorts": null, "Labels": null, "OnBuild": null},
            }),
            manifest: json!({"mediaType": "application/vnd.docker.distribution.manifest.v2+json"}),
            ..shape(
                "buildah: Docker's media types, mount points as empty folders, whole folders whited out and made again",
                vec![
                    base().stored(Form::Plain),
                    layer("d 755 ./\nd 755 dev/\nd 755 proc/\nd 755 sys/\nd 755 run/\nd 755 run/secrets/\nf 0 run/.containerenv"),
                    layer("d 755 opt/\nf 644 .wh.opt\nf 644 opt/again x\nf 644 run/.wh.secrets"),
                ],
                "l bin usr/bin\nd 755 dev\nd 755 etc\nf 644 etc/gone gone\nl etc/link ../usr\nf 644 etc/passwd root\nd 755 opt
                 f 644 opt/again x\nd 755 proc\nd 700 root\nd 755 run\nf 600 run/.containerenv\nd 755 sys\nd 1777 tmp\nd 755 usr
                 d 755 usr/bin\nf 755 usr/bin/tool elf",
            )
        },
        shape(
            "kaniko: absolute names, folders twice, links to files below, a file again after its whiteout",
            vec![
                base(),
                layer(
                    "d 755 /\nd 755 /usr/\nd 755 /usr/bin/\nh /usr/bin/also /usr/bin/tool\nd 755 /usr/\nd 750 /usr/bin/\nf 644 /etc/.wh.gone
                    f 644 /etc/gone back\nf 0 /.wh.opt\nd 755 /\nf 644 /etc/.wh.nothing",
                ),
            ],
            "l bin usr/bin\nd 755 etc\nf 644 etc/gone back\nl etc/link ../usr\nf 644 etc/passwd root\nd 700 root\nd 1777 tmp\nd 755 usr
             d 750 usr/bin\nf 755 usr/bin/also elf\nf 755 usr/bin/tool elf",
        ),
        Shape {
            config: json!({"created": "1970-01-01T00:00:00Z", "author": "Jib", "history": [{"created": "1970-01-01T00:00:00Z", "author": "Jib",
                "created_by": "jib-maven-plugin:3.4.0", "comment": "dependencies"}]}),
            ..shape(
                "Jib: times of the epoch, no entries for parents",
                vec![
                    base(),
                    layer("@1\nf 644 /app/libs/one.jar PK"),
                    layer("@1\nd 755 /app/\nd 755 /app/classes/\nf 644 /app/classes/Main.class cafe\nd 755 /tmp/empty/"),
                    layer("@0\nf 644 /app/resources/application.properties a=b"),
                ],
                "d 755 app\nd 755 app/classes\nf 644 app/classes/Main.class @1 cafe\nd 755 app/libs\nf 644 app/libs/one.jar @1 PK
                 d 755 app/resources\nf 644 app/resources/application.properties @0 a=b\nl bin usr/bin\nd 755 etc\nf 644 etc/gone gone
                 l etc/link ../usr\nf 644 etc/passwd root\nd 755 opt\nf 644 opt/old old\nd 700 root\nd 1777 tmp\nd 755 tmp/empty\nd 755 usr
                 d 755 usr/bin\nf 755 usr/bin/tool elf",
            )
        },
        Shape {
            config: json!({"author": "github.com/ko-build/ko", "created": "0001-01-01T00:00:00Z", "variant": "v1"}),
            manifest: json!({"mediaType": "application/vnd.docker.distribution.manifest.v2+json"}),
            ..shape(
                "ko: names of distroless, links to data",
                vec![
                    layer("@0\nd 755 ./\nd 755 ./etc/\nf 644 ./etc/passwd root\nd 755 ./var/\nd 755 ./var/lib/\nf 644 ./etc/passwd root"),
                    layer("@0\nd 555 /var/run/ko\nl /var/run/ko/HEAD refs/heads\nf 444 /var/run/ko/refs/heads main"),
                    layer("@0\nd 555 /ko-app\nf 555 /ko-app/tool elf"),
                ],
                "d 755 etc\nf 644 etc/passwd @0 root\nd 755 ko-app\nf 755 ko-app/tool @0 elf\nd 755 var\nd 755 var/lib\nd 755 var/run
                 d 755 var/run/ko\nl var/run/ko/HEAD refs/heads\nd 755 var/run/ko/refs\nf 644 var/run/ko/refs/heads @0 main",
            )
        },
        shape(
            "nix2container: plain layers of read-only paths, only parts of which have parents",
            vec![
                layer("@1\nd 555 /nix/store/aaaa-glibc\nd 555 /nix/store/aaaa-glibc/lib\nf 444 /nix/store/aaaa-glibc/lib/libc.so elf")
                    .stored(Form::Plain),
                layer("@1\nd 555 /nix/store/bbbb-bash/bin\nf 555 /nix/store/bbbb-bash/bin/bash elf\nl /nix/store/bbbb-bash/bin/sh bash")
                    .stored(Form::Plain),
                layer("@1\nl bin /nix/store/bbbb-bash/bin\nd 755 /etc\nf 644 /etc/passwd root").stored(Form::Plain),
            ],
            "l bin /nix/store/bbbb-bash/bin\nd 755 etc\nf 644 etc/passwd @1 root\nd 755 nix\nd 755 nix/store\nd 755 nix/store/aaaa-glibc
             d 755 nix/store/aaaa-glibc/lib\nf 644 nix/store/aaaa-glibc/lib/libc.so @1 elf\nd 755 nix/store/bbbb-bash
             d 755 nix/store/bbbb-bash/bin\nf 755 nix/store/bbbb-bash/bin/bash @1 elf\nl nix/store/bbbb-bash/bin/sh bash",
        ),
        Shape {
            peer: Peer::Differs("it takes files of AUFS for whiteouts"),
            ..shape(
                "Docker on AUFS: its own entries, and links into them",
                vec![
                    base(),
                    layer(
                        "d 700 .wh..wh.plnk/\nf 755 .wh..wh.plnk/123.4 data\nf 644 .wh..wh.plnk/5.6 unused\nd 700 .wh..wh.orph/
                        f 644 .wh..wh.orph/lost lost\nf 444 .wh..wh.aufs\nd 755 usr/\nh usr/one .wh..wh.plnk/123.4\nh usr/two ./.wh..wh.plnk/123.4
                        f 644 etc/.wh.gone",
                    ),
                ],
                "l bin usr/bin\nd 755 etc\nl etc/link ../usr\nf 644 etc/passwd root\nd 755 opt\nf 644 opt/old old\nd 700 root\nd 1777 tmp
                 d 755 usr\nd 755 usr/bin\nf 755 usr/bin/tool elf\nf 755 usr/one data\nh usr/two usr/one",
            )
        },
    ]
}

/// Everything below a folder, in the words of layers; modes as smidr gives them, which lets the owner read and write. Without `links`
/// each name of a file stands for itself.
fn listing(root: &Path, links: bool) -> String {
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let mut lines = Vec::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = entry.expect("an entry");
        let name = entry.path().strip_prefix(root).expect("below").to_string_lossy().into_owned();
        let meta = entry.metadata().expect("what it is");
        let mode = meta.permissions().mode() & 0o7777 | 0o600;
        lines.push(if meta.is_symlink() {
            format!("l {name} {}", fs::read_link(entry.path()).expect("a target").display())
        } else if meta.is_dir() {
            // umoci gives folders that no archive names the time at which it makes them.
            format!("d {mode:o} {name}")
        } else if let Some(same) = first.get(&meta.ino()).filter(|_| links) {
            format!("h {name} {same}")
        } else {
            first.insert(meta.ino(), name.clone());
            let time = if meta.mtime() == TIME as i64 { String::new() } else { format!("@{} ", meta.mtime()) };
            let content = fs::read_to_string(entry.path()).unwrap_or_else(|error| format!("({error})"));
            format!("f {mode:o} {name} {time}{content}").trim_end().to_owned()
        });
    }
    lines.join("\n")
}

fn make(layout: &Layout, shape: &Shape) {
    let mut image = layout.image(&shape.layers, &shape.config, &shape.manifest);
    if !shape.attested {
        layout.index(&[image]);
        return;
    }
    // A proof of how the image was made, as an image for no platform, before the image itself.
    let statement = layout.blob(br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#, "application/vnd.in-toto+json");
    let proof = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [statement]});
    let config = json!({"architecture": "unknown", "os": "unknown"});
    let mut proof = layout.image(&[], &config, &proof);
    proof["platform"] = json!({"architecture": "unknown", "os": "unknown"});
    proof["annotations"] =
        json!({"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"]});
    // And a second one for the same platform, of which the first counts.
    let mut second = layout.image(&[layer("f 644 second x")], &json!({}), &json!({}));
    for image in [&mut image, &mut second] {
        image["platform"] = json!({"architecture": architecture(), "os": "linux"});
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [proof, image, second]});
    layout.index(&[layout.document(&index)]);
}

#[test]
fn images_of_all_builders_are_unpacked() {
    let test = "image_shapes::images_of_all_builders_are_unpacked";
    let umoci = tool("umoci").is_some();
    if !umoci {
        skip(&format!("{test} (the peer)"), "there is no umoci here");
    }
    for shape in shapes() {
        let world = World::new();
        let layout = Layout::new(&world.work.join("layout"));
        make(&layout, &shape);
        let source = format!("oci:{}:latest", layout.path.display());
        let done = world.smidr().args(["image", "pull", &source, "--name", "shape"]).run();
        assert!(done.code == Some(0) && !done.err.contains("warning"), "{}: {done:?}", shape.name);
        let manifest = digest(&done);
        world.smidr().args(["image", "verify"]).run().expect_code(0);
        let expected: Vec<&str> = shape.expected.lines().map(str::trim).collect();
        let Some(root) = merged_tree(&world, &manifest) else {
            return skip(test, "no overlay can be mounted in a namespace of one's own here");
        };
        assert_eq!(listing(&root, true), expected.join("\n"), "{}", shape.name);
        // umoci neither chooses from an index nor reads zstd or Docker's media types: it gets the same archives in its own form.
        let plain: Vec<Layer> = shape.layers.iter().map(|layer| layer.clone().stored(Form::Gzip)).collect();
        layout.index(&[layout.image(&plain, &json!({}), &json!({}))]);
        if umoci && shape.peer == Peer::Same {
            other(&world, "umoci", &["unpack", "--rootless", "--image", "layout:latest", "bundle"]);
            // Where layers are stacked, a link to a file below is a copy.
            let theirs = listing(&world.work.join("bundle/rootfs"), false);
            assert_eq!(theirs, listing(&root, false), "{}: umoci", shape.name);
        }
    }
}

/// An archive of Docker's until version 24: a folder for each layer, and links instead of what is there already.
fn docker_archive(path: &Path, layers: &[Layer]) {
    let ids: Vec<String> = (0..layers.len()).map(|number| hex_of(format!("layer {number}").as_bytes())).collect();
    let diff_ids: Vec<String> = layers.iter().map(Layer::diff_id).collect();
    let config = json!({"architecture": architecture(), "os": "linux", "docker_version": "20.10.24", "config": {"Env": null, "Volumes": null},
        "container_config": {"Hostname": "abc"}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "/bin/sh -c #(nop) ADD file:abc in / "}, {"created_by": "/bin/sh -c #(nop)  CMD", "empty_layer": true}]});
    let config_name = format!("{}.json", hex_of(config.to_string().as_bytes()));
    let names: Vec<String> = ids.iter().map(|id| format!("{id}/layer.tar")).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": ["shape:latest"], "Layers": names}]);
    let mut tar = tar::Builder::new(fs::File::create(path).expect("a file"));
    let mut add = |kind: EntryType, name: &str, target: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        match kind {
            EntryType::Symlink => tar.append_link(&mut header, name, target),
            _ => tar.append_data(&mut header, name, content),
        }
        .expect("an entry");
    };
    for (number, id) in ids.iter().enumerate() {
        add(EntryType::Directory, &format!("{id}/"), "", b"");
        add(EntryType::Regular, &format!("{id}/VERSION"), "", b"1.0");
        add(EntryType::Regular, &format!("{id}/json"), "", json!({"id": id, "os": "linux"}).to_string().as_bytes());
        match layers[..number].iter().position(|before| before.tar == layers[number].tar) {
            Some(same) => add(EntryType::Symlink, &names[number], &format!("../{}", names[same]), b""),
            None => add(EntryType::Regular, &names[number], "", &layers[number].tar),
        }
    }
    add(EntryType::Regular, &config_name, "", config.to_string().as_bytes());
    add(EntryType::Regular, "manifest.json", "", manifest.to_string().as_bytes());
    add(EntryType::Regular, "repositories", "", json!({"shape": {"latest": ids.last()}}).to_string().as_bytes());
    tar.finish().expect("the end of the archive");
}

#[test]
fn an_archive_of_docker_20_is_unpacked() {
    let test = "image_shapes::an_archive_of_docker_20_is_unpacked";
    let world = World::new();
    let layers = [base(), layer(""), layer("d 755 opt/\nf 644 opt/.wh.old"), layer(""), layer("f 644 opt/last x")];
    docker_archive(&world.work.join("docker.tar"), &layers);
    let done = world.smidr().args(["image", "import", "docker.tar", "--name", "shape"]).current_dir(&world.work).run();
    let manifest = digest(&done);
    let Some(root) = merged_tree(&world, &manifest) else {
        return skip(test, "no overlay can be mounted in a namespace of one's own here");
    };
    let ours = listing(&root, true);
    assert!(ours.contains("f 644 opt/last x") && !ours.contains("opt/old"), "{ours}");
    if tool("skopeo").is_none() || tool("umoci").is_none() {
        return skip(&format!("{test} (the peers)"), "there is no skopeo or no umoci here");
    }
    other(&world, "skopeo", &["copy", "docker-archive:docker.tar", "oci:layout:latest"]);
    other(&world, "umoci", &["unpack", "--rootless", "--image", "layout:latest", "bundle"]);
    assert_eq!(listing(&world.work.join("bundle/rootfs"), true), ours);
}

/// What buildah is asked for: equal layers and one without content, then what only a whiteout or an opaque folder can say.
const BUILDAH: &str = r"
    b() { buildah --root $HOME/store --runroot $HOME/run --storage-driver vfs $@; }
    mkdir context && echo one > context/a && mkdir context/d && echo two > context/d/b && ln -s d context/l
    printf 'FROM scratch\nCOPY . /x/\nWORKDIR /w\nCOPY . /x/\nWORKDIR /w\nENV A=b\n' > context/Containerfile
    b bud --layers --timestamp 1000000000 -t first context
    b push --format oci first oci:first:latest
    c=$(b from first)
    m=$(b mount $c)
    rm -r $m/x/a $m/x/d $m/x/l && mkdir $m/x/l && echo three > $m/x/l/c && ln -s /w $m/x/d
    b commit --timestamp 1000000000 --format docker $c oci:second:latest
    b commit --timestamp 1000000000 --squash $c oci:third:latest";

#[test]
fn what_buildah_writes_is_unpacked() {
    let test = "image_shapes::what_buildah_writes_is_unpacked";
    let missing = ["buildah", "unshare"].into_iter().find(|name| tool(name).is_none());
    if let Some(missing) = missing {
        return skip(test, &format!("there is no {missing} here"));
    }
    let world = World::new();
    let mut command = hermetic(tool("unshare").expect("found above"), &world.home);
    // It wants to be a user of this machine, which root of a namespace is.
    command.env("_CONTAINERS_USERNS_CONFIGURED", "done").env("BUILDAH_ISOLATION", "chroot");
    let done = Done::new(
        command.current_dir(&world.work).args(["-Urm", "sh", "-ec", BUILDAH]).output().expect("unshare starts"),
    );
    if done.err.starts_with("unshare:") {
        return skip(test, "no namespace of one's own here");
    }
    done.expect_code(0);
    let after = "d 755 w\nd 755 x\nf 644 x/Containerfile (file)\nl x/d /w\nd 755 x/l\nf 644 x/l/c three";
    let rows = [
        ("first", "d 755 w\nd 755 x\nf 644 x/Containerfile (file)\nf 644 x/a one\nd 755 x/d\nf 644 x/d/b two\nl x/l d"),
        ("second", after),
        ("third", after),
    ];
    for (name, expected) in rows {
        let there = World::new();
        let source = format!("oci:{}:latest", world.work.join(name).display());
        let manifest = digest(&there.smidr().args(["image", "pull", &source, "--name", name]).run());
        let Some(root) = merged_tree(&there, &manifest) else {
            return skip(test, "no overlay can be mounted in a namespace of one's own here");
        };
        let text = fs::read_to_string(world.work.join("context/Containerfile")).expect("a file");
        assert_eq!(
            listing(&root, true).replace(text.trim_end(), "(file)").replace("@1000000000 ", ""),
            expected,
            "{name}"
        );
    }
}

/// The case that builders make most: an image with one layer twice is a build host like any other.
#[test]
fn a_build_host_may_have_a_layer_twice() {
    let Some(world) = World::with_project("image_shapes::a_build_host_may_have_a_layer_twice") else { return };
    let name = format!("twice-{}", std::process::id());
    let run = |image: &str| {
        world.edit_host(image);
        world.smidr().args(["run", "--", "sh", "-c", "cat /opt/between /usr/made 2>&1 | tr '\\n' ' '"]).run()
    };
    let before = run("hello");
    world.smidr().args(["image", "export", "hello", "layout"]).current_dir(&world.work).run().expect_code(0);
    let layout = Layout { path: world.work.join("layout") };
    let (empty, between) = (layer("d 755 opt/"), layer("f 644 opt/between between"));
    layout.add_layers(&[empty.clone(), between, empty.clone().stored(Form::Zstd), empty]);
    let source = format!("oci:{}", layout.path.display());
    world.smidr().args(["image", "pull", &source, "--name", &name]).run().expect_code(0);
    let after = run(&name);
    after.expect_code(0).expect_out("between");
    let warnings =
        |done: &Done| done.err.lines().filter(|line| line.starts_with("warning")).map(String::from).collect::<Vec<_>>();
    assert_eq!(warnings(&after), warnings(&before));
    // And so is what a recipe makes of it.
    let recipe = format!("base: {{image: {name}}}\ncommands: [\"echo made > /usr/made\"]\n");
    fs::write(world.project().join(format!("{name}-more.yaml")), recipe).expect("a recipe");
    world.smidr().args(["image", "build", &format!("./{name}-more.yaml")]).run().expect_code(0);
    let made = run(&format!("{name}-more"));
    made.expect_code(0).expect_out("betweenmade");
    for image in [format!("{name}-more"), name] {
        world.smidr().args(["image", "rm", &image]).run().expect_code(0);
    }
}

#[test]
fn an_image_for_another_machine_is_told() {
    let world = World::new();
    let layout = Layout::new(&world.work.join("layout"));
    let foreign = layout.image(&[base()], &json!({"architecture": "riscv64"}), &json!({}));
    layout.index(std::slice::from_ref(&foreign));
    let smidr = |args: &[&str]| world.smidr().arg("image").args(args).current_dir(&world.work).run();
    // As `pull` names it, too.
    for (command, source) in [("pull", "oci:layout"), ("import", "oci:layout:latest"), ("import", "layout")] {
        let done = smidr(&[command, source, "--name", "foreign"]);
        done.expect_code(0).expect_err("warning: `foreign` is for riscv64, and this machine is ");
    }
    let registry = smidr(&["import", "docker://registry.example/x:1", "--name", "x"]);
    registry.expect_code(2).expect_one_error().expect_err("smidr image pull docker://registry.example/x:1");
    // Where there is a choice, none is made.
    let mut choice = foreign;
    choice["platform"] = json!({"architecture": "riscv64", "os": "linux", "variant": "v1"});
    let kind = "application/vnd.oci.image.index.v1+json";
    layout.index(&[layout.document(&json!({"schemaVersion": 2, "mediaType": kind, "manifests": [choice]}))]);
    let refused = smidr(&["pull", "oci:layout", "--name", "other"]);
    refused.expect_code(2).expect_one_error().expect_err("offers images for linux/riscv64/v1, and none for linux/");
}

#[test]
fn sizes_are_those_of_the_disk() {
    let world = World::new();
    let layout = Layout::new(&world.work.join("layout"));
    let text = "a line that packs well\n".repeat(100_000);
    let mut sparse = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    sparse.append_data(&mut header, "usr/share/long", text.as_bytes()).expect("memory");
    let long = Layer { tar: sparse.into_inner().expect("memory"), form: Form::Gzip };
    for (name, layers) in [("one", vec![base(), long.clone()]), ("two", vec![long, layer("f 644 own x")])] {
        layout.index(&[layout.image(&layers, &json!({}), &json!({}))]);
        let source = format!("oci:{}", layout.path.display());
        world.smidr().args(["image", "pull", &source, "--name", name]).run().expect_code(0);
    }
    let list = || {
        let json = world.smidr().args(["image", "ls", "--json"]).run().json();
        json["images"].as_array().expect("a list").clone()
    };
    let images = list();
    let number = |image: &Value, key: &str| image[key].as_u64().expect("bytes");
    for image in &images {
        assert!(number(image, "size") < 100_000, "packed: {image}");
        assert!((2_300_000..2_500_000).contains(&number(image, "on_disk")), "unpacked: {image}");
        assert!((2_300_000..2_400_000).contains(&number(image, "on_disk_shared")), "{image}");
    }
    world.smidr().args(["image", "ls"]).run().expect_code(0).expect_out("2.4 MB  shared");
    // What goes is what only it needs, and a lock that names it is told.
    let project = world.init("p");
    world.edit_host("two");
    let digest = images[1]["digest"].as_str().expect("a digest");
    fs::write(project.join("smidr.lock"), format!("version: 1\nhosts:\n- name: two\n  image: {digest}\n"))
        .expect("a lock");
    world.smidr().args(["image", "rm", "one"]).run().expect_code(0).expect_err("removed one, ").expect_err(" kB");
    let gone = world.smidr().args(["image", "rm", "two"]).run();
    gone.expect_code(0).expect_err("removed two, 2.4 MB").expect_err("smidr.yaml is pinned to it");
    assert!(list().is_empty());
}
