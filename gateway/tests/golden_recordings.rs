//! Recordings of the real IPVS, replayed through the packet path and the control code in virtual time, by one worker
//! and by several. Each is a test of its own. The folder is `WEIR_GOLDEN`'s, or `../shared/golden` beside the
//! repository; without `WEIR_GOLDEN` the samples of `recording-samples` run, too, and show how strict a replay is.

mod recording;
mod rig;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let folder = recording::folder();
    let mut trials = all("golden", &folder);
    if trials.is_empty() {
        let message = format!("no recordings in {}", folder.display());
        trials.push(Trial::test("golden_recordings", move || Err(Failed::from(message))));
    }
    if std::env::var_os("WEIR_GOLDEN").is_none() {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recording-samples");
        trials.extend(all("sample", &samples));
        trials.extend(recording::samples::trials(&samples));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Every recording of a folder, by each number of workers.
fn all(what: &str, folder: &Path) -> Vec<Trial> {
    let mut trials = Vec::new();
    for kind in ["sched", "lifecycle"] {
        for (name, path) in recording::recordings(folder, kind) {
            for workers in recording::workers_of(&path) {
                let by = if workers == 1 { String::new() } else { format!("::{workers}_workers") };
                trials.push(trial(format!("{what}_{kind}_{name}{by}"), path.clone(), workers));
            }
        }
    }
    trials
}

fn trial(name: String, path: PathBuf, workers: usize) -> Trial {
    Trial::test(name, move || Ok(recording::replay(&path, workers)?))
}
