//! smidr: builds embedded Linux without Docker and without root.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Both must come before anything else: they need a process with one thread, and become another program.
    if let Some(code) = smidr::sandbox::helper_main() {
        return code;
    }
    if let Some(code) = smidr::host::process::wrapper_main() {
        return code;
    }
    smidr::cli::main()
}
