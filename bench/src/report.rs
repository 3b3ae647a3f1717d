//! Medians, spread and ratios, for people and for programs.

use std::{fmt, fs, path::Path};

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Samples of one number of flows, Mpps per on-CPU second.
#[derive(Clone, Debug)]
pub struct Row {
    flows: u32,
    method: String,
    /// weir's.
    pub ours: Vec<f64>,
    /// testpmd's.
    pub testpmd: Vec<f64>,
    /// capsule's, if it was asked for.
    pub capsule: Vec<f64>,
}

impl Row {
    /// No samples yet.
    pub fn new(flows: u32, method: String) -> Self {
        Self { flows, method, ours: Vec::new(), testpmd: Vec::new(), capsule: Vec::new() }
    }

    fn json(&self) -> Value {
        let (ours, peer) = (Spread::of(&self.ours), Spread::of(&self.testpmd));
        json!({
            "flows": self.flows,
            "method": self.method,
            "ours_mpps": ours.map(|s| round(s.median)),
            "testpmd_5tswap_mpps": peer.map(|s| round(s.median)),
            "ratio": ours.zip(peer).map(|(o, p)| round(o.median / p.median)),
            "ours_quartiles": ours.map(|s| [round(s.low), round(s.high)]),
            "testpmd_5tswap_quartiles": peer.map(|s| [round(s.low), round(s.high)]),
            "samples": self.ours.len().max(self.testpmd.len()),
            "capsule_mpps": Spread::of(&self.capsule).map(|s| round(s.median)),
        })
    }

    /// What the baseline does, and how many times that weir does.
    fn baseline(&self) -> Option<String> {
        let (base, ours) = (Spread::of(&self.capsule)?, Spread::of(&self.ours)?);
        Some(format!("{:>9}  capsule {base}; weir {:.2} times that", self.flows, ours.median / base.median))
    }

    fn line(&self) -> String {
        let (ours, peer) = (Spread::of(&self.ours), Spread::of(&self.testpmd));
        let show = |s: Option<Spread>| s.map_or("-".to_owned(), |s| s.to_string());
        let ratio = ours.zip(peer).map_or("-".to_owned(), |(o, p)| format!("{:.3}", o.median / p.median));
        let cost = ours.map_or("-".to_owned(), |o| format!("{:.1}", 1e3 / o.median));
        let (flows, method) = (self.flows, &self.method);
        format!("{flows:>9}  {method:<16}  {:>22}  {:>22}  {ratio:>6}  {cost:>8}", show(peer), show(ours))
    }
}

fn round(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

/// Median and quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half of the samples are below.
    pub median: f64,
    /// A quarter is below.
    pub low: f64,
    /// A quarter is above.
    pub high: f64,
}

impl Spread {
    /// Of `samples`; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let place = q * (sorted.len() - 1) as f64;
            let (below, part) = (place.floor() as usize, place.fract());
            let above = (below + 1).min(sorted.len() - 1);
            sorted[below] * (1.0 - part) + sorted[above] * part
        };
        (!sorted.is_empty()).then(|| Self { median: at(0.5), low: at(0.25), high: at(0.75) })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&format!("{:.2} ({:.2}-{:.2})", self.median, self.low, self.high))
    }
}

/// The table, printed line by line as it comes.
pub struct Report {
    rows: Vec<Value>,
}

impl Report {
    /// Prints the head.
    pub fn new(frame: usize) -> Self {
        println!("Mpps per on-CPU second of one worker: median (quartiles); frames of {frame} bytes");
        println!(
            "{:>9}  {:<16}  {:>22}  {:>22}  {:>6}  {:>8}  memory",
            "flows", "method", "testpmd 5tswap", "weir", "ratio", "ns/pkt"
        );
        Self { rows: Vec::new() }
    }

    /// Prints and keeps a line, with what else the testbed has.
    pub fn add(&mut self, row: Row, memory: &'static str, testbed: &[(&str, u32)]) {
        println!("{}  {memory}", row.line());
        if let Some(line) = row.baseline() {
            println!("{line}");
        }
        let mut json = row.json();
        json["memory"] = memory.into();
        for &(name, count) in testbed {
            json[name] = count.into();
        }
        self.rows.push(json);
    }

    /// Writes the JSON file, if one is wanted.
    pub fn finish(&self, json: Option<&Path>) -> Result<()> {
        write_json(json, &self.rows)
    }
}

/// Writes `rows` to the file that was asked for, if any.
pub fn write_json(path: Option<&Path>, rows: &[Value]) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(rows).expect("numbers are JSON");
    fs::write(path, text + "\n").map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0, 5.0]).unwrap();
        assert_eq!(spread, Spread { median: 3.0, low: 2.0, high: 4.0 });
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn json_has_medians_and_their_ratio() {
        let row = Row {
            flows: 1000,
            method: "nat".into(),
            ours: vec![10.0, 12.0, 11.0],
            testpmd: vec![44.0],
            capsule: vec![5.5],
        };
        let json = row.json();
        assert_eq!(json["flows"], 1000);
        assert_eq!(json["ours_mpps"], 11.0);
        assert_eq!(json["testpmd_5tswap_mpps"], 44.0);
        assert_eq!(json["ratio"], 0.25);
        assert_eq!(json["capsule_mpps"], 5.5);
        assert!(row.baseline().is_some_and(|line| line.ends_with("weir 2.00 times that")));
    }

    #[test]
    fn json_without_one_side_has_no_ratio() {
        let row = Row { flows: 1, method: "nat".into(), ours: vec![], testpmd: vec![44.0], capsule: vec![] };
        assert!(row.json()["ratio"].is_null() && row.json()["ours_mpps"].is_null());
    }
}
