//! smidr as its users meet it: the compiled program, on the real kernel, with a real BitBake.
//!
//! One binary, so that what is expensive, the build host of `hello`, is made once and used by all. `scripts/test` runs it as root
//! and again as a user whom this machine does not know. A test that cannot run here says `SKIP` and why, aloud.

#![expect(clippy::disallowed_macros, reason = "documents that tests make of literals")]

#[path = "all/support.rs"]
mod support;

#[path = "fuzz/one.rs"]
mod fuzz_one;

#[path = "all/api.rs"]
mod api;
#[path = "all/archives.rs"]
mod archives;
#[path = "all/artifacts.rs"]
mod artifacts;
#[path = "all/bitbake_setup.rs"]
mod bitbake_setup;
#[path = "all/border.rs"]
mod border;
#[path = "all/check.rs"]
mod check;
#[path = "all/check_deep.rs"]
mod check_deep;
#[path = "all/checkout_fixture.rs"]
mod checkout_fixture;
#[path = "all/checkouts.rs"]
mod checkouts;
#[path = "all/completions.rs"]
mod completions;
#[path = "all/conf.rs"]
mod conf;
#[path = "all/config.rs"]
mod config;
#[path = "all/config_of.rs"]
mod config_of;
#[path = "all/credentials.rs"]
mod credentials;
#[path = "all/daemon.rs"]
mod daemon;
#[path = "all/daemon_access.rs"]
mod daemon_access;
#[path = "all/daemon_attacked.rs"]
mod daemon_attacked;
#[path = "all/daemon_besieged.rs"]
mod daemon_besieged;
#[path = "all/daemon_ends.rs"]
mod daemon_ends;
#[path = "all/daemon_files.rs"]
mod daemon_files;
#[path = "all/daemon_fixture.rs"]
mod daemon_fixture;
#[path = "all/daemon_fuzz.rs"]
mod daemon_fuzz;
#[path = "all/daemon_hostile.rs"]
mod daemon_hostile;
#[path = "all/daemon_killed.rs"]
mod daemon_killed;
#[path = "all/daemon_leases.rs"]
mod daemon_leases;
#[path = "all/daemon_ops.rs"]
mod daemon_ops;
#[path = "all/daemon_power.rs"]
mod daemon_power;
#[path = "all/daemon_promises.rs"]
mod daemon_promises;
#[path = "all/daemon_schedules.rs"]
mod daemon_schedules;
#[path = "all/daemon_told.rs"]
mod daemon_told;
#[path = "all/disk.rs"]
mod disk;
#[path = "all/doctor.rs"]
mod doctor;
#[path = "all/documents.rs"]
mod documents;
#[path = "all/exchange.rs"]
mod exchange;
#[path = "all/exchange_files.rs"]
mod exchange_files;
#[path = "all/explain.rs"]
mod explain;
#[path = "all/fetch_fixture.rs"]
mod fetch_fixture;
#[path = "all/flags.rs"]
mod flags;
#[path = "all/foreign.rs"]
mod foreign;
#[path = "all/go_smidr.rs"]
mod go_smidr;
#[path = "all/help.rs"]
mod help;
#[path = "all/hostile.rs"]
mod hostile;
#[path = "all/hostile_roots.rs"]
mod hostile_roots;
#[path = "all/house.rs"]
mod house;
#[path = "all/image_maker.rs"]
mod image_maker;
#[path = "all/image_shapes.rs"]
mod image_shapes;
#[path = "all/images.rs"]
mod images;
#[path = "all/inputs.rs"]
mod inputs;
#[path = "all/isolation.rs"]
mod isolation;
#[path = "all/kas.rs"]
mod kas;
#[path = "all/keeper.rs"]
mod keeper;
#[path = "all/kept.rs"]
mod kept;
#[path = "all/layers.rs"]
mod layers;
#[path = "all/layers_diff.rs"]
mod layers_diff;
#[path = "all/layers_fetch.rs"]
mod layers_fetch;
#[path = "all/layers_http.rs"]
mod layers_http;
#[path = "all/layers_lock.rs"]
mod layers_lock;
#[path = "all/layers_words.rs"]
mod layers_words;
#[path = "all/life.rs"]
mod life;
#[path = "all/local.rs"]
mod local;
#[path = "all/modes.rs"]
mod modes;
#[path = "all/nested.rs"]
mod nested;
#[path = "all/offline.rs"]
mod offline;
#[path = "all/patch_mails.rs"]
mod patch_mails;
#[path = "all/patches.rs"]
mod patches;
#[path = "all/project.rs"]
mod project;
#[path = "all/pseudo.rs"]
mod pseudo;
#[path = "all/races.rs"]
mod races;
#[path = "all/records.rs"]
mod records;
#[path = "all/recovery.rs"]
mod recovery;
#[path = "all/reference.rs"]
mod reference;
#[path = "all/registry.rs"]
mod registry;
#[path = "all/registry_damage.rs"]
mod registry_damage;
#[path = "all/registry_images.rs"]
mod registry_images;
#[path = "all/registry_killed.rs"]
mod registry_killed;
#[path = "all/registry_mended.rs"]
mod registry_mended;
#[path = "all/registry_server.rs"]
mod registry_server;
#[path = "all/remote.rs"]
mod remote;
#[path = "all/reports.rs"]
mod reports;
#[path = "all/resources.rs"]
mod resources;
#[path = "all/sandbox.rs"]
mod sandbox;
#[path = "all/sandbox_parity.rs"]
mod sandbox_parity;
#[path = "all/screen.rs"]
mod screen;
#[path = "all/stages.rs"]
mod stages;
#[path = "all/stopping.rs"]
mod stopping;
#[path = "all/strangers.rs"]
mod strangers;
#[path = "all/terminals.rs"]
mod terminals;
#[path = "all/trouble.rs"]
mod trouble;
#[path = "all/trust.rs"]
mod trust;
#[path = "all/warnings.rs"]
mod warnings;
#[path = "all/whole.rs"]
mod whole;
#[path = "all/workers.rs"]
mod workers;
#[path = "all/workers_broken.rs"]
mod workers_broken;
#[path = "all/workers_killed.rs"]
mod workers_killed;
#[path = "all/workers_several.rs"]
mod workers_several;
