//! The command line against what ipvsadm 1.31 and a Linux 6.1 kernel were recorded to answer.
//!
//! Each file of `$WEIR_GOLDEN/commands` and `numfmt` is one test: its lines run in order as bash commands, in
//! namespaces made as the recording machine was, against a gateway's control side in this process.
//! This same executable is `ipvsadm` there. It needs root. What can't pass yet is named in [`recording`].

#[path = "../fake/mod.rs"]
mod fake;
mod lab;
mod recording;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use lab::Lab;
use libtest_mimic::{Arguments, Failed, Trial};
use recording::{Recording, Unstable};

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let name = Path::new(&args[0]).file_name().unwrap_or_default();
    if name == "weirctl" || weirctl::program::IPVSADM_NAMES.iter().any(|n| name == *n) {
        return weirctl::program::main(args);
    }
    let trials =
        trials().unwrap_or_else(|e| vec![Trial::test("golden_recordings", move || Err(Failed::from(e)))]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn in_lab(test: fn(&mut Lab) -> Result<(), String>) -> impl FnOnce() -> Result<(), Failed> + Send {
    move || Ok(test(&mut Lab::new(&golden())?)?)
}

fn expect(lab: &mut Lab, command: &str, status: i64, stdout: &str, stderr: &str) -> Result<(), String> {
    let got = lab.run(command)?;
    let same = got.status == status && got.stdout == stdout && got.stderr == stderr;
    if same { Ok(()) } else { Err(format!("{command}: {got:?} instead of {status} {stdout:?} {stderr:?}")) }
}

/// A user who may connect without belonging to root or the socket's group.
fn readers(lab: &mut Lab) -> Result<(), String> {
    const READER: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let rule = "-A -t 192.0.2.10:80 -s rr\n";
    expect(lab, "ipvsadm -A -t 192.0.2.10:80 -s rr; chmod 666 /mnt/weir/weir.sock", 0, "", "")?;
    expect(lab, &format!("{READER} ipvsadm -S -n"), 0, rule, "")?;
    expect(lab, &format!("{READER} ipvsadm -C"), 255, "", "Permission denied (you must be root)\n")?;
    expect(lab, "ipvsadm -S -n", 0, rule, "")
}

fn no_gateway(lab: &mut Lab) -> Result<(), String> {
    let message = "Can't initialize ipvs: No such file or directory (os error 2)\n\
                   Are you sure that weir is running and listening on /mnt/none?\n";
    for line in ["ipvsadm", "ipvsadm -h", "ipvsadm -Q", "ipvsadm-save", "weirctl --socket=/mnt/none -Ln"] {
        expect(lab, &format!("WEIR_SOCKET=/mnt/none {line}"), 2, "", message)?;
    }
    Ok(())
}

fn words(lab: &mut Lab) -> Result<(), String> {
    let wrong = |message: &str| format!("weirctl: {message}\nTry `weirctl --help'.\n");
    expect(lab, "weirctl", 2, "", &wrong("nothing to do"))?;
    let near = "error: unrecognized subcommand 'statos'\n\n  tip: some similar subcommands exist: 'status', 'stats'\n";
    expect(lab, "weirctl statos 2>&1 | head -3", 0, near, "")?;
    expect(lab, "weirctl --socket", 2, "", &wrong("--socket needs a path"))?;
    expect(lab, "weirctl --version", 0, concat!("weirctl ", env!("CARGO_PKG_VERSION"), "\n"), "")?;
    expect(lab, "weirctl --help | grep -c -e --fullnat -e --add-laddr", 0, "2\n", "")?;
    expect(lab, "weirctl --socket /mnt/weir/weir.sock -S", 0, "# end of 0 rules\n", "")?;
    expect(lab, "weirctl -L --nosuch", 255, "", "--nosuch: unknown option\n")
}

/// The folder of recordings; a relative one is relative to the repository's root.
fn golden() -> PathBuf {
    let named = std::env::var_os("WEIR_GOLDEN").filter(|name| !name.is_empty());
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(named.unwrap_or_else(|| "../shared/golden".into()))
}

fn trials() -> Result<Vec<Trial>, String> {
    let folder = golden();
    let unstable = Unstable::read(&folder)?;
    let mut trials = Vec::new();
    for kind in ["commands", "numfmt"] {
        for file in recording::files(&folder.join(kind))? {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let (folder, unstable) = (folder.clone(), unstable.clone());
            let run = move || Recording::read(&file)?.run(&folder, &unstable).map_err(Failed::from);
            trials.push(Trial::test(format!("golden_{kind}_{stem}"), run));
        }
    }
    if trials.is_empty() {
        return Err(format!("no recordings in {}", folder.display()));
    }
    trials.extend([
        Trial::test("readers_may_look_but_not_change", in_lab(readers)),
        Trial::test("without_a_gateway_every_call_exits_2", in_lab(no_gateway)),
        Trial::test("weirctl_has_words_and_options", in_lab(words)),
    ]);
    Ok(trials)
}
