//! A configuration before it has meaning: tables, arrays and scalars, each with the place it was
//! written at, so that every later complaint can name file and line or the `--set` it came from.
//!
//! Invariant: a node that `--set` replaced or created carries that `--set` as its origin.

use super::problem::{Origin, Problem};
use core::fmt;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A scalar or container.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A TOML string.
    String(String),
    /// An integer that fits 64 bits.
    Integer(i64),
    /// A float, boolean or date: no key takes one, so only its text is kept.
    Other(String),
    /// An array, or an array of tables.
    Array(Vec<Node>),
    /// A table.
    Table(Table),
}

/// Keys of one table with the places they were written at.
pub(super) type Table = BTreeMap<String, Node>;

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Where the key (in arrays: the element) stands.
    pub(super) origin: Origin,
    /// What stands there.
    pub(super) value: Value,
}

impl fmt::Display for Value {
    /// As TOML would write it; of tables only that they are tables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Other(text) => f.write_str(text),
            Self::Array(elements) => {
                f.write_str("[")?;
                for (idx, element) in elements.iter().enumerate() {
                    let comma = if idx == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", element.value)?;
                }
                f.write_str("]")
            }
            Self::Table(_) => f.write_str("{...}"),
        }
    }
}

/// Line numbers of byte offsets in one file.
struct Lines<'a> {
    file: &'a str,
    /// Offsets just behind each line break.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(file: &'a str, text: &str) -> Self {
        Self { file, starts: text.match_indices('\n').map(|(at, _)| at + 1).collect() }
    }

    fn origin(&self, offset: usize) -> Origin {
        let line = 1 + self.starts.partition_point(|start| *start <= offset);
        Origin::File { file: self.file.to_owned(), line }
    }
}

/// Reads `text`, the contents of `file`, into a table.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, Problem> {
    let lines = Lines::new(file, text);
    match DeTable::parse(text) {
        Ok(table) => Ok(Node {
            origin: Origin::File { file: file.to_owned(), line: 1 },
            value: convert_table(table.get_ref(), &|offset| lines.origin(offset)),
        }),
        Err(error) => {
            let origin = lines.origin(error.span().map_or(0, |span| span.start));
            Err(Problem::syntax(origin, error.message()))
        }
    }
}

fn convert_table(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Value {
    let entries = table.iter().map(|(key, value)| {
        let node = Node { origin: origin(key.span().start), value: convert(value, origin) };
        (key.get_ref().to_string(), node)
    });
    Value::Table(entries.collect())
}

fn convert(value: &Spanned<DeValue<'_>>, origin: &dyn Fn(usize) -> Origin) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::Other(number.to_string()), Value::Integer),
        DeValue::Float(number) => Value::Other(number.to_string()),
        DeValue::Boolean(truth) => Value::Other(truth.to_string()),
        DeValue::Datetime(date) => Value::Other(date.to_string()),
        DeValue::Array(elements) => Value::Array(
            elements
                .iter()
                .map(|element| Node {
                    origin: origin(element.span().start),
                    value: convert(element, origin),
                })
                .collect(),
        ),
        DeValue::Table(table) => convert_table(table, origin),
    }
}

/// Overlays one `--set KEY=VALUE`. KEY is a dotted TOML key whose numeric parts index arrays; VALUE
/// is TOML, or text taken as a string when it is not.
pub(super) fn apply_set(root: &mut Node, setting: &str) -> Result<(), Problem> {
    let origin = Origin::Set(shown(setting));
    let (key, text) = split_setting(setting)
        .ok_or_else(|| Problem::syntax(origin.clone(), "expected KEY=VALUE"))?;
    let path = parse_key(key).ok_or_else(|| {
        Problem::syntax(origin.clone(), "KEY must be a dotted key such as port.0.mtu")
    })?;
    let value = parse_value(text, &origin)?;
    let mut node = root;
    let mut walked = String::new();
    for part in &path {
        node = descend(node, part, &origin).map_err(|why| {
            let at = if walked.is_empty() { part.clone() } else { format!("{walked}.{part}") };
            Problem::syntax(origin.clone(), &format!("{at}: {why}"))
        })?;
        if !walked.is_empty() {
            walked.push('.');
        }
        walked.push_str(part);
    }
    node.origin = origin;
    node.value = value;
    Ok(())
}

/// As complaints name it: without what a password is checked against, which may be the password itself by mistake.
fn shown(setting: &str) -> String {
    match split_setting(setting) {
        Some((key, _))
            if setting.contains("password_hash")
                || key.starts_with("user") && setting.contains("password") =>
        {
            format!("{key}=(hidden)")
        }
        _ => setting.to_owned(),
    }
}

/// Splits at the first `=` outside quotes.
fn split_setting(setting: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, character) in setting.char_indices() {
        match (quote, character) {
            (None, '=') => {
                let (key, rest) = setting.split_at_checked(at)?;
                return Some((key.trim(), rest.strip_prefix('=')?.trim()));
            }
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
    }
    None
}

/// The parts of a dotted key, read by the TOML parser itself so that quoted parts work.
fn parse_key(key: &str) -> Option<Vec<String>> {
    if key.contains('\n') {
        return None;
    }
    let document = format!("{key}=0");
    let table = DeTable::parse(&document).ok()?;
    let mut parts = Vec::new();
    let mut table = table.get_ref();
    loop {
        let (key, value) = table.iter().next()?;
        parts.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(parts),
        }
    }
}

fn parse_value(text: &str, origin: &Origin) -> Result<Value, Problem> {
    match DeValue::parse(text) {
        Ok(value) => Ok(convert(&value, &|_| origin.clone())),
        Err(error) if text.starts_with(['[', '{', '"', '\'']) => {
            Err(Problem::syntax(origin.clone(), error.message()))
        }
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

/// The child named `part`, made when it is missing.
fn descend<'a>(node: &'a mut Node, part: &str, origin: &Origin) -> Result<&'a mut Node, String> {
    let empty = || Node { origin: origin.clone(), value: Value::Table(Table::new()) };
    match &mut node.value {
        Value::Table(table) => Ok(table.entry(part.to_owned()).or_insert_with(empty)),
        Value::Array(elements) => {
            let count = elements.len();
            let idx = part
                .parse::<usize>()
                .ok()
                .filter(|idx| *idx <= count)
                .ok_or_else(|| format!("expected an index from 0 to {count} of this list"))?;
            if idx == count {
                elements.push(empty());
            }
            elements.get_mut(idx).ok_or_else(|| "no such element".to_owned())
        }
        scalar => Err(format!("{scalar} has no keys inside")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf<'a>(root: &'a Node, path: &[&str]) -> &'a Node {
        path.iter().fold(root, |node, part| match &node.value {
            Value::Table(table) => &table[*part],
            Value::Array(elements) => &elements[part.parse::<usize>().unwrap()],
            scalar => panic!("{scalar} has no {part}"),
        })
    }

    fn at(line: usize) -> Origin {
        Origin::File { file: "f".to_owned(), line }
    }

    #[test]
    fn every_node_knows_its_line() {
        let root = parse("f", "[a]\nb = 1\n\n[[c]]\nd = [\n 'x',\n 'y']\n[[c]]\n").unwrap();
        assert_eq!(leaf(&root, &["a", "b"]).origin, at(2));
        assert_eq!(leaf(&root, &["c", "0", "d"]).origin, at(5));
        assert_eq!(leaf(&root, &["c", "0", "d", "1"]).origin, at(7));
    }

    #[test]
    fn bad_toml_names_its_line() {
        let problem = parse("f", "[a]\nb = \n").unwrap_err();
        assert!(problem.to_string().starts_with("f:2: "), "{problem}");
    }

    #[test]
    fn set_replaces_creates_and_indexes() {
        let mut root = parse("f", "[driver]\nkind = 'dpdk'\n[[port]]\nmtu = 1500\n").unwrap();
        apply_set(&mut root, "driver.kind=tun").unwrap();
        apply_set(&mut root, "port.0.mtu = 1400").unwrap();
        apply_set(&mut root, "port.1.name=wifi").unwrap();
        apply_set(&mut root, "hosts.\"a=b.example\" = ['10.0.0.1']").unwrap();
        assert_eq!(leaf(&root, &["driver", "kind"]).value, Value::String("tun".to_owned()));
        assert_eq!(
            leaf(&root, &["driver", "kind"]).origin,
            Origin::Set("driver.kind=tun".to_owned())
        );
        assert_eq!(leaf(&root, &["port", "0", "mtu"]).value, Value::Integer(1400));
        assert_eq!(leaf(&root, &["port", "1", "name"]).value, Value::String("wifi".to_owned()));
        assert_eq!(
            leaf(&root, &["hosts", "a=b.example", "0"]).value,
            Value::String("10.0.0.1".to_owned())
        );
    }

    #[test]
    fn set_refuses_what_it_cannot_place() {
        let mut root = parse("f", "[log]\nlevel='info'\n[[port]]\nmtu = 1500\n").unwrap();
        let mut message = |setting| apply_set(&mut root, setting).unwrap_err().to_string();
        assert_eq!(message("nonsense"), "--set nonsense: expected KEY=VALUE");
        assert_eq!(
            message("port.5.mtu=1"),
            "--set port.5.mtu=1: port.5: expected an index from 0 to 1 of this list"
        );
        assert_eq!(
            message("log.level.x=1"),
            "--set log.level.x=1: log.level.x: \"info\" has no keys inside"
        );
        assert!(message("a b=1").contains("KEY must be a dotted key"));
        assert!(message("port.0.addresses=['10.0.0.1/24'").starts_with("--set port.0.addr"));
    }
}
