//! `weirctl`, the operator's tool: the program ipvsadm and weirctl's own commands, over [`weir_api`].
#![forbid(unsafe_code)]

pub mod ipvsadm;
pub mod modern;
pub mod permission;
pub mod program;
