//! EAL's worker threads, used like threads of the standard library.
//!
//! Workers run on them instead of on their own threads because of the mempools' per-lcore caches.

use std::{
    ffi::{c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use crate::{
    eal::Shared,
    error::{Error, meaning},
};

/// An idle worker lcore.
pub struct Lcore {
    id: u32,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Lcore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lcore").field(&self.id).finish()
    }
}

/// All worker lcores; must be called only once.
pub(crate) fn workers(shared: &Arc<Shared>) -> Vec<Lcore> {
    let mut found = Vec::new();
    let mut id = u32::MAX;
    loop {
        // SAFETY: reads EAL's lcore table, which doesn't change after initialisation.
        id = unsafe { dpdk_sys::rte_get_next_lcore(id, 1, 0) };
        if id >= dpdk_sys::RTE_MAX_LCORE {
            return found;
        }
        found.push(Lcore { id, shared: Arc::clone(shared) });
    }
}

/// Holds the closure's result for [`Running::join`]. EAL's own way of waiting spins.
type Slot<T> = Arc<(Mutex<Option<thread::Result<T>>>, Condvar)>;

/// The closure on its way to the lcore.
struct Job<F, T> {
    run: F,
    slot: Slot<T>,
}

impl Lcore {
    /// EAL's number of the lcore.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The NUMA node of the lcore, if it has one.
    #[must_use]
    pub fn socket(&self) -> Option<u32> {
        // SAFETY: reads EAL's lcore table, which doesn't change after initialisation.
        let socket = unsafe { dpdk_sys::rte_lcore_to_socket_id(self.id) };
        (socket != u32::MAX).then_some(socket)
    }

    /// Runs `f` on the lcore. A panic in it is caught and returned by [`Running::join`].
    ///
    /// # Errors
    /// EAL can't wake the lcore.
    pub fn launch<F, T>(self, f: F) -> Result<Running<T>, Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let slot = Slot::<T>::default();
        let job = Box::into_raw(Box::new(Job { run: f, slot: Arc::clone(&slot) }));
        // SAFETY: `trampoline` is of the job's type and takes it over. The lcore is idle: there is one handle of
        // each, and this consumes it.
        let result =
            unsafe { dpdk_sys::rte_eal_remote_launch(Some(trampoline::<F, T>), job.cast(), self.id) };
        if result != 0 {
            // SAFETY: the lcore didn't take the job, so it is still this function's alone.
            drop(unsafe { Box::from_raw(job) });
            return Err(Error::Launch { lcore: self.id, reason: meaning(result) });
        }
        Ok(Running { lcore: self, slot, joined: false })
    }
}

unsafe extern "C" fn trampoline<F: FnOnce() -> T, T>(job: *mut c_void) -> c_int {
    // SAFETY: `launch` passes a boxed job of this type and gives it up.
    let Job { run, slot } = *unsafe { Box::from_raw(job.cast::<Job<F, T>>()) };
    let result = catch_unwind(AssertUnwindSafe(run));
    *slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    slot.1.notify_all();
    0
}

/// A closure running on an lcore. Dropping it waits for the closure's end.
#[must_use = "dropping it waits for the closure's end"]
pub struct Running<T> {
    lcore: Lcore,
    slot: Slot<T>,
    joined: bool,
}

impl<T> Running<T> {
    /// Whether the closure has returned.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.slot.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Waits until the closure has returned. Returns its result, or its panic, and the lcore.
    pub fn join(mut self) -> (thread::Result<T>, Lcore) {
        self.wait();
        self.joined = true;
        let result = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let lcore = Lcore { id: self.lcore.id, shared: Arc::clone(&self.lcore.shared) };
        (result.unwrap_or_else(|| Err(Box::new("the result was taken before"))), lcore)
    }

    fn wait(&self) {
        let mut result = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        while result.is_none() {
            result = self.slot.1.wait(result).unwrap_or_else(PoisonError::into_inner);
        }
        drop(result);
        // SAFETY: the closure has returned, so this only waits for the last few instructions on the lcore, which can
        // then be launched on again.
        unsafe { dpdk_sys::rte_eal_wait_lcore(self.lcore.id) };
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if !self.joined {
            self.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::testing;

    #[test]
    fn closures_run_on_other_threads_and_return() {
        let mut eal = testing::eal(3);
        let here = thread::current().id();
        let lcores = eal.take_lcores();
        assert_eq!(lcores.iter().map(Lcore::id).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(eal.take_lcores().is_empty());
        let running: Vec<_> = lcores
            .into_iter()
            .map(|l| {
                let id = l.id();
                l.launch(move || (id * 2, thread::current().id())).unwrap()
            })
            .collect();
        for (r, expected) in running.into_iter().zip([2, 4, 6]) {
            let (result, lcore) = r.join();
            let (value, thread) = result.unwrap();
            assert_eq!(value, expected);
            assert_ne!(thread, here);
            // The lcore is free again.
            assert_eq!(lcore.launch(|| 5).unwrap().join().0.unwrap(), 5);
        }
        eal.shutdown().unwrap();
    }

    #[test]
    fn a_panic_stays_inside() {
        let mut eal = testing::eal(1);
        let lcore = eal.take_lcores().remove(0);
        let (result, lcore) = lcore.launch(|| assert_eq!(1, 2, "as it should")).unwrap().join();
        assert!(result.is_err());
        assert_eq!(lcore.launch(|| 1).unwrap().join().0.unwrap(), 1);
    }

    #[test]
    fn dropping_waits() {
        static DONE: AtomicBool = AtomicBool::new(false);
        let mut eal = testing::eal(1);
        let running = eal
            .take_lcores()
            .remove(0)
            .launch(|| {
                thread::sleep(std::time::Duration::from_millis(50));
                DONE.store(true, Ordering::SeqCst);
            })
            .unwrap();
        assert!(!running.is_finished());
        drop(running);
        assert!(DONE.load(Ordering::SeqCst));
    }
}
