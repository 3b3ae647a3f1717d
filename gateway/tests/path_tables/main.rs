//! Packet in, packet out, as tables: each file of `tests/packets`, or of the folder that `WEIR_TABLES` names, is
//! one test; README.md there says how to read and write them. Frames are built and checked by etherparse.

mod build;
mod expect;
mod extension;
mod fragments;
mod language;
mod link;
mod log;
mod message;
mod proxy;
mod read;
#[path = "../rig/mod.rs"]
mod rig;
mod sctp;
mod table;
mod tcp;
mod words;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let trials = trials().unwrap_or_else(|e| vec![Trial::test("tables", move || Err(Failed::from(e)))]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The folder of tables; a relative one is relative to the repository's root.
fn folder() -> (PathBuf, bool) {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    match std::env::var_os("WEIR_TABLES").filter(|name| !name.is_empty()) {
        Some(named) => (package.join("..").join(named), true),
        None => (package.join("tests/packets"), false),
    }
}

fn trials() -> Result<Vec<Trial>, String> {
    let (folder, named) = folder();
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "table"));
    files.sort();
    if files.is_empty() {
        return Err(format!("no tables in {}", folder.display()));
    }
    let trial = |path: &PathBuf, logged: bool| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (name, path) = (if logged { format!("{name}, logged") } else { name }, path.clone());
        Trial::test(name, move || {
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok(table::run(&path.display().to_string(), &text, logged)?)
        })
    };
    let both = |path| [trial(path, false), trial(path, true)];
    let mut trials: Vec<_> = files.iter().flat_map(both).collect();
    if !named {
        trials.extend(language::trials());
    }
    Ok(trials)
}
