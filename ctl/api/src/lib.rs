//! What the gateway and its clients share: the [`model`] of what is configured and told, the control [`protocol`]
//! that carries it over a Unix socket, the [`client`]'s side of that, the JSON [`documents`] that `weirctl --json`
//! prints, and configuration as text: [`rules`] in words and lines of [`ipvsadm`]'s, as rules files hold them.
#![forbid(unsafe_code)]

pub mod client;
pub mod documents;
pub mod ipvsadm;
pub mod model;
pub mod protocol;
pub mod rules;
