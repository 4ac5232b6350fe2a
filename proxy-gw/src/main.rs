//! The gateway's program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    proxy_gw::cli::main()
}
