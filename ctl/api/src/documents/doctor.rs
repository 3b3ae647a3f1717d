//! The document of `weirctl doctor`.

use serde::{Deserialize, Serialize};

/// What was found, problems first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Doctor {
    /// The findings; none if all is well.
    pub findings: Vec<Finding>,
}

/// Something that keeps the gateway from forwarding, or from its speed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, in one word.
    pub topic: String,
    /// What was found.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What mends it: commands, where commands do.
    pub fix: Option<String>,
}

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Packets aren't forwarded, or the gateway doesn't start.
    Problem,
    /// It works, but slower or with less headroom than it could.
    Advice,
}
