//! Build-host images.
