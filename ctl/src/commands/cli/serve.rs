//! The HTTP server: `serve`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

/// Where it listens unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:9901";

/// `serve`
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Listen there; may be given several times. Whoever gets there reads everything: mind the firewall
    #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_LISTEN)]
    pub listen: Vec<SocketAddr>,
    /// Let whoever has the token change the rules: PUT /v1/rules
    #[arg(long, requires = "token_file")]
    pub allow_write: bool,
    /// The token, on a line of a file that others can't read
    #[arg(long, value_name = "FILE", requires = "allow_write", value_hint = clap::ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
}
