//! Who imports whom, read from the sources: what the compiler doesn't ask for and a reader relies on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// What paths inside the crate begin with.
const INSIDE: [&str; 3] = ["crate::", "super::", "self::"];

/// Files of the crate by module, `path::explain::leave` for instance, and the modules that each imports.
struct Imports(BTreeMap<String, BTreeSet<String>>);

impl Imports {
    /// Of the files in a folder of the crate.
    fn of(folder: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut sources = BTreeMap::new();
        read(&root.join(folder), &[folder.to_owned()], &mut sources);
        let known: BTreeSet<&String> = sources.keys().collect();
        let module_of = |names: &[String]| {
            let mut prefixes = (1..=names.len()).rev().map(|n| names[..n].join("::"));
            prefixes.find(|module| known.contains(module))
        };
        let imports = sources.iter().map(|(module, source)| {
            let names = paths(source, &INSIDE).into_iter().filter_map(|path| absolute(module, &path));
            let of = names.filter_map(|names| module_of(&names)).filter(|other| other != module);
            (module.clone(), of.collect())
        });
        Self(imports.collect())
    }

    /// Modules that import each other in a circle by way of this one; `faces`, which all may import, don't count.
    fn circle(&self, from: &str, faces: &[&str]) -> Vec<String> {
        let reached = |from: &str| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
            while let Some(module) = next.pop() {
                for other in
                    self.0.get(&module).into_iter().flatten().filter(|other| !faces.contains(&other.as_str()))
                {
                    if seen.insert(other.clone()) {
                        next.push(other.clone());
                    }
                }
            }
            seen
        };
        let forth = reached(from);
        forth.iter().filter(|other| reached(other).contains(from)).cloned().collect()
    }
}

/// Reads the sources below a folder, tests and comments left out.
fn read(folder: &Path, names: &[String], sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = [names, std::slice::from_ref(&name)].concat();
        if path.is_dir() {
            read(&path, &inner, sources);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code = code.lines().map(|line| line.split("//").next().unwrap());
            let module = if name == "mod" { names.join("::") } else { inner.join("::") };
            sources.insert(module, code.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The paths that begin with one of these, braces opened.
fn paths(code: &str, starts: &[&str]) -> Vec<String> {
    let mut found = vec![];
    for start in starts {
        for (at, _) in code.match_indices(start) {
            let inside = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !inside {
                open(&code[at..], String::new(), &mut found);
            }
        }
    }
    found
}

/// Notes the path that `code` begins with behind `prefix`, or those of its braces; what follows it.
fn open<'a>(code: &'a str, prefix: String, found: &mut Vec<String>) -> &'a str {
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(code.len());
    let (path, mut rest) = code.split_at(end);
    let prefix = prefix + path;
    if !prefix.ends_with("::") || !rest.starts_with('{') {
        found.push(prefix);
        return rest;
    }
    while !rest.starts_with('}') {
        rest = open(rest[1..].trim_start(), prefix.clone(), found);
        let next = rest.find([',', '}']).unwrap();
        rest = &rest[next..];
        if rest[1..].trim_start().starts_with('}') && rest.starts_with(',') {
            rest = rest[1..].trim_start();
        }
    }
    &rest[1..]
}

/// A path from the crate's root, in its names.
fn absolute(module: &str, path: &str) -> Option<Vec<String>> {
    let mut base: Vec<&str> = module.split("::").collect();
    let mut names = path.split("::").peekable();
    match *names.peek()? {
        "crate" => {
            base.clear();
            names.next();
        }
        "self" => _ = names.next(),
        _ => {}
    }
    while names.next_if_eq(&"super").is_some() {
        base.pop();
    }
    Some(base.into_iter().chain(names).map(str::to_owned).collect())
}

/// The folders of a folder, itself among them: each one's `mod.rs` is a face, which all may import.
fn faces(folder: &str) -> Vec<String> {
    let mut faces = vec![folder.replace('/', "::")];
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = path.file_name().unwrap().to_str().unwrap();
            faces.extend(self::faces(&format!("{folder}/{name}")));
        }
    }
    faces
}

/// The sources below a folder of the path's, by module.
fn sources(room: &str) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    read(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/path").join(room),
        &[room.to_owned()],
        &mut sources,
    );
    assert!(!sources.is_empty(), "{room}");
    sources
}

/// Whether code has a word.
fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|other| other == word)
}

#[test]
fn no_stage_of_the_path_is_imported_in_a_circle() {
    const FACES: [&str; 5] = ["path", "path::ingress", "path::flow", "path::egress", "path::admin"];
    let imports = Imports::of("path");
    assert!(imports.0.len() > 60 && imports.0["path::flow::session"].contains("path::packet"));
    for module in imports.0.keys().filter(|module| !FACES.contains(&module.as_str())) {
        let circle = imports.circle(module, &FACES);
        assert!(circle.is_empty(), "{module} is in a circle with {circle:?}");
    }
}

#[test]
fn no_file_of_control_or_of_run_is_imported_in_a_circle() {
    for (folder, files) in [("control", 40), ("run", 15)] {
        let imports = Imports::of(folder);
        assert!(imports.0.len() >= files, "{folder}: {}", imports.0.len());
        let faces = faces(folder);
        let faces: Vec<&str> = faces.iter().map(String::as_str).collect();
        for module in imports.0.keys().filter(|module| !faces.contains(&module.as_str())) {
            let circle = imports.circle(module, &faces);
            assert!(circle.is_empty(), "{module} is in a circle with {circle:?}");
        }
    }
}

#[test]
fn what_workers_are_asked_has_one_name_in_both_rooms() {
    let asked = Imports::of("path/admin").0;
    let control = Imports::of("control/queries").0;
    let names = asked.keys().filter_map(|module| module.strip_prefix("path/admin::"));
    // `update` is the ring's; files of a folder belong to it.
    let names: Vec<&str> = names.filter(|name| *name != "update" && !name.contains("::")).collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        assert!(control.contains_key(&format!("control/queries::{name}")), "control/queries/{name}.rs");
    }
}

#[test]
fn what_decides_on_packets_cannot_send_them() {
    for (module, code) in sources("flow") {
        let code = code.replace("Origin::Worker", "");
        for word in ["Io", "Egress", "egress", "tx", "Worker"] {
            assert!(!has_word(&code, word), "path::{module} names {word}");
        }
    }
}

#[test]
fn what_sends_packets_changes_nothing_that_the_worker_knows() {
    for (module, code) in sources("egress") {
        assert!(!code.contains("&mut Flows") && !has_word(&code, "Worker"), "path::{module}");
    }
}

#[test]
fn what_reads_packets_neither_decides_nor_sends() {
    for (module, code) in sources("ingress") {
        for word in ["flow", "egress", "admin", "Worker"] {
            assert!(!has_word(&code, word), "path::{module} names {word}");
        }
    }
}

#[test]
fn the_data_plane_knows_the_apis_model_and_not_its_protocol() {
    for folder in ["path", "table", "sched", "net", "io"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut sources = BTreeMap::new();
        read(&root.join(folder), &[folder.to_owned()], &mut sources);
        assert!(!sources.is_empty(), "{folder}");
        for (module, source) in sources {
            let imports = paths(&source, &["weir_api::"]);
            let wrong = imports.iter().find(|path| !path.starts_with("weir_api::model"));
            assert_eq!(wrong, None, "{module} names more of the API than its model");
            let named = source.matches("weir_api").count();
            assert_eq!(named, source.matches("weir_api::").count(), "{module} names weir_api otherwise");
        }
    }
    assert_eq!(
        paths("use weir_api::{model::Family, protocol::Change};", &["weir_api::"]),
        ["weir_api::model::Family", "weir_api::protocol::Change"]
    );
}

#[test]
fn paths_are_found_however_they_are_written() {
    let code = "use super::{Worker, a::{self, B, c::D}, e::F,};\npub use crate::g::H;\nfn f(x: super::super::i::J) {}";
    let mut found = paths(code, &INSIDE);
    found.sort();
    let due = [
        "crate::g::H",
        "super::Worker",
        "super::a::B",
        "super::a::c::D",
        "super::a::self",
        "super::e::F",
        "super::super::i::J",
    ];
    assert_eq!(found, due);
    assert_eq!(
        absolute("path::explain::leave", "super::question::Leg").unwrap().join("::"),
        "path::explain::question::Leg"
    );
    assert_eq!(absolute("path::snat", "super::super::clock").unwrap().join("::"), "clock");
    assert_eq!(absolute("path::snat", "self::rules").unwrap().join("::"), "path::snat::rules");
}

/// The files that a document names: words that end like a source's name.
fn named_files(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_-./".contains(c)));
    words.filter(|word| word.ends_with(".rs") && !word.contains("NAME") && !word.contains("//"))
}

/// Notes the sources below a folder.
fn note_sources(folder: &Path, sources: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            note_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path.to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn documents_name_files_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = vec![];
    ["gateway", "ctl", "ffi", "bench"]
        .iter()
        .for_each(|folder| note_sources(&root.join(folder), &mut sources));
    for document in
        ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/packets.md", "docs/snat.md", "bench/README.md"]
    {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for file in named_files(&text) {
            let there = sources.iter().any(|source| source.ends_with(&format!("/{file}")));
            assert!(there, "{document} names {file}, which isn't there");
        }
    }
    let found: Vec<_> = named_files("see `a/b.rs`, c.rs; not NAME.rs, d.md or https://e.rs").collect();
    assert_eq!(found, ["a/b.rs", "c.rs"]);
}
