//! What a recording is: the JSON of the golden folder.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub struct Recording {
    pub name: String,
    pub desc: String,
    pub sysctl: HashMap<String, Value>,
    pub events: Vec<Event>,
}

#[derive(Clone, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Event {
    Cmd { cmd: String, status: i32, stdout: String, stderr: String },
    Open(Start),
    Syn(Start),
    Udp(Start),
    Close { conn: Value, how: String, after: Option<Counts> },
    Packet(Step),
    Sctp(SctpStep),
    Conns { lines: Vec<String>, header: Option<String> },
    Sleep { seconds: f64 },
    Snapshot { servers: Counts },
    Matrix(Matrix),
    Rate { t: f64, lines: Vec<String> },
}

/// A connection is begun.
#[derive(Clone, Deserialize)]
pub struct Start {
    pub conn: Value,
    pub client: String,
    pub vip: String,
    pub server: Option<String>,
    pub after: Counts,
}

/// One packet.
#[derive(Clone, Deserialize)]
pub struct Step {
    pub conn: Value,
    pub dir: String,
    pub flags: String,
    pub ip_len: usize,
    pub payload: usize,
    pub to_server: Vec<Seen>,
    pub to_client: Vec<Seen>,
    pub state: Option<String>,
    pub expire: Option<String>,
    pub after: Counts,
}

/// One packet of SCTP.
#[derive(Clone, Deserialize)]
pub struct SctpStep {
    pub conn: Value,
    pub dir: String,
    pub chunk: String,
    pub ip_len: usize,
    pub to_server: Vec<Seen>,
    pub to_client: Vec<Seen>,
    pub state: Option<String>,
    pub expire: Option<String>,
    pub after: Counts,
}

/// A protocol: by name where the recorder knew one, else by number.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Proto {
    Name(String),
    Number(u8),
}

impl Proto {
    pub fn is(&self, name: &str) -> bool {
        matches!(self, Self::Name(n) if n == name)
    }
}

/// A packet that left.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Seen {
    pub len: usize,
    pub proto: Proto,
    pub src: String,
    pub dst: String,
    pub flags: Option<String>,
    pub seq: Option<u32>,
    pub ack: Option<u32>,
    #[serde(rename = "type")]
    pub kind: Option<u8>,
    pub code: Option<u8>,
    /// Type of the first chunk.
    pub chunk: Option<u8>,
}

#[derive(Clone, Deserialize)]
pub struct Matrix {
    pub path: Vec<String>,
    pub dir: String,
    pub flags: String,
    pub state: Option<String>,
    pub expire: Option<String>,
    pub to_server: Vec<String>,
    pub to_client: Vec<String>,
}

/// Servers with [weight, active, inactive]; by service where there are several.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Counts {
    Flat(HashMap<String, [i64; 3]>),
    ByService(HashMap<String, HashMap<String, [i64; 3]>>),
}

impl Counts {
    pub fn flat(&self) -> HashMap<String, [i64; 3]> {
        match self {
            Self::Flat(m) => m.clone(),
            Self::ByService(m) => {
                m.iter().flat_map(|(s, m)| m.iter().map(move |(k, v)| (format!("{s} {k}"), *v))).collect()
            }
        }
    }
    pub fn by_service(&self) -> bool {
        matches!(self, Self::ByService(_))
    }
}
