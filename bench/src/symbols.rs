//! From an instruction's address to the stage of the path it belongs to.
//!
//! The packet path is one file a stage and nearly all of it is inlined into one function, so functions say
//! little. Debug information still has the chain of inlined calls for every address: the innermost frame that
//! lies in the workspace's own sources names the stage; what the standard library or a dependency does there
//! is done on the stage's behalf.

use std::{collections::HashMap, path::Path};

use addr2line::Loader;

use crate::error::{Error, Result};

/// Debug information of one program.
pub struct Symbols {
    loader: Loader,
    lines: bool,
    known: HashMap<u64, String>,
}

impl Symbols {
    /// Of the program at `path`; with `lines`, stages are told apart by line.
    pub fn open(path: &Path, lines: bool) -> Result<Self> {
        let loader = Loader::new(path)
            .map_err(|e| Error::Unexpected(format!("{}: no debug information: {e}", path.display())))?;
        Ok(Self { loader, lines, known: HashMap::new() })
    }

    /// The stage of the instruction at `address` (as the program's file has it): a source file of the
    /// workspace such as `path/session.rs`, else the function's name.
    pub fn stage(&mut self, address: u64) -> &str {
        let Self { loader, lines, known } = self;
        known
            .entry(address)
            .or_insert_with(|| find(loader, address, *lines).unwrap_or_else(|| "(unknown)".to_owned()))
    }
}

fn find(loader: &Loader, address: u64, lines: bool) -> Option<String> {
    let mut frames = loader.find_frames(address).ok()?;
    let mut outermost = None;
    while let Ok(Some(frame)) = frames.next() {
        let location = frame.location.as_ref();
        if let Some(stage) = location.and_then(|l| l.file).and_then(own_source) {
            let line = location.and_then(|l| l.line).filter(|_| lines);
            return Some(line.map_or(stage.to_owned(), |line| format!("{stage}:{line}")));
        }
        outermost = frame.function.and_then(|f| f.demangle().ok().map(|name| name.into_owned()));
    }
    outermost.or_else(|| loader.find_symbol(address).map(str::to_owned))
}

/// The part of a path that tells the workspace's sources apart; none for other sources.
fn own_source(file: &str) -> Option<&str> {
    if file.contains("/.cargo/") || file.contains("/rustc/") || file.contains("/rustlib/") {
        return None;
    }
    if let Some((_, inside)) = file.rsplit_once("gateway/src/") {
        return Some(inside);
    }
    let room = ["ffi/", "bench/", "ctl/"].iter().find_map(|room| file.rfind(room))?;
    Some(&file[room..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_the_workspace_are_named_by_room() {
        assert_eq!(own_source("/src/weir/gateway/src/path/tx.rs"), Some("path/tx.rs"));
        assert_eq!(own_source("ffi/dpdk/src/queue.rs"), Some("ffi/dpdk/src/queue.rs"));
        assert_eq!(own_source("/src/wt-bench/bench/src/table.rs"), Some("bench/src/table.rs"));
        assert_eq!(own_source("/root/.cargo/registry/src/x/arrayvec-0.7/src/lib.rs"), None);
        assert_eq!(own_source("/rustc/abc/library/core/src/ptr.rs"), None);
    }
}
