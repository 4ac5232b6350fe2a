//! Complaints about a configuration: each names the place, the key, the value and the remedy.

use core::fmt::{self, Write as _};

/// Where a key or value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In a file.
    File {
        /// As given on the command line.
        file: String,
        /// Counted from 1.
        line: usize,
    },
    /// On the command line: the text behind `--set`.
    Set(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Set(setting) => write!(f, "--set {setting}"),
        }
    }
}

/// One thing that is wrong with a configuration. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    origin: Option<Origin>,
    text: String,
}

impl Problem {
    /// The text at `origin` cannot be read at all.
    pub(super) fn syntax(origin: Origin, why: &str) -> Self {
        Self { origin: Some(origin), text: why.trim().replace('\n', ", ") }
    }

    /// `key` has `value`, which is not what is `expected` there.
    pub(super) fn value(
        origin: &Origin,
        key: &str,
        value: &dyn fmt::Display,
        expected: &str,
    ) -> Self {
        Self { origin: Some(origin.clone()), text: format!("{key} = {value}: {expected}") }
    }

    /// `key` does not exist; `known` are those that do.
    pub(super) fn unknown_key(origin: &Origin, key: &str, last: &str, known: &[&str]) -> Self {
        let prefix = key.strip_suffix(last).unwrap_or_default();
        let near = by_distance(last, known).map_or("", |(_, near)| near);
        let text = format!(
            "{key}: unknown key; the nearest known key is {prefix}{near} (known: {})",
            known.join(", ")
        );
        Self { origin: Some(origin.clone()), text }
    }

    /// `key` is needed and absent.
    pub(super) fn missing(origin: &Origin, key: &str, expected: &str) -> Self {
        Self { origin: Some(origin.clone()), text: format!("{key}: missing; {expected}") }
    }

    /// `key` cannot be there at all.
    pub(super) fn refused(origin: &Origin, key: &str, why: &str) -> Self {
        Self { origin: Some(origin.clone()), text: format!("{key}: {why}") }
    }

    /// The file itself cannot be had.
    pub(super) fn unreadable(file: &str, error: &std::io::Error) -> Self {
        Self { origin: None, text: format!("{file}: cannot be read: {error}") }
    }
}

impl fmt::Display for Problem {
    /// Keys and settings may hold anything: control characters are shown escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default();
        for character in origin.chars().chain(self.text.chars()) {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

impl core::error::Error for Problem {}

/// The candidate that `word` was most likely meant to be, if any is near.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let (distance, known) = by_distance(word, candidates)?;
    let longest = word.chars().count().max(known.chars().count());
    (distance * 5 <= longest * 2).then_some(known)
}

fn by_distance<'a>(word: &str, candidates: &[&'a str]) -> Option<(usize, &'a str)> {
    let word = word.to_lowercase();
    candidates.iter().map(|known| (strsim::damerau_levenshtein(&word, known), *known)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["kind", "cores", "hugepages", "memory_mb"];
        assert_eq!(nearest("knd", &known), Some("kind"));
        assert_eq!(nearest("Kind", &known), Some("kind"));
        assert_eq!(nearest("huge_pages", &known), Some("hugepages"));
        assert_eq!(nearest("memory", &known), Some("memory_mb"));
        assert_eq!(nearest("listen", &known), None);
    }
}
