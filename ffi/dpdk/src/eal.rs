//! DPDK's environment: started once, with the memory that is available, and given back at the end.

use std::{
    collections::BTreeSet,
    ffi::{CString, c_char},
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    args::{self, Arguments},
    device,
    error::{Error, meaning},
    hugepages,
    lcore::{self, Lcore},
    log::{self, LogSink},
    mempool::PoolPointer,
    port::{self, Port},
    runtime::RuntimeDirectory,
};

/// Where workers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cpus {
    /// This many workers, each on any CPU the process may use: for machines shared with others.
    Floating(usize),
    /// This many workers, pinned to the CPUs the process may use, in round-robin order.
    Spread(usize),
    /// One worker on each of these CPUs; the rest of the process uses the others, if there are any.
    Pinned(Vec<usize>),
}

impl Cpus {
    /// Number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        match self {
            Self::Floating(n) | Self::Spread(n) => *n,
            Self::Pinned(cpus) => cpus.len(),
        }
    }
}

/// The configuration of EAL.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Name of the program, used as the prefix of files that EAL creates while it runs.
    pub name: String,
    /// Where the workers run.
    pub cpus: Cpus,
    /// The devices that will be attached. EAL may only touch the PCI addresses among them.
    pub devices: Vec<String>,
    /// Bytes of DPDK memory that will be needed; see [`crate::MempoolConfig::bytes`].
    pub memory: u64,
    /// Further arguments for EAL. They override what would be chosen here.
    pub args: Vec<String>,
    /// Receives DPDK's log lines and the output of C code; without it they go to stderr.
    pub log: Option<LogSink>,
}

/// The memory EAL runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages.
    Huge {
        /// Bytes of huge pages that were free at the start.
        free: u64,
    },
    /// Ordinary memory.
    Ordinary {
        /// Bytes reserved.
        bytes: u64,
        /// Why there are no huge pages.
        why: String,
    },
    /// The memory that the caller's EAL arguments request.
    AsArguments,
}

/// The state that all handles share and keep alive.
pub(crate) struct Shared {
    /// Pools, which live until EAL ends, because frames point at them.
    pub pools: Mutex<Vec<PoolPointer>>,
    /// Devices attached, as given, with their port numbers.
    attached: Mutex<Vec<(String, u16)>>,
}

/// DPDK's environment. It stays on the thread that started it, which is EAL's main lcore. When dropped as the last of
/// all handles, it gives everything back; see [`Eal::shutdown`] to learn whether that succeeded.
pub struct Eal {
    shared: Arc<Shared>,
    memory: Memory,
    lcores: Vec<Lcore>,
    arguments: Vec<String>,
    /// A directory that EAL created for this process and doesn't remove.
    runtime_directory: Option<RuntimeDirectory>,
    /// Devices must be probed on one thread, and EAL must clean up on the thread that started it.
    _here: PhantomData<*const ()>,
    /// Whether everything was given back.
    ended: bool,
}

impl Eal {
    /// Starts EAL, with huge pages if enough are free and with ordinary memory otherwise.
    ///
    /// # Errors
    /// EAL was already started in this process, even if that failed; arguments contradict each other; or EAL doesn't
    /// start, with its own explanation.
    pub fn init(config: &EalConfig) -> Result<Self, Error> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        let Arguments { list, memory, need, own_prefix } = args::build(config)?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyInitialised);
        }
        log::install(config.log)?;
        let mut argv = c_strings(&list)?;
        let count = libc::c_int::try_from(argv.len()).unwrap_or(libc::c_int::MAX);
        argv.push(std::ptr::null_mut());
        // EAL keeps pointers into its arguments; this happens once per process.
        let argv = argv.leak();
        // SAFETY: `argv` holds `count` NUL-terminated texts and a null pointer, all of them leaked; the flag
        // above makes this the only call.
        let (result, said) = log::listen(|| unsafe { dpdk_sys::rte_eal_init(count, argv.as_mut_ptr()) });
        if result < 0 {
            // SAFETY: reads a thread-local variable.
            let code = unsafe { dpdk_sys::shim_errno() };
            return Err(Error::Init { reason: why_not(&said, code, &memory, need) });
        }
        let runtime_directory = own_prefix.then(RuntimeDirectory::of_eal).flatten();
        if let Some(directory) = &runtime_directory {
            directory.clear_those_of_the_dead(&config.name);
        }
        let shared = Arc::new(Shared { pools: Mutex::default(), attached: Mutex::default() });
        let lcores = lcore::workers(&shared);
        let eal = Self {
            lcores,
            shared,
            memory,
            arguments: list,
            runtime_directory,
            _here: PhantomData,
            ended: false,
        };
        let wanted = config.cpus.workers();
        if eal.lcores.len() < wanted {
            return Err(Error::Lcores { wanted, found: eal.lcores.len() });
        }
        Ok(eal)
    }

    /// The memory that was chosen.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The arguments EAL was started with, beginning with the program's name.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Hands out the worker lcores; a second call returns none.
    pub fn take_lcores(&mut self) -> Vec<Lcore> {
        std::mem::take(&mut self.lcores)
    }

    /// Attaches a device: a PCI address or a virtual device string such as `net_af_packet0,iface=veth1`. A device can
    /// be attached again after it was detached.
    ///
    /// # Errors
    /// It isn't a device, is already in use, there is no such device or driver, or the driver refuses.
    pub fn attach(&self, device: &str) -> Result<Port, Error> {
        device::check(device)?;
        let mut attached = self.shared.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((by, what)) =
            attached.iter().find_map(|(other, _)| Some((other.clone(), device::clash(other, device)?)))
        {
            return Err(Error::Duplicate { device: device.to_owned(), by, what });
        }
        let name = device::normal_name(device);
        let taken: BTreeSet<u16> = attached.iter().map(|(_, port)| *port).collect();
        // EAL's own arguments may already have attached the device, as they do for PCI.
        let port = match port::find(&name, &taken) {
            Some(port) => port,
            None => probe(device, &name, &taken)?,
        };
        attached.push((device.to_owned(), port));
        drop(attached);
        Port::new(port, device.to_owned(), Arc::clone(&self.shared))
    }

    /// Closes a port and has EAL forget its device, whatever the result of closing, so that it can be attached again.
    ///
    /// # Errors
    /// Queues of the port are still held: the device stays attached, but without this handle. Or EAL keeps the device.
    pub fn detach(&self, port: Port) -> Result<(), Error> {
        let (id, name) = (port.id(), port.device().to_owned());
        let device = port.rte_device();
        port.close_whatever_it_says()?;
        let mut attached = self.shared.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.retain(|(_, port)| *port != id);
        let Some(device) = device else { return Ok(()) };
        // SAFETY: the device of a port that was just closed, and EAL's until this call.
        let (code, said) = log::listen(|| unsafe { dpdk_sys::rte_dev_remove(device) });
        if code < 0 {
            return Err(Error::Port { device: name, step: "detach", reason: log::reason(&said, code) });
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Gives everything back: memory, devices, files. Must be called after workers have ended and ports, queues, rings
    /// and frames are gone; dropping the `Eal` does the same silently.
    ///
    /// # Errors
    /// Something is still in use. DPDK's memory then stays until the process ends.
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.give_back()
    }

    /// Cleans up once, and in any case removes the directory that EAL created for this process.
    fn give_back(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let result = self.clean_up();
        if let Some(directory) = self.runtime_directory.take() {
            directory.remove();
        }
        result
    }

    /// Has EAL clean up, unless somebody could still use its memory.
    fn clean_up(&mut self) -> Result<(), Error> {
        self.lcores.clear();
        let handles = Arc::strong_count(&self.shared) - 1;
        if handles > 0 {
            return Err(Error::StillInUse(format!("{handles} handles are still held")));
        }
        let pools = self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let frames: u32 = pools.iter().map(PoolPointer::in_use).sum();
        if frames > 0 {
            return Err(Error::StillInUse(format!("{frames} buffers aren't back in their pools")));
        }
        // SAFETY: this is the only `Eal` there ever is and `ended` was false, so EAL is up. No handle and no frame is
        // left, so nothing points into the memory that is unmapped.
        let result = unsafe { dpdk_sys::rte_eal_cleanup() };
        if result == 0 { Ok(()) } else { Err(Error::StillInUse(format!("EAL: {}", meaning(result)))) }
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        _ = self.give_back();
    }
}

/// Has EAL attach a device and finds the port that it became.
fn probe(device: &str, name: &str, taken: &BTreeSet<u16>) -> Result<u16, Error> {
    let fail = |reason: String| Error::Port { device: device.to_owned(), step: "attach", reason };
    let text = CString::new(device).map_err(|e| fail(e.to_string()))?;
    let before = port::all();
    // SAFETY: a NUL-terminated text that EAL copies; `Eal` isn't `Sync`, so one thread probes at a time.
    let (result, said) = log::listen(|| unsafe { dpdk_sys::rte_dev_probe(text.as_ptr()) });
    if result < 0 {
        return Err(fail(log::reason(&said, result)));
    }
    port::find(name, taken)
        .or_else(|| port::all().difference(&before).next().copied())
        .ok_or_else(|| fail(log::reason(&said, -libc::ENODEV)))
}

/// The reason why EAL doesn't start. About memory EAL itself only says that there is none.
fn why_not(said: &str, code: i32, memory: &Memory, need: u64) -> String {
    let reason = log::reason(said, code);
    // EAL logs the latter if its arguments require huge pages and there are none.
    if !["Cannot init memory", "Cannot get hugepage information"].iter().any(|words| said.contains(words)) {
        return reason;
    }
    match memory {
        Memory::Ordinary { bytes, why } => {
            format!("{} MB of memory can't be had ({why}): {reason}", bytes >> 20)
        }
        // There are huge pages, but EAL looks for them in a file system.
        Memory::AsArguments if said.contains("no mounted hugetlbfs") && hugepages::usable(need).is_ok() => {
            format!(
                "hugetlbfs isn't mounted, which EAL needs by these arguments (`mount -t hugetlbfs nodev /dev/hugepages`): {reason}"
            )
        }
        Memory::Huge { .. } | Memory::AsArguments => format!("{}: {reason}", hugepages::shortage(need)),
    }
}

/// Arguments as C strings, which are leaked.
fn c_strings(list: &[String]) -> Result<Vec<*mut c_char>, Error> {
    list.iter()
        .map(|a| {
            let refuse = |_| Error::Argument { argument: a.clone(), reason: "a NUL in it".to_owned() };
            CString::new(a.as_str()).map(CString::into_raw).map_err(refuse)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_second_start_is_refused() {
        let eal = testing::eal(1);
        let config = testing::config(1);
        assert!(matches!(Eal::init(&config), Err(Error::AlreadyInitialised)));
        eal.shutdown().unwrap();
        assert!(matches!(Eal::init(&config), Err(Error::AlreadyInitialised)));
    }

    #[test]
    fn nothing_is_left_behind() {
        let eal = testing::eal(1);
        let directory = RuntimeDirectory::of_eal().unwrap().path().to_owned();
        assert!(!directory.exists(), "what is killed leaves {directory:?}");
        let port = eal.attach("net_null0").unwrap();
        drop(port);
        eal.shutdown().unwrap();
        assert!(!directory.exists());
    }

    #[test]
    fn devices_are_attached_once() {
        let eal = testing::eal(1);
        let _port = eal.attach("net_null0").unwrap();
        let again = eal.attach("net_null0,size=100").err().unwrap();
        assert_eq!(
            again.to_string(),
            "device \"net_null0,size=100\" is used twice: \"net_null0\" uses net_null0"
        );
        assert!(eal.attach("net_null1").is_ok());
    }

    #[test]
    fn what_can_t_be_attached_is_refused_with_a_reason() {
        let eal = testing::eal(1);
        for (device, part) in [
            ("net_nonsense0", "neither a PCI address nor the name"),
            ("net_af_packet0,iface=nothere0", "No such device"),
            ("net_pcap0,rx_pcap=/nonexistent/file.pcap", "/nonexistent/file.pcap"),
            ("0000:ff:1f.7", "Cannot find device"),
        ] {
            let error = eal.attach(device).err().unwrap().to_string();
            let (head, reason) = error.split_once(": attach: ").unwrap();
            assert_eq!(head, format!("device {device:?}"));
            assert!(reason.contains(part), "{error}");
        }
    }

    #[test]
    fn devices_of_the_arguments_can_be_attached() {
        let mut config = testing::config(1);
        config.args.push("--vdev=net_null7".to_owned());
        let eal = Eal::init(&config).unwrap();
        assert_eq!(eal.attach("net_null7").unwrap().info().unwrap().driver, "net_null");
    }

    #[test]
    fn eal_s_words_are_in_the_error() {
        let mut config = testing::config(1);
        config.args.push("--no-such-option".to_owned());
        let error = Eal::init(&config).err().unwrap().to_string();
        assert!(error.contains("no-such-option") || error.contains("Invalid"), "{error}");
    }

    #[test]
    fn missing_memory_is_reported_in_numbers() {
        let said = "EAL: Not enough memory\nEAL: FATAL: Cannot init memory\n";
        let huge = why_not(said, -1, &Memory::Huge { free: 1 }, u64::MAX / 2);
        assert!(
            huge.contains(" MB of huge pages are needed, ") && huge.ends_with(": EAL: Not enough memory")
        );
        let ordinary = Memory::Ordinary { bytes: 300 << 20, why: "none are free".to_owned() };
        assert_eq!(
            why_not(said, -1, &ordinary, 0),
            "300 MB of memory can't be had (none are free): EAL: Not enough memory"
        );
        assert_eq!(why_not("EAL: x\n", -1, &ordinary, 0), "EAL: x");
        // All kinds of arguments that leave EAL no choice.
        let said = "EAL: Cannot get hugepage information.\n";
        let settled = why_not(said, -1, &Memory::AsArguments, u64::MAX / 2);
        assert!(settled.contains(" MB of huge pages are needed, "), "{settled}");
        let said = "EAL: 4 hugepages of size 2097152 reserved, but no mounted hugetlbfs found for that size\n\
                    EAL: Cannot get hugepage information.\n";
        let unmounted = why_not(said, -1, &Memory::AsArguments, 0);
        assert!(unmounted.contains("mount -t hugetlbfs nodev /dev/hugepages"), "{unmounted}");
    }

    #[test]
    fn handles_that_are_held_keep_the_memory() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let frame = pool.alloc().unwrap();
        drop(pool);
        let error = eal.shutdown().err().unwrap().to_string();
        assert!(error.contains("1 buffers"), "{error}");
        assert_eq!(frame.len(), 0);
    }
}
