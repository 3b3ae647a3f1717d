//! `prefetch`: how many cache lines may be asked for at once before the processor forgets some.
//!
//! A prefetch is a hint: when all the buffers for outstanding misses are taken, it is dropped silently, and the load
//! that comes later waits for memory after all. A gateway that prefetches for a whole burst at once may lose a third
//! of them. Here a group of lines far apart is asked for, then used one after the other with some work at each, as a
//! packet would; what a line costs beyond the work says whether it was there.

use std::hint::black_box;

use clap::Args;

use crate::{
    error::{Error, Result},
    process::check_interrupted,
    table::thread_time,
    traffic::Random,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Size of the memory in MiB; beyond the last-level cache.
    #[arg(long, default_value_t = 256)]
    mebibytes: usize,
    /// Repetitions; the best is printed.
    #[arg(long, default_value_t = 7)]
    samples: u32,
}

/// Bytes of a cache line.
const LINE: usize = 64;
/// Largest group.
const MOST: usize = 40;
/// Lines a sample touches.
const LINES: usize = 500_000;
/// Dependent multiplications at each line: about as long as the path takes for a packet.
const WORK: u32 = 40;

/// Runs and prints.
pub fn run(options: &Options) -> Result<()> {
    let lines = options.mebibytes.max(1) * (1 << 20) / LINE;
    let mut memory = cpu::zeroed_slice::<[u64; LINE / 8]>(lines).map_err(Error::file("memory"))?;
    memory.populate(lines).map_err(Error::file("memory"))?;
    println!("ns a line beyond the work at it, by lines asked for at once; {} MiB", options.mebibytes);
    for group in (4..=MOST).step_by(4) {
        let mut best = |range: usize| -> Result<f64> {
            (0..options.samples).try_fold(f64::INFINITY, |best, n| {
                check_interrupted()?;
                Ok(best.min(sample(&mut memory, range, group, n.into())?))
            })
        };
        let (far, near) = (best(lines)?, best(64.min(lines))?);
        println!("{group:>3} {:>7.1}", far - near);
    }
    Ok(())
}

/// Nanoseconds a line, the lines being drawn from the first `range`.
fn sample(memory: &mut [[u64; LINE / 8]], range: usize, group: usize, seed: u64) -> Result<f64> {
    let mut random = Random(seed);
    let mut at = [0usize; MOST];
    let at = &mut at[..group];
    let groups = LINES / group;
    let start = thread_time()?;
    let mut sum = 1u64;
    for _ in 0..groups {
        for place in at.iter_mut() {
            *place = random.below(range as u64) as usize;
            cpu::prefetch(&memory[*place]);
        }
        for &place in at.iter() {
            sum = sum.wrapping_add(memory[place][0]);
            for _ in 0..WORK {
                sum = black_box(sum.wrapping_mul(31) | 7);
            }
            memory[place][1] = sum;
        }
    }
    black_box(sum);
    Ok((thread_time()? - start).as_nanos() as f64 / (groups * group) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_takes_time() {
        let mut memory = vec![[0; LINE / 8]; 1024];
        assert!(sample(&mut memory, 1024, 32, 1).unwrap() > 0.0);
        assert!(memory.iter().any(|line| line[1] != 0));
    }
}
