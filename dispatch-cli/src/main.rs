//! The `dispatch` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    dispatch_cli::main()
}
