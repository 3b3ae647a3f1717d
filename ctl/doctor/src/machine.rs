//! What the kernel says of the machine, in files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A machine, by its `/sys` and `/proc`.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    /// This one.
    fn default() -> Self {
        Self::at("/")
    }
}

impl Machine {
    /// One whose `/sys` and `/proc` are below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a file of the machine is.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A file's text without white space at its ends.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    pub(crate) fn number(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    /// Names in a folder, sorted.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let names: BTreeSet<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.into_iter().collect()
    }

    /// The last component of what a symbolic link leads to.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        target.file_name().map(|name| name.to_string_lossy().into_owned())
    }

    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.root.join(path).exists()
    }

    /// CPUs in a file of the kernel's list format.
    pub(crate) fn cpus(&self, path: &str) -> BTreeSet<u16> {
        cpu_list(&self.text(path).unwrap_or_default())
    }
}

/// CPUs in the kernel's list format: `0-3,8,10-11`.
#[must_use]
pub fn cpu_list(text: &str) -> BTreeSet<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine made of these files; a value that begins with `->` is a symbolic link.
    pub(crate) struct Made(PathBuf);

    impl Made {
        pub(crate) fn of(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("weir-doctor-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                match text.strip_prefix("->") {
                    Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                    None => fs::write(path, text).unwrap(),
                }
            }
            Self(root)
        }

        pub(crate) fn machine(&self) -> Machine {
            Machine::at(&self.0)
        }
    }

    impl Drop for Made {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(cpu_list("0-3,8,10-11\n").into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 8, 10, 11]);
        assert!(cpu_list("").is_empty());
    }

    #[test]
    fn links_lead_to_names() {
        let made = Made::of("link", &[("sys/driver", "->../../drivers/vfio-pci"), ("sys/n", " 3\n")]);
        assert_eq!(made.machine().link("sys/driver").as_deref(), Some("vfio-pci"));
        assert_eq!(made.machine().number("sys/n"), Some(3));
        assert_eq!(made.machine().names("sys"), ["driver", "n"]);
    }
}
