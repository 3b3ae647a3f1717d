//! The program ipvsadm 1.31, byte for byte, in front of a weir gateway: it carries out what a line asks for
//! ([`weir_api::ipvsadm`]) and prints as the original does.
//!
//! It ends in one of two ways, as the original does: errors of its own end the process, also in the middle
//! of `-R`; errors of the option parser or the gateway only end the line.

mod connections;
mod foreign;
mod help;
mod list;
mod masquerade;
mod messages;
mod print;
mod run;
mod save;
mod scripts;
mod sort;

pub use help::EXTENSIONS;
pub use messages::unreachable;
pub use run::{Environment, ipvsadm};
pub use scripts::{ipvsadm_restore, ipvsadm_save};
