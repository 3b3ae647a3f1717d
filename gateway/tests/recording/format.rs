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
    Rate { t: Option<f64>, lines: Vec<String> },
    Stats { t: Option<f64>, lines: Vec<String> },
}

/// A connection is begun.
#[derive(Clone, Deserialize)]
pub struct Start {
    pub conn: Value,
    pub client: String,
    pub vip: String,
    pub server: Option<String>,
    /// What the client got instead.
    pub refused: Option<String>,
    pub after: Option<Counts>,
}

/// One packet.
#[derive(Clone, Deserialize)]
pub struct Step {
    pub conn: Value,
    pub client: Option<String>,
    pub vip: Option<String>,
    pub dir: String,
    pub flags: String,
    pub ip_len: usize,
    pub payload: usize,
    pub to_server: Vec<Seen>,
    pub to_client: Vec<Seen>,
    pub state: Option<String>,
    pub expire: Option<String>,
    pub after: Option<Counts>,
}

/// One packet of SCTP.
#[derive(Clone, Deserialize)]
pub struct SctpStep {
    pub conn: Value,
    pub client: Option<String>,
    pub vip: Option<String>,
    pub dir: String,
    pub chunk: String,
    pub ip_len: usize,
    pub to_server: Vec<Seen>,
    pub to_client: Vec<Seen>,
    pub state: Option<String>,
    pub expire: Option<String>,
    pub after: Option<Counts>,
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

impl Default for Proto {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// A packet that left.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
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
    pub ttl: Option<u8>,
    pub tos: Option<u8>,
    /// The packet in a tunnel's.
    pub inner: Option<Box<Seen>>,
    #[serde(skip)]
    pub payload: Vec<u8>,
}

#[derive(Clone, Deserialize)]
pub struct Matrix {
    /// State and timer before the packet.
    pub start: Option<String>,
    pub start_expire: Option<String>,
    pub path: Vec<String>,
    pub dir: String,
    pub flags: String,
    pub state: Option<String>,
    pub expire: Option<String>,
    pub to_server: Option<Vec<String>>,
    pub to_client: Option<Vec<String>>,
}

/// A server with its weight, active and inactive connections.
pub type ServerCounts = (String, [i64; 3]);

/// Servers in the order of the listing; by service where there are several.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts(pub Vec<(Option<String>, Vec<ServerCounts>)>);

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

/// What stands behind a name: a server's counts, or a service's servers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Behind {
    Counts([i64; 3]),
    Servers(Servers),
}

/// Servers in their order.
struct Servers(Vec<ServerCounts>);

impl<'de> Deserialize<'de> for Servers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Counts(all) = Counts::deserialize(deserializer)?;
        match <[_; 1]>::try_from(all) {
            Ok([(None, servers)]) => Ok(Self(servers)),
            _ => Err(serde::de::Error::custom("services within a service")),
        }
    }
}

impl<'de> serde::de::Visitor<'de> for InOrder {
    type Value = Counts;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("servers, or services with servers")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Counts, A::Error> {
        let (mut servers, mut services) = (Vec::new(), Vec::new());
        while let Some((name, behind)) = map.next_entry::<String, Behind>()? {
            match behind {
                Behind::Counts(counts) => servers.push((name, counts)),
                Behind::Servers(Servers(servers)) => services.push((Some(name), servers)),
            }
        }
        match (servers.is_empty(), services.is_empty()) {
            (false, false) => Err(serde::de::Error::custom("servers beside services")),
            (_, true) => Ok(Counts(vec![(None, servers)])),
            _ => Ok(Counts(services)),
        }
    }
}

impl Counts {
    pub fn by_service(&self) -> bool {
        self.0.iter().any(|(service, _)| service.is_some())
    }

    /// By service, whose order is that of a hash table in the kernel.
    pub fn sorted(mut self) -> Self {
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
        self
    }

    pub fn server(&mut self, name: &str) -> Option<&mut [i64; 3]> {
        let mut all = self.0.iter_mut().flat_map(|(_, servers)| servers);
        all.find(|(server, _)| server == name).map(|(_, counts)| counts)
    }
}
