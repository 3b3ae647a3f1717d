//! The JSON documents that `weirctl --json` prints; `docs/json.md` describes them, `docs/json.schema.json` is
//! their JSON Schema, which the feature `schema` generates.
//!
//! A document is a [`Document`]: its version, the command that it answers, and that command's fields. They are
//! made of the [model](crate::model)'s data with `From`. Numbers are whole; keys that end in `_ms` are
//! milliseconds; what does not apply is `null`.

pub mod change;
pub mod configuration;
pub mod doctor;
pub mod events;
pub mod explain;
pub mod log;
pub mod parts;
pub mod rules;
pub mod sessions;
pub mod stats;
pub mod status;
pub mod trace;

use serde::{Deserialize, Serialize};

/// Version of the documents: it grows when a key changes its meaning or goes; new keys may come any time.
pub const VERSION: u32 = 1;

/// A document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Document {
    /// Version of the documents: 1.
    pub version: u32,
    /// What it says.
    #[serde(flatten)]
    pub body: Body,
}

/// What a document says, by the command that it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Body {
    /// How the gateway is.
    Status(status::Status),
    /// Whether the gateway forwards.
    Ready(status::Ready),
    /// What keeps the gateway from forwarding, or from its speed.
    Doctor(doctor::Doctor),
    /// What was counted.
    Stats(stats::Statistics),
    /// Sessions, or how many.
    Sessions(sessions::Sessions),
    /// What has happened.
    Events(events::Events),
    /// A record of a log.
    Log(log::Log),
    /// One look at what `top` shows.
    Top(stats::Top),
    /// What was changed.
    Apply(change::Applied),
    /// What would be changed.
    Diff(change::Difference),
    /// The configuration.
    Export(configuration::Export),
    /// What was saved.
    Save(change::Saved),
    /// How far a server's draining is.
    Drain(change::Drain),
    /// A server that gets sessions again.
    Undrain(change::Undrain),
    /// What would happen to a packet.
    Explain(Box<explain::Explanation>),
    /// A packet that was followed.
    Trace(trace::TracedPacket),
    /// A script or page.
    Completion(change::Completion),
    /// Mark rules, or that they were changed.
    Mark(rules::Marks),
    /// How servers learn the client's address, or that it was changed.
    ClientAddress(rules::ClientAddresses),
    /// What `-m` means, or that it was changed.
    Masquerade(rules::Masquerades),
    /// Local addresses, or that they were changed.
    LocalAddress(rules::LocalAddresses),
    /// SNAT rules, or that they were changed.
    Snat(rules::Snat),
}

impl From<Body> for Document {
    fn from(body: Body) -> Self {
        Self { version: VERSION, body }
    }
}

/// The JSON Schema of [`Document`], draft 2020-12, for those that are written: keys that are always there are required,
/// and others may come any time.
#[cfg(feature = "schema")]
#[must_use]
pub fn schema() -> schemars::Schema {
    let open = |schema: &mut schemars::Schema| _ = schema.remove("additionalProperties");
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    settings
        .with_transform(schemars::transform::RecursiveTransform(open))
        .into_generator()
        .into_root_schema_for::<Document>()
}
