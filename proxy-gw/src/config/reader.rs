//! Typed reading of a configuration tree. Every failed read becomes a [`Problem`] and yields the
//! default, so that one run reports everything that is wrong, not just the first thing.
//!
//! Invariant: a key that no read asked for is reported as unknown when its section is finished.

use super::problem::{Origin, Problem, nearest};
use super::tree::{Node, Table, Value};
use core::cell::RefCell;
use core::fmt;
use core::ops::RangeInclusive;
use core::str::FromStr;
use core::time::Duration;

/// Problems found so far.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn push(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    /// In order of place, each once.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut all = self.0.into_inner();
        all.sort();
        all.dedup();
        all
    }
}

/// A value together with its place and full key, for checks that come after reading.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
    pub(super) key: String,
}

impl<T: fmt::Display> Placed<T> {
    /// Reports that this value is not what is `expected`.
    pub(super) fn refuse(&self, problems: &Problems, expected: &str) {
        problems.push(Problem::value(&self.origin, &self.key, &Quoted(&self.value), expected));
    }
}

/// Shows addresses and names as they stand in the file.
struct Quoted<'a, T>(&'a T);

impl<T: fmt::Display> fmt::Display for Quoted<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// One table being read.
pub(super) struct Section<'a> {
    /// Full key of the table, empty for the root.
    path: String,
    origin: Origin,
    table: Option<&'a Table>,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// Reads `node` as a table named `path`.
    pub(super) fn new(path: String, node: &'a Node, problems: &'a Problems) -> Self {
        let table = match &node.value {
            Value::Table(table) => Some(table),
            other => {
                problems.push(Problem::value(&node.origin, &path, other, "expected a table"));
                None
            }
        };
        Self { path, origin: node.origin.clone(), table, known: Vec::new(), problems }
    }

    fn absent(path: String, origin: Origin, problems: &'a Problems) -> Self {
        Self { path, origin, table: None, known: Vec::new(), problems }
    }

    fn full_key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The node of `key`, which thereby becomes a known key.
    fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.table?.get(key)
    }

    /// Whether the key is written in the file or set.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Elements of the list `key` as written, valid or not; 1 for what is no list.
    pub(super) fn written(&self, key: &str) -> usize {
        match self.table.and_then(|table| table.get(key)) {
            Some(Node { value: Value::Array(elements), .. }) => elements.len(),
            Some(_) => 1,
            None => 0,
        }
    }

    /// Whether `key` is absent or an empty list.
    pub(super) fn lacks(&self, key: &str) -> bool {
        self.written(key) == 0
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        for (key, node) in self.table.into_iter().flatten() {
            if !self.known.contains(&key.as_str()) {
                let full = self.full_key(key);
                let mut known = self.known.clone();
                known.sort_unstable();
                self.problems.push(Problem::unknown_key(&node.origin, &full, key, &known));
            }
        }
    }

    /// Entries of a table whose keys are free, as full keys.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, String, &'a Node)> {
        self.table
            .into_iter()
            .flatten()
            .map(|(key, node)| (key.as_str(), self.full_key(&format!("{key:?}")), node))
    }

    /// The sub-table `key`; empty when absent.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let path = self.full_key(key);
        match self.node(key) {
            Some(node) => Self::new(path, node, self.problems),
            None => Self::absent(path, self.origin.clone(), self.problems),
        }
    }

    /// The array of tables `key`; empty when absent.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Self> {
        let path = self.full_key(key);
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::Array(elements) = &node.value else {
            let expected = format!("expected a list of tables: write [[{path}]]");
            self.problems.push(Problem::value(&node.origin, &path, &node.value, &expected));
            return Vec::new();
        };
        let numbered = elements.iter().enumerate();
        numbered
            .map(|(idx, node)| Self::new(format!("{path}.{idx}"), node, self.problems))
            .collect()
    }

    /// Reports `key` as needed.
    pub(super) fn missing(&self, key: &str, expected: &str) {
        self.problems.push(Problem::missing(&self.origin, &self.full_key(key), expected));
    }

    /// Reports that this table cannot be there.
    pub(super) fn refuse(&self, why: &str) {
        self.problems.push(Problem::refused(&self.origin, &self.path, why));
    }

    /// Reports that this key cannot be there.
    pub(super) fn refuse_key(&self, key: &str, why: &str) {
        let origin = self.table.and_then(|table| table.get(key)).map(|node| &node.origin);
        let origin = origin.unwrap_or(&self.origin);
        self.problems.push(Problem::refused(origin, &self.full_key(key), why));
    }

    /// Reports that this element of the list `key` cannot be there.
    pub(super) fn refuse_element(&self, key: &str, at: usize, why: &str) {
        let Some(Node { value: Value::Array(elements), .. }) =
            self.table.and_then(|table| table.get(key))
        else {
            return;
        };
        let origin = elements.get(at).map_or(&self.origin, |element| &element.origin);
        let key = format!("{}.{at}", self.full_key(key));
        self.problems.push(Problem::refused(origin, &key, why));
    }

    /// Reads `key` with `read`, which answers what was expected instead when it fails.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<Placed<T>> {
        let path = self.full_key(key);
        let node = self.node(key)?;
        read_node(node, path, self.problems, read)
    }

    /// As [`Section::read`] for text that must not be repeated in messages.
    pub(super) fn secret<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let path = self.full_key(key);
        let node = self.node(key)?;
        let result = text(&node.value, "expected text").and_then(read);
        result
            .map_err(|expected| {
                self.problems.push(Problem::value(&node.origin, &path, &"(hidden)", &expected));
            })
            .ok()
    }

    /// Reads each element of the list `key` with `read`; `None` when absent.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&Value) -> Result<T, String>,
    ) -> Option<Vec<Placed<T>>> {
        let path = self.full_key(key);
        let node = self.node(key)?;
        Some(read_list(node, &path, self.problems, &mut read))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
        default: T,
    ) -> T {
        self.read(key, |value| choose(value, choices)).map_or(default, |placed| placed.value)
    }

    /// A whole number in `range`.
    pub(super) fn integer<T>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
        default: T,
    ) -> T
    where
        T: Copy + TryFrom<i64> + PartialOrd + fmt::Display,
    {
        self.read(key, |value| integer(value, &range)).map_or(default, |placed| placed.value)
    }

    /// A whole number of seconds in `range`.
    pub(super) fn seconds(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> Duration {
        Duration::from_secs(u64::from(self.integer(key, range, default)))
    }

    /// A size in bytes: a whole number, or text such as "6MiB".
    pub(super) fn size(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        self.read(key, |value| size(value, &range)).map_or(default, |placed| placed.value)
    }

    /// A rate in bits per second, such as "20Mbit"; `None` is "unlimited", the default.
    pub(super) fn rate(&mut self, key: &'static str) -> Option<u64> {
        self.read(key, rate).and_then(|placed| placed.value)
    }
}

/// Reads one node; a failure is reported under `path`.
pub(super) fn read_node<T>(
    node: &Node,
    path: String,
    problems: &Problems,
    read: impl FnOnce(&Value) -> Result<T, String>,
) -> Option<Placed<T>> {
    match read(&node.value) {
        Ok(value) => Some(Placed { value, origin: node.origin.clone(), key: path }),
        Err(expected) => {
            problems.push(Problem::value(&node.origin, &path, &node.value, &expected));
            None
        }
    }
}

/// Reads a list node element by element; elements that fail are reported and left out.
pub(super) fn read_list<T>(
    node: &Node,
    path: &str,
    problems: &Problems,
    read: &mut impl FnMut(&Value) -> Result<T, String>,
) -> Vec<Placed<T>> {
    let Value::Array(elements) = &node.value else {
        let expected = "expected a list: write [...]";
        problems.push(Problem::value(&node.origin, path, &node.value, expected));
        return Vec::new();
    };
    let numbered = elements.iter().enumerate();
    numbered
        .filter_map(|(idx, element)| {
            read_node(element, format!("{path}.{idx}"), problems, &mut *read)
        })
        .collect()
}

/// A string.
pub(super) fn text<'v>(value: &'v Value, expected: &str) -> Result<&'v str, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(expected.to_owned()),
    }
}

/// A string that `T` can parse.
pub(super) fn parsed<T: FromStr>(value: &Value, expected: &str) -> Result<T, String> {
    text(value, expected)?.parse().map_err(|_| expected.to_owned())
}

/// One of a few words, with the nearest one when it is none of them.
pub(super) fn choose<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, String> {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    let expected = format!("expected {}", quoted.join(" or "));
    let given = text(value, &expected)?;
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == given) {
        return Ok(*choice);
    }
    Err(match nearest(given, &words) {
        Some(near) => format!("{expected}; did you mean {near:?}?"),
        None => expected,
    })
}

/// A whole number in `range`.
pub(super) fn integer<T>(value: &Value, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: Copy + TryFrom<i64> + PartialOrd + fmt::Display,
{
    let number = match value {
        Value::Integer(number) => T::try_from(*number).ok(),
        _ => None,
    };
    number
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
}

/// Bytes, as a whole number or with a unit.
fn size(value: &Value, range: &RangeInclusive<u32>) -> Result<u32, String> {
    let bytes = match value {
        Value::Integer(number) => u32::try_from(*number).ok(),
        Value::String(text) => parse_size(text),
        _ => None,
    };
    bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        format!(
            "expected a size from {} to {}, such as \"256KiB\", \"6MiB\" or a number of bytes",
            show_size(*range.start()),
            show_size(*range.end())
        )
    })
}

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Reads "6MiB", "512KiB" or "1GiB"; `None` when it is no such thing or exceeds 4 GiB.
fn parse_size(text: &str) -> Option<u32> {
    u32::try_from(with_unit(text, &UNITS)?).ok()
}

/// The shortest exact form that [`parse_size`] reads back.
pub(super) fn show_size(bytes: u32) -> String {
    show_with_unit(u64::from(bytes), &UNITS)
}

/// What [`rate`] takes: a connection must get on at all, and no link is faster.
const RATES: RangeInclusive<u64> = 8_000..=1_000_000_000_000;

const RATE_UNITS: [(&str, u64); 3] =
    [("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1_000)];

/// Bits per second, as a whole number or with a unit, or "unlimited".
pub(super) fn rate(value: &Value) -> Result<Option<u64>, String> {
    let bits = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::String(text) if text == UNLIMITED => return Ok(None),
        Value::String(text) => parse_rate(text),
        _ => None,
    };
    bits.filter(|bits| RATES.contains(bits)).map(Some).ok_or_else(|| {
        format!(
            "expected {UNLIMITED:?}, or a rate from {} to {}, such as \"20Mbit\" or a number of \
             bits per second",
            show_rate(Some(*RATES.start())),
            show_rate(Some(*RATES.end()))
        )
    })
}

const UNLIMITED: &str = "unlimited";

/// Reads "20Mbit", "512kbit" or "1Gbit"; `None` when it is no such thing.
fn parse_rate(text: &str) -> Option<u64> {
    with_unit(text, &RATE_UNITS)
}

/// A rate of bits per second as the configuration has it.
#[must_use]
pub fn show_rate(bits: Option<u64>) -> String {
    bits.map_or_else(|| UNLIMITED.to_owned(), |bits| show_with_unit(bits, &RATE_UNITS))
}

/// Digits, then one of `units` or nothing.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1));
    let digits = digits.trim_end();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// With the largest of `units`, which fall, that `value` is a multiple of.
fn show_with_unit(value: u64, units: &[(&str, u64)]) -> String {
    let unit = units.iter().find(|(_, unit)| value >= *unit && value.is_multiple_of(*unit));
    match unit {
        Some((suffix, unit)) => format!("{}{suffix}", value / unit),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_take_binary_units_only() {
        assert_eq!(parse_size("6MiB"), Some(6 << 20));
        assert_eq!(parse_size("512 KiB"), Some(512 << 10));
        assert_eq!(parse_size("77"), Some(77));
        for bad in ["", "MiB", "6MB", "6mib", "-1", "+1", "4GiB", "1.5MiB", "6 MiB x"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn rates_take_decimal_units_only() {
        assert_eq!(parse_rate("20Mbit"), Some(20_000_000));
        assert_eq!(parse_rate("512 kbit"), Some(512_000));
        assert_eq!(parse_rate("1Gbit"), Some(1_000_000_000));
        assert_eq!(parse_rate("9600"), Some(9_600));
        for bad in ["", "Mbit", "6MB", "6mbit", "-1", "20Mibit", "1.5Mbit", "99999999999Gbit"] {
            assert_eq!(parse_rate(bad), None, "{bad}");
        }
        assert_eq!(rate(&Value::String("unlimited".to_owned())), Ok(None));
        let refused = rate(&Value::Integer(7_999)).unwrap_err();
        assert!(refused.contains("from 8kbit to 1000Gbit"), "{refused}");
    }

    proptest! {
        #[test]
        fn rates_survive_showing(bits: u64) {
            prop_assert_eq!(parse_rate(&show_rate(Some(bits))), Some(bits));
        }

        #[test]
        fn sizes_survive_showing(bytes: u32) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
