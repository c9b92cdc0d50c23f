//! The one place that resolves a path inside an untrusted root.
