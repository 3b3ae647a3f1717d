//! `weirctl sessions`.

use serde::{Deserialize, Serialize};

use super::parts::Session;

/// Sessions, or how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Sessions {
    /// The sessions themselves. Long lists are written as they come, see `weirctl`.
    List {
        /// At most as many as were asked for.
        sessions: Vec<Session>,
        /// How many these are.
        count: u64,
        /// How many there are.
        total: u64,
    },
    /// With `--count`.
    Count {
        /// How many there are.
        count: u64,
        /// By what was asked for, the largest first.
        groups: Vec<Group>,
    },
    /// With `--kill`.
    Killed {
        /// How many were ended.
        killed: u64,
    },
}

/// Sessions that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Group {
    /// What that is.
    pub name: String,
    /// How many.
    pub count: u64,
}
