//! The configuration as a whole: `apply`, `diff`, `export`, `save`.

use std::path::PathBuf;

use clap::Args;

/// `apply`
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    /// The file; - is standard input
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Apply only if the configuration has this generation (`export`, `diff` and `status` show it)
    #[arg(long, value_name = "N")]
    pub expect_generation: Option<u64>,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `diff`
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The file; - is standard input
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Exit with status 4 if there is a difference
    #[arg(long)]
    pub exit_code: bool,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `export`
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// As JSON, with the same keys as the TOML file: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `save`
#[derive(Args, Clone, Debug)]
pub struct SaveArgs {
    /// The file; standard output if it is - or missing
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Overwrite a file that has rules even if the gateway has none
    #[arg(long)]
    pub force: bool,
    /// Say what was saved as JSON: docs/json.md describes it
    #[arg(long, requires = "file")]
    pub json: bool,
}
