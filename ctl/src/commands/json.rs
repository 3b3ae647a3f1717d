//! `--json`: a [document](weir_api::documents) on a line of its own.

use std::io::{self, Write};

use weir_api::documents::{Body, Document};

/// Writes one document.
///
/// # Errors
/// What writing fails with.
pub fn write(out: &mut dyn Write, body: Body) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Document::from(body))?;
    writeln!(out)?;
    out.flush()
}
