//! Recordings of the real IPVS, replayed through the packet path and the control code in virtual time, one
//! worker. The folder is `WEIR_GOLDEN`'s, or `../shared/golden` beside the repository.

mod recording;
mod rig;

fn run(kind: &str) {
    let recordings = recording::recordings(kind);
    assert!(!recordings.is_empty(), "no recordings in {}", recording::folder().join(kind).display());
    let mut failed = Vec::new();
    for (name, path) in recordings {
        match recording::replay(&path) {
            Ok(()) => println!("passed {kind}/{name}"),
            Err(difference) => failed.push(format!("{kind}/{difference}")),
        }
    }
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn golden_sched() {
    run("sched");
}

#[test]
fn golden_lifecycle() {
    run("lifecycle");
}
