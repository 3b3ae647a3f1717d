//! `save`: everything that is configured, as rules for `-R` and for `rules` in weir.toml.
//!
//! A file is replaced as a whole or stays as it was: the rules go to a new file beside it, which takes its place once
//! they are on the disk. A device or a named pipe is written to.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use weir_api::{
    documents::{Body, change::Saved},
    ipvsadm::names::SystemNames,
    rules,
};

use super::{Failure, World, cli::SaveArgs, json};
use crate::ipvsadm::{Environment, ipvsadm};

/// Mode of a file that is new: rules name addresses, not secrets.
const MODE: u32 = 0o644;

pub(super) fn run(args: &SaveArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let rules = rules(world)?;
    let count = rules::count(&rules);
    let Some(file) = args.file.as_deref().filter(|file| *file != Path::new("-")) else {
        world.out.write_all(rules.as_bytes())?;
        return Ok(());
    };
    let failed = |error: io::Error| Failure::Refused(format!("cannot save to {}: {error}", file.display()));
    if count == 0 && !args.force && holds_rules(file).map_err(failed)? {
        return Err(Failure::Refused(format!(
            "the gateway has no rules but {} has some: nothing was saved (--force saves anyway)",
            file.display()
        )));
    }
    put(file, rules.as_bytes()).map_err(failed)?;
    if args.json {
        json::write(world.out, Body::Save(Saved { file: file.display().to_string(), rules: count }))?;
    }
    Ok(())
}

/// What `weirctl -S -n` prints.
fn rules(world: &mut World<'_>) -> Result<String, Failure> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let line: [OsString; 3] = ["weirctl", "-S", "-n"].map(Into::into);
    let environment = Environment { names: &SystemNames, own: true };
    let status = ipvsadm(&line, &mut io::empty(), world.transport, &mut out, &mut err, &environment);
    if status != 0 {
        return Err(Failure::Unreachable(String::from_utf8_lossy(&err).trim_end().into()));
    }
    String::from_utf8(out).map_err(|e| Failure::Refused(e.to_string()))
}

/// Whether there is a file with at least one rule. What isn't a regular file holds none.
fn holds_rules(file: &Path) -> io::Result<bool> {
    match fs::metadata(file) {
        Ok(there) if there.is_file() => Ok(rules::count(&String::from_utf8_lossy(&fs::read(file)?)) > 0),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes `text` to `file`, which a symbolic link may lead to: as a whole if it is a regular file or none yet. A device, a
/// named pipe or the like is written to, and stays what it is.
fn put(file: &Path, text: &[u8]) -> io::Result<()> {
    match fs::metadata(file) {
        Ok(there) if !there.is_file() => File::options().write(true).open(file)?.write_all(text),
        Ok(there) => replace(&fs::canonicalize(file)?, Some(&there), text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => replace(&led_to(file)?, None, text),
        Err(error) => Err(error),
    }
}

/// Where the symbolic links at `file` lead, to a file that isn't there.
fn led_to(file: &Path) -> io::Result<PathBuf> {
    let mut file = file.to_owned();
    // The kernel has told loops already.
    while fs::symlink_metadata(&file).is_ok_and(|there| there.is_symlink()) {
        file = folder_of(&file).join(fs::read_link(&file)?);
    }
    Ok(file)
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes `text` to a new file on the same filesystem, has it reach the disk, and renames it to `file`. Its mode and, as far as
/// that is allowed, its owner stay those of the file that was `there`.
fn replace(file: &Path, there: Option<&Metadata>, text: &[u8]) -> io::Result<()> {
    let folder = folder_of(file);
    let name = file.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let new = folder.join(hidden);
    written(&new, there, text).and_then(|()| fs::rename(&new, file)).inspect_err(|_| {
        // The first error is reported; a file that was never created can't be removed.
        let _ = fs::remove_file(&new);
    })?;
    // The new name is on the disk, too, only once the folder is.
    File::open(folder)?.sync_all()
}

fn written(new: &Path, there: Option<&Metadata>, text: &[u8]) -> io::Result<()> {
    // A process of this number may have left one; nothing is written through a link that somebody put there.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = there.map_or(MODE, |there| there.permissions().mode() & 0o7777);
    let mut file = File::options().write(true).create_new(true).mode(mode).open(new)?;
    if let Some(there) = there {
        // Only root may give files away; who else may replace this one has it from then on.
        let _ = fchown(&file, Some(there.uid()), Some(there.gid()));
        // A umask doesn't take bits from a file that is replaced.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("weirctl-save-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode_and_links() {
        let folder = folder("replace");
        let (file, link) = (folder.join("rules.save"), folder.join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        put(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing is left behind");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_can_t_be_replaced_stays() {
        let folder = folder("stays");
        let file = folder.join("rules.save");
        fs::create_dir(&file).unwrap();
        assert!(put(&file, b"new").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left behind");
        assert!(put(&folder.join("nowhere/rules.save"), b"new").is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_link_to_a_file_that_isn_t_there_makes_it() {
        let folder = folder("dangling");
        let (file, link, second) = (folder.join("rules.save"), folder.join("link"), folder.join("second"));
        std::os::unix::fs::symlink("rules.save", &link).unwrap();
        std::os::unix::fs::symlink(&link, &second).unwrap();
        put(&second, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let (a, b) = (folder.join("a"), folder.join("b"));
        std::os::unix::fs::symlink(&a, &b).unwrap();
        std::os::unix::fs::symlink(&b, &a).unwrap();
        assert!(put(&a, b"new").is_err(), "links that lead nowhere");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 5, "nothing is left behind");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_isn_t_a_regular_file_is_written_to_and_stays() {
        let folder = folder("special");
        let pipe = folder.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(!holds_rules(&pipe).unwrap(), "nobody waits for rules from a pipe");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        put(&pipe, b"new").unwrap();
        assert_eq!(reader.join().unwrap(), b"new");
        assert!(!fs::metadata(&pipe).unwrap().is_file());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left behind");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn nothing_is_written_through_a_link_in_the_new_file_s_place() {
        let folder = folder("trap");
        let (file, victim) = (folder.join("rules.save"), folder.join("victim"));
        fs::write(&victim, "mine").unwrap();
        let trap = folder.join(format!(".rules.save.{}", std::process::id()));
        std::os::unix::fs::symlink(&victim, trap).unwrap();
        put(&file, b"new").unwrap();
        assert_eq!(
            (fs::read(&file).unwrap(), fs::read(&victim).unwrap()),
            (b"new".to_vec(), b"mine".to_vec())
        );
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_holds_rules_or_not() {
        let folder = folder("holds");
        let file = folder.join("rules.save");
        assert!(!holds_rules(&file).unwrap());
        for (text, holds) in [("", false), ("# 0 rules\n\n", false), ("-A -t 192.0.2.10:80\n", true)] {
            fs::write(&file, text).unwrap();
            assert_eq!(holds_rules(&file).unwrap(), holds, "{text}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
