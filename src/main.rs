//! smidr: builds embedded Linux without Docker and without root.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before all: the helper would do for its caller what only the file's owner may.
    if smidr::sandbox::privileged_by_file() {
        return smidr::cli::refuse_privileges();
    }
    // Both must come before anything else: they need a process with one thread, and become another program.
    if let Some(code) = smidr::sandbox::helper_main() {
        return code;
    }
    if let Some(code) = smidr::system::process::wrapper_main() {
        return code;
    }
    smidr::cli::main()
}
