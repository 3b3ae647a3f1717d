//! Recordings, and the comparison of what happens with what was recorded.

use std::{
    collections::HashSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use crate::lab::{Lab, Outcome};

/// Status of a shell for a process killed by SIGSEGV: ipvsadm 1.31 crashes there, weir refuses.
const CRASHED: i64 = 139;

/// Steps that can't be as recorded yet, whatever file they stand in, and why; all others are in force.
/// They run, but aren't compared.
type Pending = (fn(&Step) -> bool, &'static str);

const PENDING: &[Pending] = &[(sync_daemon, "the connection sync daemon comes with a later issue")];

/// Starts, stops or lists the daemon, beyond what ipvsadm checks by itself.
fn sync_daemon(step: &Step) -> bool {
    let about = ["--start-daemon", "--stop-daemon", "--daemon"].iter().any(|o| step.command.contains(o));
    let own_checks = step.status == 2 || step.stderr.starts_with("Try ");
    about && !own_checks
}

/// The recordings of a folder, in order.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| format!("{}: {e}", folder.display()))?,
    };
    let paths = entries.filter_map(|e| Some(e.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == "jsonl")).collect();
    files.sort();
    Ok(files)
}

/// Listings whose order depends on a kernel's pointers.
#[derive(Clone)]
pub struct Unstable(Arc<HashSet<(String, usize)>>);

impl Unstable {
    /// From `unstable.json`, if there is one.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let file = folder.join("unstable.json");
        let Ok(text) = fs::read_to_string(&file) else { return Ok(Self(Arc::default())) };
        let all: Vec<(String, usize)> =
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(Self(Arc::new(all.into_iter().collect())))
    }

    fn has(&self, file: &str, index: usize) -> bool {
        self.0.contains(&(file.to_owned(), index))
    }
}

/// A file of commands with what they did.
pub struct Recording {
    name: String,
    steps: Vec<Step>,
}

struct Step {
    command: String,
    status: i64,
    stdout: String,
    stderr: String,
}

impl Recording {
    /// Reads a file.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let steps = text.lines().map(Step::parse).collect::<Result<_, _>>()?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, steps })
    }

    /// Runs it in a fresh lab; every difference is told.
    pub fn run(&self, golden: &Path, unstable: &Unstable) -> Result<(), String> {
        let mut lab = Lab::new(golden)?;
        let mut differences = String::new();
        for (index, step) in self.steps.iter().enumerate() {
            let outcome = lab.run(&step.command)?;
            if let Some((_, why)) = PENDING.iter().find(|(pending, _)| pending(step)) {
                println!("PENDING {}[{index}] $ {}: {why}", self.name, step.command);
                continue;
            }
            if let Some(difference) = step.difference(&outcome, unstable.has(&self.name, index)) {
                // Writing to a string can't fail.
                let _ = writeln!(differences, "{}[{index}] $ {}\n{difference}", self.name, step.command);
            }
        }
        if differences.is_empty() { Ok(()) } else { Err(differences) }
    }
}

impl Step {
    fn parse(line: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
        let text = |name: &str| value[name].as_str().map(str::to_owned).ok_or(format!("no {name} in {line}"));
        let status = value["status"].as_i64().ok_or(format!("no status in {line}"))?;
        Ok(Self { command: text("cmd")?, status, stdout: text("stdout")?, stderr: text("stderr")? })
    }

    fn difference(&self, got: &Outcome, as_set: bool) -> Option<String> {
        if self.status == CRASHED {
            let refused = got.status == 2 && !got.stderr.is_empty() && got.stdout.is_empty();
            return (!refused).then(|| format!("  a crash of ipvsadm's isn't refused: {got:?}\n"));
        }
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.split('\n').map(Into::into).collect();
            if as_set {
                lines.sort();
            }
            lines
        };
        let mut difference = String::new();
        if got.status != self.status {
            difference += &format!("  status {} instead of {}\n", got.status, self.status);
        }
        for (name, expected, got) in
            [("stdout", &self.stdout, &got.stdout), ("stderr", &self.stderr, &got.stderr)]
        {
            if lines(expected) != lines(got) {
                difference += &format!("  {name} instead of:\n{}  is:\n{}", quoted(expected), quoted(got));
            }
        }
        (!difference.is_empty()).then_some(difference)
    }
}

fn quoted(text: &str) -> String {
    text.split_inclusive('\n').map(|line| format!("    {line:?}\n")).collect()
}
