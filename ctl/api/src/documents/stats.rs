//! `weirctl stats` and `weirctl top`.

use serde::{Deserialize, Deserializer, Serialize};

use super::parts::Service;
use crate::model::PathCounter;

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Statistics {
    /// When: since 1970. With `--watch` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// Since the document before, `null` in the first. With `--watch` only.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub interval_ms: Option<Option<u64>>,
    /// How packets ended, and what else happened to packets.
    pub counters: Vec<Counter>,
    /// Why packets were dropped.
    pub drops: Vec<Counter>,
    /// The services.
    pub services: Vec<Service>,
}

/// A counter of the packet path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Counter {
    /// Its name, which stays.
    pub name: String,
    /// Over all workers.
    pub total: u64,
    /// Each worker's count.
    pub workers: Vec<u64>,
    /// Of a reason to drop packets: what it means and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// A second, over the interval; `null` in the first document. With `--watch` only.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub rate: Option<Option<u64>>,
}

/// What `top` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Top {
    /// Generation of the configuration.
    pub generation: u64,
    /// Sessions of all workers.
    pub sessions: u64,
    /// The services in the screen's order.
    pub services: Vec<Service>,
}

/// A key that is there, be it `null`.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl From<&PathCounter> for Counter {
    fn from(counter: &PathCounter) -> Self {
        Self {
            name: counter.name.clone(),
            total: counter.workers.iter().sum(),
            workers: counter.workers.clone(),
            advice: counter.advice.clone(),
            rate: None,
        }
    }
}
