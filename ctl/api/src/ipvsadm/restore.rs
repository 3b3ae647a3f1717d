//! The lines of `-R`: words between white space, without quoting or comments; the word `ipvsadm` is
//! dropped wherever it stands in a line of options.

use std::io::{self, BufRead, BufReader};

/// Longest line in bytes; ipvsadm's longest word is 4096.
const MAX_LINE: u64 = 1 << 20;

/// Reads lines of words, with the numbers of the lines.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    number: usize,
}

impl<R: io::Read> Lines<BufReader<R>> {
    /// Whether a whole line has been read ahead: the next one is there without waiting.
    pub fn has_line(&self) -> bool {
        self.input.buffer().contains(&b'\n')
    }
}

impl<R: BufRead> Lines<R> {
    /// Lines of `input`.
    pub fn new(input: R) -> Self {
        Self { input, number: 0 }
    }

    /// The next line that has words: its number from 1, and the words. `None` at the end.
    ///
    /// # Errors
    /// What reading fails with; a line may be 1 MiB long at most.
    pub fn next_line(&mut self) -> io::Result<Option<(usize, Vec<String>)>> {
        loop {
            let mut line = Vec::new();
            let mut limited = io::Read::take(&mut self.input, MAX_LINE);
            limited.read_until(b'\n', &mut line)?;
            self.number += 1;
            let ended = line.last() == Some(&b'\n');
            if line.is_empty() || (!ended && lost_at_end(&line)) {
                return Ok(None);
            }
            if !ended && line.len() as u64 == MAX_LINE {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("line {} is too long", self.number),
                ));
            }
            let words = words(&line);
            if !words.is_empty() {
                return Ok(Some((self.number, words)));
            }
        }
    }
}

/// Two white spaces before the end of the input make ipvsadm lose the line that they end.
fn lost_at_end(line: &[u8]) -> bool {
    line.iter().rev().take_while(|b| b.is_ascii_whitespace()).count() > 1
}

fn words(line: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(line);
    let is_program = |word: &&str| *word == "ipvsadm";
    let mut words = text.split([' ', '\t', '\r', '\n']).filter(|w| !w.is_empty()).skip_while(is_program);
    let Some(first) = words.next() else { return Vec::new() };
    // In a line of words it may be a name.
    let keep = crate::rules::FIRST.contains(&first);
    [first].into_iter().chain(words.filter(|w| keep || !is_program(w))).map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(usize, Vec<String>)> {
        let mut lines = Lines::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            all.push(line);
        }
        all
    }

    #[test]
    fn words_and_numbers() {
        let text = "\n  \n\tipvsadm -A   -t\tx \r\n-C";
        assert_eq!(lines(text), [(3, vec!["-A".into(), "-t".into(), "x".into()]), (4, vec!["-C".into()])]);
        assert_eq!(lines(""), []);
        assert_eq!(lines("ipvsadm\n"), []);
        let named = "snat delete ipvsadm".split(' ').map(Into::into).collect::<Vec<String>>();
        assert_eq!(lines("ipvsadm snat delete ipvsadm\n-C ipvsadm"), [(1, named), (2, vec!["-C".into()])]);
    }

    #[test]
    fn an_unended_line_may_end_in_one_space_only() {
        assert_eq!(lines("-C ").len(), 1);
        assert_eq!(lines("-C  ").len(), 0);
    }
}
