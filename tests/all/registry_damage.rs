//! Damaged stores: what `image verify` reports, and what it repairs.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    registry::{pull, push, with_layers},
    registry_images::{blob, counts, digest, layers, store, unpacked},
    registry_server::Registry,
    support::{Done, World},
};

/// Changes one byte of a file and nothing else: neither its size nor its times.
pub(crate) fn flip(path: &Path) {
    let before = fs::metadata(path).expect("a file to damage");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("make it writable");
    let file = OpenOptions::new().read(true).write(true).open(path).expect("open it");
    let (at, mut byte) = (before.len() / 2, [0]);
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("another byte");
    file.set_modified(before.modified().expect("a time")).expect("its time");
    fs::set_permissions(path, before.permissions()).expect("its mode");
}

/// A world with an image of these many layers from a registry, its name, and the layers: blob, unpacked folder.
pub(crate) struct Pulled {
    pub registry: Registry,
    pub world: World,
    pub name: String,
    pub manifest: String,
    pub layers: Vec<(PathBuf, PathBuf)>,
}

impl Pulled {
    pub(crate) fn new(test: &str, count: usize) -> Option<Self> {
        let registry = Registry::start(test)?;
        let (from, manifest) = with_layers(count, 1000);
        push(&from, "layered", &registry.at("layered:1")).expect_code(0);
        let (world, name) = (World::new(), format!("{}/layered:1", registry.host()));
        pull(&world, &registry.at("layered:1")).expect_code(0);
        let layers = layers(&world, &manifest);
        let layers = layers.iter().map(|(digest, diff_id)| (blob(&world, digest), unpacked(&world, diff_id))).collect();
        Some(Self { registry, world, name, manifest, layers })
    }

    pub(crate) fn verify(&self, args: &[&str]) -> Done {
        self.world.smidr().args(["image", "verify"]).args(args).run()
    }

    /// smidr's name of a layer.
    pub(crate) fn part(&self, at: usize) -> String {
        let name = self.layers[at].0.file_name().expect("a name").to_string_lossy();
        format!("the layer {}", &name[..8])
    }

    /// A file of an unpacked layer.
    pub(crate) fn file(&self, at: usize) -> PathBuf {
        self.layers[at].1.join(format!("folder/{at}/3"))
    }

    #[track_caller]
    pub(crate) fn expect_good(&self) {
        let done = self.verify(&[]);
        assert_eq!((done.code, &*done.out), (Some(0), &*format!("{}  good\n", self.name)), "{}", done.err);
    }

    #[track_caller]
    pub(crate) fn expect_repaired(&self) {
        let done = self.verify(&["--repair", "--insecure"]);
        done.expect_code(0).expect_out(&format!("{}  repaired\n", self.name));
        self.expect_good();
        assert_eq!(counts(&self.world)[3..], [0, 0], "nothing half-made is left");
    }
}

#[test]
fn every_damaged_part_is_named_and_repaired() {
    let Some(all) = Pulled::new("registry_damage::every_damaged_part_is_named_and_repaired", 4) else { return };
    all.expect_good();
    flip(&all.layers[0].0);
    flip(&all.file(1));
    fs::remove_file(&all.layers[2].0).expect("remove a blob");
    let done = all.verify(&[]);
    done.expect_code(3).expect_err("damaged: 1 of 1 image").expect_err("smidr image verify --repair");
    let (first, second, third) = (all.part(0), all.part(1), all.part(2));
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(lines.len(), 3, "what is good is not named: {}", done.out);
    assert!(lines[0].starts_with(&format!("{}  DAMAGED  {first} has the digest sha256:", all.name)), "{}", lines[0]);
    let unpacked = "as it is unpacked differs at /folder/1/3";
    assert_eq!(lines[1], format!("{}  DAMAGED  {second} {unpacked}", all.name));
    assert_eq!(lines[2], format!("{}  DAMAGED  {third} is not there, or not whole", all.name));
    assert_eq!(all.verify(&[&all.name]).out, done.out, "by its name");
    assert_eq!(all.verify(&[&all.manifest["sha256:".len()..][..12]]).out, done.out, "by its digest's first digits");
    assert_eq!(all.verify(&[&all.name]).code, Some(3));
    all.expect_repaired();
}

#[test]
fn each_damage_alone_is_repaired() {
    let Some(all) = Pulled::new("registry_damage::each_damage_alone_is_repaired", 2) else { return };
    let file = |at: usize| all.file(at);
    let cut = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("make it writable");
        OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(100)).expect("cut it off");
    };
    let rows: [(&str, &dyn Fn()); 9] = [
        ("has the digest", &|| flip(&all.layers[1].0)),
        ("is not there, or not whole", &|| cut(&all.layers[1].0)),
        ("is not there, or not whole", &|| fs::remove_file(&all.layers[0].0).expect("remove a blob")),
        ("differs at /folder/0/3", &|| flip(&file(0))),
        ("differs at /folder/1/3", &|| cut(&file(1))),
        ("differs at /folder/0", &|| fs::remove_file(file(0)).expect("remove a file")),
        ("differs at /folder/0/3", &|| {
            fs::set_permissions(file(0), fs::Permissions::from_mode(0o777)).expect("another mode");
        }),
        // Replacing a file changes its folder's time, and the folder is compared first.
        ("differs at /folder/0", &|| {
            fs::remove_file(file(0)).expect("remove a file");
            std::os::unix::fs::symlink("2", file(0)).expect("a link in its place");
        }),
        ("differs at /folder/0", &|| fs::write(file(0).with_file_name("more"), "x").expect("a file more")),
    ];
    for (expected, damage) in rows {
        damage();
        all.verify(&[]).expect_code(3).expect_out(expected);
        all.expect_repaired();
    }
    // A foreign tree at a layer's place is damage, and is not removed.
    let elsewhere = all.world.work.join("elsewhere");
    fs::rename(&all.layers[1].1, &elsewhere).expect("move it away");
    fs::write(elsewhere.join("more"), "x").expect("a file more");
    std::os::unix::fs::symlink(&elsewhere, &all.layers[1].1).expect("a link in its place");
    all.verify(&[]).expect_code(3).expect_out("differs at /");
    all.expect_repaired();
    assert!(elsewhere.join("more").is_file() && !all.layers[1].1.is_symlink());
    // Without the folder, a layer is not unpacked; that is no damage.
    fs::rename(all.layers[0].1.parent().expect("a folder"), all.world.work.join("away")).expect("move it away");
    all.expect_good();
}

#[test]
fn an_unreachable_registry_loses_nothing() {
    let test = "registry_damage::an_unreachable_registry_loses_nothing";
    let Some(mut all) = Pulled::new(test, 2) else { return };
    flip(&all.layers[0].0);
    all.registry.stop();
    let done = all.verify(&["--repair", "--insecure"]);
    done.expect_code(4).expect_one_error().expect_err(&format!("cannot reach {}", all.registry.host()));
    all.verify(&[]).expect_code(3).expect_out(&all.part(0));
    all.registry.start_again();
    // It has no TLS, and --insecure is missing.
    let done = all.verify(&["--repair"]);
    done.expect_code(4).expect_one_error().expect_err("--insecure");
    all.expect_repaired();
}

#[test]
fn a_wrong_tree_is_repaired_without_a_registry() {
    let test = "registry_damage::a_wrong_tree_is_repaired_without_a_registry";
    let Some(mut all) = Pulled::new(test, 2) else { return };
    all.registry.stop();
    flip(&all.file(1));
    all.verify(&[]).expect_code(3).expect_out("differs at /folder/1/3");
    all.expect_repaired();
}

#[test]
fn imported_images_are_repaired_from_the_store() {
    let (world, manifest) = with_layers(2, 1000);
    let verify = |args: &[&str]| world.smidr().args(["image", "verify"]).args(args).run();
    let layers = layers(&world, &manifest);
    // From its own blob.
    flip(&unpacked(&world, &layers[1].1).join("folder/1/0"));
    verify(&[]).expect_code(3).expect_out("layered  DAMAGED  ").expect_out("differs at /folder/1/0");
    verify(&["--repair"]).expect_code(0).expect_out("layered  repaired");
    verify(&[]).expect_code(0).expect_out("layered  good");
    // From nowhere.
    flip(&blob(&world, &layers[0].0));
    verify(&["--insecure"]).expect_code(2);
    let done = verify(&["--repair"]);
    done.expect_code(2).expect_one_error().expect_err("layered did not come from a registry");
    done.expect_err("hint: ").expect_err("smidr image rm layered");
    verify(&[]).expect_code(3).expect_out("layered  DAMAGED  ");
    // As the hint says.
    world.smidr().args(["image", "rm", "layered"]).run().expect_code(0);
    assert_eq!(counts(&world), [0; 5]);
    let again = world.smidr().args(["image", "import"]).arg(world.work.join("layered.tar")).args(["--name", "layered"]);
    assert_eq!(digest(&again.run()), manifest);
    verify(&[]).expect_code(0);
}

#[test]
fn a_pull_repairs_a_missing_manifest() {
    let Some(all) = Pulled::new("registry_damage::a_pull_repairs_a_missing_manifest", 2) else { return };
    for damage in [|path: &Path| fs::remove_file(path).expect("remove it"), flip] {
        damage(&blob(&all.world, &all.manifest));
        let done = all.verify(&[]);
        done.expect_code(3).expect_out(&format!("{}  DAMAGED  the manifest of the image", all.name));
        assert_eq!(digest(&pull(&all.world, &all.registry.at("layered:1"))), all.manifest);
        all.expect_good();
    }
    assert_eq!(World::names(&store(&all.world, "blobs/sha256")).len(), 4);
}
