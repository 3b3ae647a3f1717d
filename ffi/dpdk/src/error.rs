//! The errors of setting up and controlling DPDK. Nothing on the packet path fails with them.

use std::ffi::CStr;

/// An error of set-up or control.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// EAL can only be initialised once in a process.
    #[error("DPDK's environment was initialised before in this process")]
    AlreadyInitialised,
    /// An argument for EAL that can't be passed on, or that contradicts another one.
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
        /// EAL's log if there is any, otherwise the meaning of its error number.
        reason: String,
    },
    /// EAL has fewer worker lcores than requested.
    #[error("{wanted} worker lcores are needed, the EAL arguments provide {found}")]
    Lcores {
        /// The number of workers requested.
        wanted: usize,
        /// The number of workers available.
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
    /// Another port uses the device, or the interface below it.
    #[error("device {device:?} is used twice: {by:?} uses {what}")]
    Duplicate {
        /// As given.
        device: String,
        /// The device that already uses it, as given.
        by: String,
        /// The common resource.
        what: String,
    },
    /// A step on a port failed.
    #[error("device {device:?}: {step}: {reason}")]
    Port {
        /// The device as given.
        device: String,
        /// The step.
        step: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// There is no memory for a pool or ring.
    #[error("{what}: {reason}")]
    Memory {
        /// The object to be created.
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
    /// Handles of ports, queues, rings or frames were still in use when EAL should have been given back.
    #[error("DPDK's memory wasn't given back: {0}")]
    StillInUse(String),
}

/// The meaning of an error number from DPDK's functions, negative or positive.
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
