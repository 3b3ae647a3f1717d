//! `guard`: instructions a packet of the main cases, beside those that the repository keeps.
//!
//! Counts of callgrind are the same in every run of one program, so 3 % more is a change of the code, or of the compiler:
//! then, and where more is meant, `--write` takes the new counts over, to be committed with their reason.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    error::{Error, Result},
    method::Method,
    process::check_interrupted,
    profile,
};

/// What to do.
#[derive(Args, Debug)]
pub struct Options {
    /// Keep the counts instead of comparing.
    #[arg(long)]
    write: bool,
    /// The file of counts; bench/instructions.json if absent.
    #[arg(long)]
    file: Option<PathBuf>,
}

/// How much more is too much.
const TOLERANCE: f64 = 0.03;

/// The cases: packets of established sessions, and packets that open one.
const CASES: [(Method, bool); 9] = [
    (Method::Fullnat, false),
    (Method::FullnatV6, false),
    (Method::FullnatV6ToV4, false),
    (Method::Nat, false),
    (Method::Dr, false),
    (Method::Ipip, false),
    (Method::Fullnat, true),
    (Method::FullnatV6, true),
    (Method::Nat, true),
];

/// Counts and compares.
pub fn run(options: &Options) -> Result<()> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let file = options.file.as_ref().unwrap_or(&own);
    let mut counts = BTreeMap::new();
    for (method, opening) in CASES {
        check_interrupted()?;
        let name = if opening { format!("{}, opening", method.name()) } else { method.name() };
        let count = profile::Options::of(method, opening).instructions()?;
        counts.insert(name, (count * 10.0).round() / 10.0);
    }
    if options.write {
        let text = serde_json::to_string_pretty(&counts).expect("numbers are JSON");
        return fs::write(file, text + "\n").map_err(Error::file(file));
    }
    let text = fs::read_to_string(file).map_err(Error::file(file))?;
    let kept: BTreeMap<String, f64> =
        serde_json::from_str(&text).map_err(|e| Error::Unexpected(format!("{}: {e}", file.display())))?;
    let (mut report, mut worse) = (String::new(), false);
    for (name, count) in &counts {
        let line = match kept.get(name) {
            Some(before) => {
                let too_much = *count > before * (1.0 + TOLERANCE);
                worse |= too_much;
                let verdict = if too_much { "  TOO MUCH" } else { "" };
                format!(
                    "{name:<24} {count:>8.1}, kept {before:>8.1}, {:+.1} %{verdict}\n",
                    (count / before - 1.0) * 100.0
                )
            }
            None => {
                worse = true;
                format!("{name:<24} {count:>8.1}, kept nowhere\n")
            }
        };
        report.push_str(&line);
    }
    print!("instructions a packet\n{report}");
    if worse {
        let what = "instructions a packet rose by more than 3 %: look with `weir-bench profile --method NAME`, or keep \
                    the new counts with `weir-bench guard --write` and say why";
        return Err(Error::Unexpected(what.into()));
    }
    Ok(())
}
