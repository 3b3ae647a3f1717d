//! Packet in, packet out, as tables: each file of `tests/packets` is one test, README.md there says how to read and
//! write them. Frames are built and checked by etherparse.

mod fragments;
mod packet;
#[path = "../rig/mod.rs"]
mod rig;
mod table;

use std::{path::Path, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let trials = trials().unwrap_or_else(|e| vec![Trial::test("tables", move || Err(Failed::from(e)))]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trials() -> Result<Vec<Trial>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packets");
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "table"));
    files.sort();
    if files.is_empty() {
        return Err(format!("no tables in {}", folder.display()));
    }
    let trial = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Trial::test(name, move || {
            let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
            Ok(table::run(&text).map_err(|e| format!("{}: {e}", path.display()))?)
        })
    };
    Ok(files.into_iter().map(trial).collect())
}
