//! Packets per on-CPU second of a program's worker threads.
//!
//! A shared machine takes time away from a polling thread, so packets are divided by the time that the thread
//! was on a CPU (`/proc/PID/task/TID/schedstat`, first number, nanoseconds). The kernel brings that number up
//! to date at scheduler ticks only, up to 4 ms late; so a reading waits for it to change and takes the packet
//! counter right then.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    process::{Process, wait_for},
    telemetry::Telemetry,
};

/// A thread of another process.
#[derive(Clone, Debug)]
pub struct Thread {
    schedstat: PathBuf,
}

impl Thread {
    /// Nanoseconds that the thread has been on a CPU, as of the last scheduler tick.
    fn on_cpu(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.schedstat).map_err(Error::file(&self.schedstat))?;
        let first = text.split_whitespace().next().and_then(|f| f.parse().ok());
        first.ok_or_else(|| Error::Unexpected(format!("{}: {text:?}", self.schedstat.display())))
    }

    /// The thread's id.
    pub fn tid(&self) -> Result<String> {
        let directory = self.schedstat.parent().and_then(|d| d.file_name());
        let tid = directory.map(|name| name.to_string_lossy().into_owned());
        tid.ok_or_else(|| Error::Unexpected(format!("{}: no thread", self.schedstat.display())))
    }

    /// All threads of the process `pid`.
    fn all(pid: u32) -> Result<Vec<Self>> {
        let path = PathBuf::from(format!("/proc/{pid}/task"));
        let entries = fs::read_dir(&path).map_err(Error::file(&path))?;
        Ok(entries.flatten().map(|e| Self { schedstat: e.path().join("schedstat") }).collect())
    }

    /// The `count` threads of `pid` that use the CPU most, which is how polling workers are recognised whatever their
    /// names.
    pub fn busiest(pid: u32, count: u16) -> Result<Vec<Self>> {
        let mut threads: Vec<_> = Self::all(pid)?.into_iter().map(|t| (t.on_cpu().unwrap_or(0), t)).collect();
        std::thread::sleep(Duration::from_millis(100));
        threads.sort_by_cached_key(|(was, t)| Reverse(t.on_cpu().unwrap_or(0).saturating_sub(*was)));
        if threads.len() < usize::from(count) {
            return Err(Error::Unexpected(format!("process {pid} has fewer than {count} threads")));
        }
        Ok(threads.into_iter().take(count.into()).map(|(_, t)| t).collect())
    }
}

/// A program under measurement: paused whenever it isn't its turn.
pub struct Subject {
    /// The program.
    pub process: Process,
    /// Its port counters.
    pub telemetry: Telemetry,
    /// The port that transmits what was forwarded.
    pub out: u16,
    /// Its workers; at least one.
    pub workers: Vec<Thread>,
}

/// Both counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Packets transmitted.
    pub packets: u64,
    /// The workers' mean time on a CPU, nanoseconds.
    pub on_cpu: u64,
}

impl Reading {
    /// Millions of packets per on-CPU second since `earlier`.
    pub fn mpps_since(&self, earlier: &Self) -> f64 {
        (self.packets - earlier.packets) as f64 * 1e3 / (self.on_cpu - earlier.on_cpu) as f64
    }
}

impl Subject {
    /// A program that was just started, once its telemetry is up and knows the port on the device `out` (or one whose
    /// name begins so): ports appear one after another while EAL starts. `run` is the run-time directory it was given.
    pub fn connect(mut process: Process, run: &Path, out: &str, workers: u16) -> Result<Self> {
        let connected = wait_for(Duration::from_secs(60), || {
            process.check_running()?;
            let Some(mut telemetry) = Telemetry::connect(process.pid(), run) else { return Ok(None) };
            Ok(telemetry.port(out).ok().map(|out| (telemetry, out)))
        })?;
        let Some((telemetry, out)) = connected else { return Err(process.failed("has no telemetry")) };
        let workers = Thread::busiest(process.pid(), workers)?;
        Ok(Self { process, telemetry, out, workers })
    }

    /// The same once packets come out, when its workers are known from their work.
    pub fn forwarding(mut self) -> Result<Self> {
        self.wait_for_traffic(Duration::from_secs(120))?;
        self.workers = Thread::busiest(self.process.pid(), self.workers.len() as u16)?;
        Ok(self)
    }

    /// The workers' mean time on a CPU.
    fn on_cpu(&self) -> Result<u64> {
        let times: Vec<u64> = self.workers.iter().map(Thread::on_cpu).collect::<Result<_>>()?;
        Ok(times.iter().sum::<u64>() / times.len().max(1) as u64)
    }

    /// Waits for the next scheduler tick and reads both counters.
    pub fn read(&mut self) -> Result<Reading> {
        let before = self.on_cpu()?;
        let start = Instant::now();
        loop {
            let on_cpu = self.on_cpu()?;
            if on_cpu != before {
                return Ok(Reading { packets: self.telemetry.transmitted(self.out)?, on_cpu });
            }
            if start.elapsed() > Duration::from_secs(2) {
                self.process.check_running()?;
                return Err(self.process.failed("has an idle worker"));
            }
        }
    }

    /// Lets the program run for `warm_up`, measures for `period` and pauses it again. Mpps per on-CPU second.
    pub fn measure(&mut self, warm_up: Duration, period: Duration) -> Result<f64> {
        self.process.check_running()?;
        self.process.resume();
        std::thread::sleep(warm_up);
        let before = self.read()?;
        std::thread::sleep(period);
        let after = self.read()?;
        self.process.pause();
        crate::process::check_interrupted()?;
        Ok(after.mpps_since(&before))
    }

    /// Lets the program run as it does and measures for `period`. Mpps per on-CPU second.
    pub fn rate(&mut self, period: Duration) -> Result<f64> {
        let before = self.read()?;
        std::thread::sleep(period);
        Ok(self.read()?.mpps_since(&before))
    }

    /// Waits until packets come out.
    pub fn wait_for_traffic(&mut self, limit: Duration) -> Result<()> {
        let first = self.telemetry.transmitted(self.out)?;
        let Self { process, telemetry, out, .. } = self;
        let flowing = wait_for(limit, || {
            process.check_running()?;
            Ok((telemetry.transmitted(*out)? > first + 1000).then_some(()))
        })?;
        flowing.ok_or_else(|| self.process.failed("forwards nothing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_packets_by_time_on_cpu() {
        let a = Reading { packets: 1_000, on_cpu: 5_000_000 };
        let b = Reading { packets: 1_000 + 20_000_000, on_cpu: 5_000_000 + 500_000_000 };
        assert!((b.mpps_since(&a) - 40.0).abs() < 1e-9);
    }

    #[test]
    fn a_busy_thread_is_found_among_idle_ones() {
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
        static STOP: AtomicBool = AtomicBool::new(false);
        let (send, receive) = std::sync::mpsc::channel();
        let spin = std::thread::spawn(move || {
            send.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            while !STOP.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        let tid = receive.recv().unwrap().file_name().unwrap().to_owned();
        let found = Thread::busiest(std::process::id(), 1).unwrap().remove(0);
        STOP.store(true, Relaxed);
        spin.join().unwrap();
        assert_eq!(found.schedstat.parent().unwrap().file_name().unwrap(), tid);
    }
}
