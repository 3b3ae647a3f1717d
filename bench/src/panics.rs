//! `panics`: whether anything that a packet of an established session runs checks for what would be a panic.
//!
//! A bounds check is a comparison and a jump that is never taken. Callgrind says which instructions a packet runs, and
//! the disassembly (`objdump`) where the ways lead that it doesn't take: a conditional jump guards a panic if its other
//! side goes straight to a call of the panic machinery. Seen in process (see `replay`), so of devices there is nothing here.

use std::{
    collections::{BTreeMap, HashMap},
    process::Command,
};

use clap::Args;

use crate::{
    error::{Error, Result},
    method::Method,
    process::{check_interrupted, output_of},
    profile,
    symbols::Symbols,
};

/// What to look at.
#[derive(Args, Debug)]
pub struct Options {
    /// Methods and families, comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Method::Fullnat, Method::FullnatV6, Method::FullnatV6ToV4, Method::Dr, Method::Ipip])]
    methods: Vec<Method>,
}

/// What runs as often belongs to each packet; what runs more rarely, to bursts.
const EACH: f64 = 0.5;

/// Looks and prints; an error if a packet's way has a check.
pub fn run(options: &Options) -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(Error::Unexpected("panics reads x86-64 code only".into()));
    }
    let program = profile::this_program()?;
    let mut objdump = Command::new("objdump");
    objdump.args(["--disassemble", "--demangle", "--no-show-raw-insn"]).arg(&program);
    let code = Code::read(&output_of(&mut objdump)?);
    let mut symbols = Symbols::open(&program, true)?;
    println!(
        "conditional jumps that a packet of an established session comes by, and those that guard a panic"
    );
    println!("{:<18} {:>6} {:>9} {:>9}", "", "jumps", "a packet", "a burst");
    let mut checked = false;
    for method in &options.methods {
        check_interrupted()?;
        let executed = profile::executed(*method)?;
        let guards = code.guards(&executed);
        let mut listed = Vec::new();
        for guard in &guards {
            let place = symbols.stage(guard.at).to_owned();
            // What plays the device isn't the path.
            if !place.starts_with("bench/") {
                listed.push((place, guard));
            }
        }
        let of_packets = listed.iter().filter(|(_, guard)| guard.times >= EACH).count();
        checked |= of_packets != 0;
        let jumps = executed.keys().filter(|address| code.jump(**address).is_some()).count();
        println!("{:<18} {jumps:>6} {of_packets:>9} {:>9}", method.name(), listed.len() - of_packets);
        for (place, Guard { at, times, panic }) in listed {
            println!("    {place} at {at:#x}, {times:.2} times a packet: {panic}");
        }
    }
    if checked {
        return Err(Error::Unexpected("a packet's way has a check that would panic".into()));
    }
    Ok(())
}

/// A jump on whose other side is a panic.
#[derive(Clone, Debug, PartialEq)]
struct Guard {
    at: u64,
    /// Times a packet comes by.
    times: f64,
    /// The function that panics.
    panic: String,
}

/// What an instruction does to the order in which others run.
#[derive(Clone, Debug, PartialEq)]
enum Flow {
    On,
    /// A conditional jump.
    May(u64),
    /// An unconditional one.
    Must(u64),
    /// A call of a function by name.
    Call(String),
    /// A return, an indirect jump, a trap.
    End,
}

/// A program's instructions by address.
struct Code(BTreeMap<u64, Flow>);

impl Code {
    /// Reads what `objdump --disassemble --demangle --no-show-raw-insn` writes: `  401a2b:<tab>jne    401a40 <name+0x15>`.
    fn read(listing: &str) -> Self {
        let instructions = listing.lines().filter_map(|line| {
            let (address, instruction) = line.split_once(":\t")?;
            Some((u64::from_str_radix(address.trim(), 16).ok()?, flow(instruction)))
        });
        Self(instructions.collect())
    }

    /// Where a conditional jump leads if it's taken.
    fn jump(&self, address: u64) -> Option<u64> {
        match self.0.get(&address)? {
            Flow::May(target) => Some(*target),
            _ => None,
        }
    }

    /// The executed jumps that guard a panic.
    fn guards(&self, executed: &BTreeMap<u64, f64>) -> Vec<Guard> {
        let mut known: HashMap<u64, Option<String>> = HashMap::new();
        let mut guards = Vec::new();
        for (&at, &times) in executed {
            let Some(target) = self.jump(at) else { continue };
            let next = self.0.range(at + 1..).next().map(|(address, _)| *address);
            for side in [Some(target), next].into_iter().flatten().filter(|side| !executed.contains_key(side))
            {
                if let Some(panic) = known.entry(side).or_insert_with(|| self.panic_at(side)).clone() {
                    guards.push(Guard { at, times, panic });
                }
            }
        }
        guards
    }

    /// The panicking function that is called when execution goes on from `address`, without a condition on the way.
    fn panic_at(&self, mut address: u64) -> Option<String> {
        // Arguments of a panic are a handful of instructions.
        for _ in 0..32 {
            match self.0.get(&address)? {
                Flow::On => {}
                Flow::Must(target) => {
                    address = *target;
                    continue;
                }
                Flow::Call(name) => return is_panic(name).then(|| name.clone()),
                Flow::May(_) | Flow::End => return None,
            }
            address = *self.0.range(address + 1..).next()?.0;
        }
        None
    }
}

/// Whether a function does nothing but panic.
fn is_panic(name: &str) -> bool {
    const PARTS: [&str; 7] = [
        "core::panicking::",
        "core::slice::index::slice_",
        "core::slice::copy_from_slice_impl::len_mismatch_fail",
        "core::str::slice_error_fail",
        "core::cell::panic_",
        "unwrap_failed",
        "expect_failed",
    ];
    PARTS.iter().any(|part| name.contains(part))
}

fn flow(instruction: &str) -> Flow {
    let (mnemonic, operands) = instruction.split_once(' ').unwrap_or((instruction, ""));
    let (target, name) = operands.trim().split_once(" <").unwrap_or((operands.trim(), ""));
    let target = u64::from_str_radix(target, 16).ok();
    match (mnemonic, target) {
        ("call", _) => Flow::Call(name.trim_end_matches('>').to_owned()),
        ("jmp", Some(target)) => Flow::Must(target),
        ("jmp" | "ret" | "ud2" | "hlt" | "int3", _) => Flow::End,
        (jump, Some(target)) if jump.starts_with('j') => Flow::May(target),
        _ => Flow::On,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "
0000000000001000 <weir::path::forward>:
    1000:\tcmp    %rax,%rcx
    1003:\tjae    1020 <weir::path::forward+0x20>
    1005:\ttest   %al,%al
    1007:\tje     1030 <weir::path::forward+0x30>
    1009:\tjne    1010 <weir::path::forward+0x10>
    100b:\tcall   3000 <core::option::unwrap_failed>
    1010:\tret
    1020:\tlea    0x1(%rip),%rdx
    1027:\tjmp    1040 <weir::path::forward+0x40>
    1030:\tcall   2000 <weir::path::rarely>
    1035:\tcall   3000 <core::panicking::panic_fmt>
    1040:\tcall   3100 <core::panicking::panic_bounds_check>
    1045:\tud2
";

    #[test]
    fn the_sides_not_taken_are_followed_to_a_panic() {
        let code = Code::read(LISTING);
        let executed = [0x1000, 0x1003, 0x1005, 0x1007, 0x1009, 0x1010].map(|address| (address, 1.0)).into();
        let found: Vec<_> = code.guards(&executed).into_iter().map(|guard| (guard.at, guard.panic)).collect();
        // The call at 0x1030 may do anything: what's behind it isn't the jump's doing.
        let expected = [
            (0x1003, "core::panicking::panic_bounds_check".to_owned()),
            (0x1009, "core::option::unwrap_failed".to_owned()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_isn_t_executed_guards_nothing() {
        assert_eq!(Code::read(LISTING).guards(&BTreeMap::from([(0x1000, 1.0)])), []);
    }
}
