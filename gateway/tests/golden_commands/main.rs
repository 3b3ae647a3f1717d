//! The command line against what ipvsadm 1.31 and a Linux 6.1 kernel were recorded to answer.
//!
//! Each file of `$WEIR_GOLDEN/commands` and `numfmt` is one test: its lines run in order as bash commands, in
//! namespaces made as the recording machine was, against a gateway's control side in this process.
//! This same executable is `ipvsadm` there. It needs root.

#[path = "../fake/mod.rs"]
mod fake;
mod lab;
mod recording;

use std::{path::PathBuf, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use recording::{Recording, Unstable};

/// Recordings that can't pass yet, and why. All others, known or not, are in force.
const PENDING: &[(&str, &str)] = &[("22_daemon", "the connection sync daemon comes with a later issue")];

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let name = std::path::Path::new(&args[0]).file_name().unwrap_or_default();
    if weirctl::program::IPVSADM_NAMES.iter().any(|n| name == *n) {
        return weirctl::program::main(args);
    }
    let trials =
        trials().unwrap_or_else(|e| vec![Trial::test("golden_recordings", move || Err(Failed::from(e)))]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The folder of recordings.
fn golden() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden");
    std::env::var_os("WEIR_GOLDEN").map_or_else(|| default.into(), PathBuf::from)
}

fn trials() -> Result<Vec<Trial>, String> {
    let folder = golden();
    let unstable = Unstable::read(&folder)?;
    let mut trials = Vec::new();
    for kind in ["commands", "numfmt"] {
        for file in recording::files(&folder.join(kind))? {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let pending = PENDING.iter().any(|(name, _)| *name == stem);
            let (folder, unstable) = (folder.clone(), unstable.clone());
            let run = move || Recording::read(&file)?.run(&folder, &unstable).map_err(Failed::from);
            trials.push(Trial::test(format!("golden_{kind}_{stem}"), run).with_ignored_flag(pending));
        }
    }
    if trials.is_empty() {
        return Err(format!("no recordings in {}", folder.display()));
    }
    Ok(trials)
}
