//! What can fail when DPDK is set up or controlled. Nothing on the packet path does.

use std::ffi::CStr;

/// An error of set-up or control.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// EAL can be initialised once in the life of a process.
    #[error("DPDK's environment was initialised before in this process")]
    AlreadyInitialised,
    /// An argument for EAL that can't be passed on, or that contradicts another.
    #[error("EAL argument {argument:?}: {reason}")]
    Argument {
        /// The argument.
        argument: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `rte_eal_init` failed.
    #[error("DPDK's environment doesn't start: {reason}")]
    Init {
        /// EAL's own words where it said something, else the meaning of its error number.
        reason: String,
    },
    /// EAL has fewer worker lcores than asked for.
    #[error("{wanted} worker lcores are needed, the EAL arguments provide {found}")]
    Lcores {
        /// Workers asked for.
        wanted: usize,
        /// Workers there are.
        found: usize,
    },
    /// The text isn't a device.
    #[error("device {device:?}: {reason}")]
    Device {
        /// As given.
        device: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The device, or the interface below it, is used by another port.
    #[error("device {device:?} is used twice: {by:?} uses {what}")]
    Duplicate {
        /// As given.
        device: String,
        /// The device that has it already, as given.
        by: String,
        /// What both use.
        what: String,
    },
    /// A step on a port failed.
    #[error("device {device:?}: {step}: {reason}")]
    Port {
        /// The device as given.
        device: String,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// No memory for a pool or ring.
    #[error("{what}: {reason}")]
    Memory {
        /// What was to be made.
        what: String,
        /// Why it failed.
        reason: String,
    },
    /// A launch on an lcore failed.
    #[error("lcore {lcore}: {reason}")]
    Launch {
        /// The lcore.
        lcore: u32,
        /// Why it failed.
        reason: String,
    },
    /// Handles of ports, queues, rings or frames were still in use when EAL was to be given back.
    #[error("DPDK's memory wasn't given back: {0}")]
    StillInUse(String),
}

/// The meaning of an error number as DPDK's functions return it, negative or positive.
pub(crate) fn meaning(code: i32) -> String {
    // SAFETY: the function returns a NUL-terminated text, constant or of the calling thread's.
    let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(code.saturating_abs())) };
    text.to_string_lossy().into_owned()
}

/// The calling thread's `rte_errno`, for functions that return a null pointer.
pub(crate) fn last_code() -> i32 {
    // SAFETY: reads a thread-local variable.
    unsafe { dpdk_sys::shim_errno() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_numbers_have_texts_of_either_sign() {
        assert_eq!(meaning(-libc::ENODEV), "No such device");
        assert_eq!(meaning(libc::ENODEV), "No such device");
    }
}
