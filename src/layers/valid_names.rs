//! Names of files that a repository or a patch may hold.

use gix::validate::path::component::Options;

/// Names that are dangerous on other systems are refused here too: a checkout may lie on a file system that others share. Names that
/// other systems merely do not have (`aux`, `a:b`) are fine.
pub(super) const VALID_NAMES: Options = Options { protect_windows: false, protect_hfs: true, protect_ntfs: true };
