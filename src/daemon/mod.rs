//! The daemon: it takes submissions, decides which build starts when, starts their workers and follows them. It runs no build itself.

pub(crate) mod ledger;
