//! `weirctl`, the operator's tool: see [`weirctl::program`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    weirctl::program::main(std::env::args_os().collect())
}
