//! What a command changed, or would change.

use serde::{Deserialize, Serialize};

/// `weirctl apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Applied {
    /// Whether anything was changed.
    pub changed: bool,
    /// Generation of the configuration afterwards.
    pub generation: u64,
    /// What was changed.
    pub changes: Vec<Change>,
}

/// `weirctl diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Difference {
    /// Whether there is any.
    pub different: bool,
    /// Generation of the configuration.
    pub generation: u64,
    /// What `apply` would change.
    pub changes: Vec<Change>,
}

/// A line of a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// What happens.
    pub kind: ChangeKind,
    /// Name of the service, or what else it is about.
    pub service: String,
    /// Server or local address; `null` if it is about the service itself.
    pub part: Option<String>,
    /// For people.
    pub text: String,
}

/// What happens to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It comes.
    Add,
    /// It changes.
    Change,
    /// It goes.
    Remove,
    /// It stays, something in it changes.
    Context,
}

/// A configuration that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Changed {
    /// Its generation.
    pub generation: u64,
}

/// `weirctl save FILE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Saved {
    /// The file.
    pub file: String,
    /// How many rules it holds.
    pub rules: usize,
}

/// `weirctl drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Drain {
    /// Name of the service.
    pub service: String,
    /// `ADDRESS:PORT`
    pub server: String,
    /// How far it is.
    pub state: DrainState,
    /// Sessions that may carry data.
    pub sessions: u64,
    /// Sessions that only wait to expire.
    pub closing: u64,
    /// Persistence templates.
    pub templates: u64,
    /// What was waited for at the start.
    pub sessions_at_start: u64,
    /// Sessions that were ended.
    pub killed: u64,
    /// Templates that were ended.
    pub templates_ended: u64,
    /// Since the start.
    pub elapsed_ms: u64,
    /// Until none is left, if it goes on like this; `null` if that can't be told.
    pub eta_ms: Option<u64>,
}

/// How far a server's draining is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DrainState {
    /// Sessions are left.
    Draining,
    /// None is left.
    Drained,
    /// The time is up.
    Timeout,
    /// Somebody interrupted it.
    Interrupted,
}

/// `weirctl undrain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Undrain {
    /// Name of the service.
    pub service: String,
    /// `ADDRESS:PORT`
    pub server: String,
    /// The weight that it has again.
    pub weight: u32,
}

/// `weirctl completion`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Completion {
    /// The script or page.
    pub text: String,
}
