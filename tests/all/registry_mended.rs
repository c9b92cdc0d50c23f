//! Regressions around damaged images: each is reported and can be repaired.

use std::fs;

use super::{
    registry::{import, prune, with_layers, with_small},
    registry_damage::{Pulled, flip},
    registry_images::{Random, blob, documents, files, layered, layers, store, varied},
    support::World,
};

/// As `image ls` and `image pull` print it.
#[test]
fn a_digest_with_its_algorithm_names_an_image() {
    let (world, manifest) = with_small();
    world.smidr().args(["image", "verify", &manifest]).run().expect_code(0).expect_out("small  good");
}

/// Both the blob and what it was unpacked to.
#[test]
fn a_layer_that_is_damaged_twice_is_repaired() {
    let Some(all) = Pulled::new("registry_mended::a_layer_that_is_damaged_twice_is_repaired", 1) else { return };
    flip(&all.layers[0].0);
    flip(&all.file(0));
    all.verify(&[]).expect_code(3);
    all.expect_repaired();
}

#[test]
fn a_missing_manifest_is_repaired() {
    let Some(all) = Pulled::new("registry_mended::a_missing_manifest_is_repaired", 1) else { return };
    fs::remove_file(blob(&all.world, &all.manifest)).expect("remove it");
    all.verify(&["--repair", "--insecure"]).expect_code(0);
    all.expect_good();
}

#[test]
fn a_damaged_configuration_is_repaired() {
    let Some(all) = Pulled::new("registry_mended::a_damaged_configuration_is_repaired", 1) else { return };
    let config = documents(&all.world, &all.manifest).0["config"]["digest"].as_str().expect("a digest").to_owned();
    flip(&blob(&all.world, &config));
    all.verify(&["--repair", "--insecure"]).expect_code(0);
    all.expect_good();
}

#[test]
fn a_missing_manifest_is_damage_by_name_too() {
    let (world, manifest) = with_small();
    fs::remove_file(blob(&world, &manifest)).expect("remove it");
    world.smidr().args(["image", "verify", "small"]).run().expect_code(3).expect_out("small  DAMAGED");
}

#[test]
fn one_damaged_image_does_not_hide_the_others() {
    let (world, manifest) = with_small();
    let source = world.work.join("other.tar");
    layered(&source, &[files(&mut Random(9), "x", 1, 10)]);
    import(&world, &source, "other");
    fs::remove_file(blob(&world, &manifest)).expect("remove it");
    world.smidr().args(["image", "ls"]).run().expect_code(0).expect_out("other");
}

#[test]
fn prune_works_where_an_image_is_damaged() {
    let (world, manifest) = with_small();
    fs::remove_file(blob(&world, &manifest)).expect("remove it");
    prune(&world, &["--days", "0"]).expect_code(0);
    assert_eq!(World::names(&store(&world, "names")), Vec::<String>::new());
}

#[test]
fn repair_goes_on_with_the_next_image() {
    let (world, manifest) = with_layers(1, 1000);
    let source = world.work.join("other.tar");
    layered(&source, &[files(&mut Random(9), "x", 1, 10)]);
    let other = import(&world, &source, "other");
    flip(&blob(&world, &layers(&world, &manifest)[0].0));
    let unpacked = super::registry_images::unpacked(&world, &layers(&world, &other)[0].1);
    flip(&unpacked.join("x/0"));
    let done = world.smidr().args(["image", "verify", "--repair"]).run();
    done.expect_out("layered  DAMAGED").expect_out("other  repaired");
}

#[test]
fn keep_counts_what_images_share_once() {
    let world = World::new();
    let source = world.work.join("image.tar");
    layered(&source, &[files(&mut Random(9), "x", 1, 1_000_000)]);
    import(&world, &source, "a");
    import(&world, &source, "b");
    prune(&world, &["--keep", "10k"]).expect_code(0).expect_err("removed 2 images, 2.0 MB");
    assert_eq!(World::names(&store(&world, "names")), Vec::<String>::new());
}

#[test]
fn a_dry_run_respects_use() {
    let Some(from) = World::with_image("registry_mended::a_dry_run_respects_use") else { return };
    from.init("p");
    from.edit_host("hello");
    let mut running = from.smidr().args(["run", "--", "sh", "-c", "echo here; sleep 60"]).start();
    running.until_says("here");
    let done = prune(&from, &["--days", "0", "--dry-run"]);
    done.expect_code(0).expect_err("hello stays: build ");
    assert!(!done.out.contains("hello "), "{done:?}");
}

#[test]
fn a_layout_without_that_name_is_refused() {
    let (world, _) = with_small();
    let layout = world.work.join("out");
    world.smidr().args(["image", "export", "small"]).arg(&layout).run().expect_code(0);
    let reference = format!("oci:{}:another", layout.display());
    let done = world.smidr().args(["image", "pull", &reference, "--name", "x"]).run();
    done.expect_code(2).expect_one_error();
}

#[test]
fn the_hint_of_a_build_can_be_followed() {
    let world = World::new();
    world.init("p");
    world.edit_host(&format!("127.0.0.1:{}/x:1", super::registry_server::free_port()));
    let done = world.smidr().arg("build").run();
    done.expect_code(4).expect_err("smidr image pull --insecure");
}

/// A layer whose folder is half gone.
#[test]
fn a_missing_folder_is_damage() {
    let Some(all) = Pulled::new("registry_mended::a_missing_folder_is_damage", 1) else { return };
    fs::remove_dir_all(&all.layers[0].1).expect("remove the tree beside layer.json");
    all.verify(&[]).expect_code(3).expect_out(&all.part(0));
    all.expect_repaired();
}

#[test]
fn a_damaged_seam_is_found() {
    let Some(all) = Pulled::new("registry_mended::a_damaged_seam_is_found", 2) else { return };
    let seam = store(&all.world, "seams").join(&all.manifest["sha256:".len()..]).join("fs");
    assert!(seam.is_dir(), "this image has none");
    fs::remove_dir_all(&seam).expect("remove it");
    all.verify(&[]).expect_code(3);
    all.expect_repaired();
}

/// A record of a name that is cut off.
#[test]
fn a_damaged_name_is_reported_and_can_be_removed() {
    let world = World::new();
    let source = world.work.join("small.tar");
    varied(&source);
    import(&world, &source, "small");
    fs::write(store(&world, "names").join("small.json"), "{").expect("cut it off");
    world.smidr().args(["image", "verify"]).run().expect_code(3).expect_out("small  DAMAGED");
    world.smidr().args(["image", "rm", "small"]).run().expect_code(0);
}

/// `rm` once refused what neither `verify` nor `ls` could handle.
#[test]
fn an_image_without_manifest_can_be_removed() {
    let (world, manifest) = with_small();
    fs::remove_file(blob(&world, &manifest)).expect("remove it");
    world.smidr().args(["image", "rm", "small"]).run().expect_code(0);
    assert_eq!(World::names(&store(&world, "names")), Vec::<String>::new());
}

/// One record that cannot be read keeps all images.
#[test]
fn another_image_can_be_removed_beside_a_damaged_name() {
    let (world, _) = with_small();
    fs::write(store(&world, "names").join("other.json"), "{").expect("a record that makes no sense");
    world.smidr().args(["image", "rm", "small"]).run().expect_code(0);
}
