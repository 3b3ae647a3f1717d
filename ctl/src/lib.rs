//! `weirctl`, the operator's tool, over [`weir_api`]: its own [`commands`], and the program [`ipvsadm`](mod@ipvsadm).
#![forbid(unsafe_code)]

pub mod commands;
pub mod ipvsadm;
pub mod permission;
pub mod program;
